import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.search import nearest


@pytest.mark.parametrize("bits", [1, 3, 8, 12, 48, 64, 65, 130])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_nearest_by_distance_then_position(bits, k):
    rng = np.random.default_rng(bits)
    query, database = rng.random((70, bits)) < 0.2, rng.random((200, bits)) < 0.2
    distances, positions = nearest(pack(query), pack(database), bits, k)
    assert distances.dtype == positions.dtype == np.int64
    for q in range(70):
        all_distances = (query[q] != database).sum(axis=1)
        order = sorted(range(200), key=lambda n: (all_distances[n], n))[:k]
        assert positions[q].tolist() == order
        assert distances[q].tolist() == all_distances[order].tolist()


def test_equal_codes_come_in_database_order_whatever_its_size():
    codes = pack(np.ones((20_000, 16), dtype=bool))
    distances, positions = nearest(codes[:40], codes, 16, 500)
    assert (distances == 0).all()
    assert (positions == np.arange(500)).all()


def test_no_query_and_too_many_neighbours():
    codes = pack(np.ones((3, 16), dtype=bool))
    assert nearest(codes[:0], codes, 16, 2)[1].shape == (0, 2)
    for k in (0, 4):
        with pytest.raises(ValueError, match="the database holds 3 codes"):
            nearest(codes, codes, 16, k)
    with pytest.raises(ValueError, match="query_codes"):
        nearest(pack(np.ones((3, 65), dtype=bool)), codes, 16, 1)

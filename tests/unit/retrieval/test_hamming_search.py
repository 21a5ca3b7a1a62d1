import faiss
import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.search import nearest_codes


@pytest.mark.parametrize("bits", [1, 3, 8, 12, 48, 64, 65, 130])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_nearest_by_distance_then_position(bits, k):
    rng = np.random.default_rng(bits)
    query, database = rng.random((70, bits)) < 0.2, rng.random((200, bits)) < 0.2
    distances, positions = nearest_codes(pack(query), pack(database), bits, k)
    assert distances.dtype == positions.dtype == np.int64
    for q in range(70):
        all_distances = (query[q] != database).sum(axis=1)
        order = sorted(range(200), key=lambda n: (all_distances[n], n))[:k]
        assert positions[q].tolist() == order
        assert distances[q].tolist() == all_distances[order].tolist()


def test_equal_codes_come_in_database_order_whatever_its_size():
    codes = pack(np.ones((20_000, 16), dtype=bool))
    distances, positions = nearest_codes(codes[:40], codes, 16, 500)
    assert (distances == 0).all()
    assert (positions == np.arange(500)).all()


def test_no_query_and_too_many_neighbours():
    codes = pack(np.ones((3, 16), dtype=bool))
    assert nearest_codes(codes[:0], codes, 16, 2)[1].shape == (0, 2)
    for k in (0, 4):
        with pytest.raises(ValueError, match="the database holds 3 codes"):
            nearest_codes(codes, codes, 16, k)
    with pytest.raises(ValueError, match="query_codes"):
        nearest_codes(pack(np.ones((3, 65), dtype=bool)), codes, 16, 1)


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_the_number_of_threads_is_given_back_and_changes_nothing(threads, monkeypatch):
    used = []
    search = faiss.IndexBinaryFlat.search
    monkeypatch.setattr(
        faiss.IndexBinaryFlat, "search", lambda *given: (used.append(faiss.omp_get_max_threads()), search(*given))[1]
    )
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        codes = pack(np.random.default_rng(0).random((50, 16)) < 0.5)
        _, positions = nearest_codes(codes[:2], codes, 16, 5, threads)
        assert used == [2 if threads is None else threads]
        assert faiss.omp_get_max_threads() == 3
        assert (positions == nearest_codes(codes, codes, 16, 5)[1][:2]).all()
    finally:
        faiss.omp_set_num_threads(before)


def test_a_search_takes_a_thread():
    codes = pack(np.ones((3, 16), dtype=bool))
    with pytest.raises(ValueError, match="threads=0"):
        nearest_codes(codes, codes, 16, 1, 0)

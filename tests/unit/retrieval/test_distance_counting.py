import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.counting import MAX_BITS, DistanceCounts, count_distances
from retrieval.kernels import BLOCK

DEVICES = (None, "cpu")


def slow_counts(query_bits, database_bits, related):
    """Compare bit by bit and pair by pair."""
    bits = query_bits.shape[1]
    every = np.zeros((len(query_bits), bits + 1), dtype=np.int64)
    relevant = np.zeros_like(every)
    for q, own in enumerate(query_bits):
        for n, other in enumerate(database_bits):
            distance = int(np.count_nonzero(own != other))
            every[q, distance] += 1
            relevant[q, distance] += bool(related(q, n))
    return every, relevant


def random_codes(rng, rows, bits):
    return rng.random((rows, bits)) < 0.4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [1, 5, 48, 64, 65, 130, 300])
def test_single_labels(bits, device):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 9, bits), random_codes(rng, 57, bits)
    query_labels, database_labels = rng.integers(-3, 5, 9), rng.integers(-3, 4, 57)
    counts = count_distances(pack(query), pack(database), bits, query_labels, database_labels, device)
    every, relevant = slow_counts(query, database, lambda q, n: query_labels[q] == database_labels[n])
    np.testing.assert_array_equal(counts.all, every)
    np.testing.assert_array_equal(counts.relevant, relevant)
    assert (counts.num_queries, counts.bits, counts.database_size) == (9, bits, 57)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [1, 3, 64, 65, 200])
def test_multi_hot_labels(classes, device):
    rng = np.random.default_rng(classes)
    query, database = random_codes(rng, 8, 20), random_codes(rng, 61, 20)
    query_labels = (rng.random((8, classes)) < 1.5 / classes).astype(np.float32)
    database_labels = (rng.random((61, classes)) < 1.5 / classes).astype(np.float32)
    counts = count_distances(pack(query), pack(database), 20, query_labels, database_labels, device)
    shared = [[set(np.flatnonzero(q)) & set(np.flatnonzero(d)) for d in database_labels] for q in query_labels]
    every, relevant = slow_counts(query, database, lambda q, n: shared[q][n])
    np.testing.assert_array_equal(counts.all, every)
    np.testing.assert_array_equal(counts.relevant, relevant)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_ways_agree_across_block_borders(size, multi_label):
    rng = np.random.default_rng(size)
    query, database = pack(random_codes(rng, 70, 33)), pack(random_codes(rng, size, 33))
    query_labels, database_labels = rng.integers(0, 3, 70), rng.integers(0, 3, size)
    if multi_label:
        query_labels, database_labels = np.eye(3)[query_labels], np.eye(3)[database_labels]
    compiled = count_distances(query, database, 33, query_labels, database_labels)
    product = count_distances(query, database, 33, query_labels, database_labels, "cpu")
    assert (compiled.all.sum(axis=1) == size).all()
    np.testing.assert_array_equal(compiled.all, product.all)
    np.testing.assert_array_equal(compiled.relevant, product.relevant)


def test_device_blocks_cover_more_items_than_one_block():
    rng = np.random.default_rng(0)
    query, database = pack(random_codes(rng, 300, 16)), pack(random_codes(rng, 20_000, 16))
    labels = rng.integers(0, 4, 300), rng.integers(0, 4, 20_000)
    compiled, product = (count_distances(query, database, 16, *labels, device) for device in DEVICES)
    np.testing.assert_array_equal(compiled.all, product.all)
    np.testing.assert_array_equal(compiled.relevant, product.relevant)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("label_shape", [(), (3,)])
def test_empty_parts_count_nothing(label_shape, device):
    codes, none = pack(np.ones((2, 4), dtype=bool)), pack(np.ones((0, 4), dtype=bool))
    labels, no_labels = np.ones((2, *label_shape), dtype=np.int64), np.ones((0, *label_shape), dtype=np.int64)
    counts = count_distances(codes, none, 4, labels, no_labels, device)
    assert counts.all.shape == (2, 5)
    assert counts.all.sum() == 0
    counts = count_distances(none, codes, 4, no_labels, labels, device)
    assert counts.all.shape == (0, 5)
    assert counts.database_size == 0


def test_the_longest_codes_do_not_overflow():
    bits = MAX_BITS
    query, database = np.zeros((1, bits), dtype=bool), np.ones((3, bits), dtype=bool)
    labels = np.ones((1, 2)), np.ones((3, 2))
    for device in DEVICES:
        counts = count_distances(pack(query), pack(database), bits, *labels, device)
        assert counts.relevant[0, bits] == counts.all[0, bits] == 3
    with pytest.raises(ValueError, match="at most"):
        count_distances(pack(query), pack(database), bits + 1, *labels)


def test_what_does_not_go_together_is_refused():
    codes = pack(np.ones((2, 4), dtype=bool))
    single, multi = np.array([0, 1]), np.eye(2)
    with pytest.raises(ValueError, match="one label per code"):
        count_distances(codes, codes, 4, single, single[:1])
    with pytest.raises(ValueError, match="together"):
        count_distances(codes, codes, 4, single, multi)
    with pytest.raises(ValueError, match="together"):
        count_distances(codes, codes, 4, np.eye(2), np.ones((2, 3)))
    with pytest.raises(TypeError, match="integers"):
        count_distances(codes, codes, 4, single.astype(float), single)
    with pytest.raises(ValueError, match="choices"):
        count_distances(codes, codes, 4, np.ones((2, 2, 2)), single)
    with pytest.raises(ValueError, match="query_codes"):
        count_distances(pack(np.ones((2, 65), dtype=bool)), codes, 4, single, single)


def test_counts_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="between 0"):
        DistanceCounts(np.array([[1, 0]]), np.array([[2, 0]]))
    with pytest.raises(ValueError, match="both"):
        DistanceCounts(np.array([[1, 0]]), np.array([[1]]))

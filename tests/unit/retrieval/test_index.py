"""An index of codes: exact where it says so, the same after it was saved, and refused where it does not fit."""

import json
import shutil

import numpy as np
import pytest

from retrieval import index as module
from retrieval.codes import pack
from retrieval.index import CodeIndex, IndexSettings, UnfitIndexError, differences, open_index

BITS = 20
KINDS = ("flat", "ivf", "hnsw")


def random_bits(size, seed=0):
    return np.random.default_rng(seed).random((size, BITS)) > 0.5


def built(bits, kind="flat", **settings):
    names = tuple(f"photo {place}.jpg" for place in range(len(bits)))
    return CodeIndex(names, pack(bits), BITS, {"weights": "a"}, IndexSettings(kind, **settings))


def by_hand(query, database, k):
    """Return the k nearest by sorting (distance, position) pairs."""
    found = []
    for row in query:
        pairs = sorted((sum(a != b for a, b in zip(row, other, strict=True)), n) for n, other in enumerate(database))
        found.append(pairs[:k])
    return np.array([[d for d, _ in row] for row in found]), np.array([[n for _, n in row] for row in found])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("flat", {}), ("ivf", {"lists": 8, "probes": 8}), ("hnsw", {"breadth": 300})],
)
def test_a_search_that_looks_everywhere_is_the_one_by_hand(kind, settings):
    database, query = random_bits(300), random_bits(7, seed=1)
    distances, positions = built(database, kind, **settings).search(pack(query), 10)
    expected_distances, expected_positions = by_hand(query, database, 10)
    np.testing.assert_array_equal(distances, expected_distances)
    if kind == "flat":
        np.testing.assert_array_equal(positions, expected_positions)
    assert all(len(set(row.tolist())) == 10 for row in positions)


def test_distances_are_those_of_the_positions_and_never_fall():
    database, query = random_bits(400), random_bits(5, seed=2)
    for kind in KINDS:
        distances, positions = built(database, kind).search(pack(query), 20)
        for row in range(5):
            np.testing.assert_array_equal(distances[row], (database[positions[row]] != query[row]).sum(1))
        assert (np.diff(distances, axis=1) >= 0).all()
        ties = np.diff(distances, axis=1) == 0
        assert (np.diff(positions, axis=1)[ties] > 0).all()


def test_cells_that_hold_too_little_leave_the_end_of_the_row_empty():
    distances, positions = built(random_bits(300), "ivf", lists=7, probes=1).search(pack(random_bits(2)), 300)
    for row in range(2):
        found = int((positions[row] >= 0).sum())
        assert 0 < found < 300
        assert (positions[row, :found] >= 0).all()
        assert (distances[row, found:] == -1).all()
        assert (distances[row, :found] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_adding_and_removing_are_those_of_the_codes(kind, tmp_path):
    first, more = random_bits(200), random_bits(30, seed=3)
    settings = {"lists": 4, "probes": 4} if kind == "ivf" else {}
    index = built(first, kind, **settings)
    grown = index.with_added([f"new {place}" for place in range(30)], pack(more))
    assert len(index) == 200
    assert len(grown) == 230
    _, positions = grown.search(pack(more), 1)
    np.testing.assert_array_equal(grown.codes[positions[:, 0]], pack(more))
    gone = [f"photo {place}.jpg" for place in range(0, 200, 2)] + ["new 0"]
    smaller = grown.without(gone)
    kept = np.concatenate([first[1::2], more[1:]])
    np.testing.assert_array_equal(smaller.codes, pack(kept))
    assert smaller.names[100:102] == ("new 1", "new 2")
    distances, _ = smaller.search(pack(random_bits(6, seed=4)), 5)
    np.testing.assert_array_equal(distances, by_hand(random_bits(6, seed=4), kept, 5)[0])
    smaller.save(tmp_path)
    opened = open_index(tmp_path)
    assert opened.names == smaller.names
    assert opened.settings == smaller.settings
    assert opened.identity == {"weights": "a"}
    np.testing.assert_array_equal(opened.search(pack(more), 7), smaller.search(pack(more), 7))


def test_other_settings_of_the_search_alone_build_nothing():
    database, query = random_bits(300), pack(random_bits(20, seed=5))
    index = built(database, "ivf", lists=7, probes=1)
    wider = index.with_settings(IndexSettings("ivf", lists=7, probes=7))
    assert wider.searcher is index.searcher
    exact = index.with_settings(IndexSettings("flat"))
    assert exact.searcher is not index.searcher
    np.testing.assert_array_equal(wider.search(query, 5)[0], exact.search(query, 5)[0])
    assert (index.search(query, 5)[0] != exact.search(query, 5)[0]).any()


def test_a_wrong_change_is_refused():
    index = built(random_bits(5))
    with pytest.raises(ValueError, match=r"1 images are in the index already.*photo 3"):
        index.with_added(["photo 3.jpg"], pack(random_bits(1)))
    with pytest.raises(ValueError, match="twice"):
        index.with_added(["a", "a"], pack(random_bits(2)))
    with pytest.raises(ValueError, match=r"not in the index.*'x'"):
        index.without(["x"])
    with pytest.raises(ValueError, match="one code at least"):
        index.without(index.names)
    with pytest.raises(ValueError, match="line break"):
        index.with_added(["a\nb"], pack(random_bits(1)))
    with pytest.raises(ValueError, match="k=6"):
        index.search(pack(random_bits(1)), 6)


def test_a_kill_between_the_files_leaves_the_old_index(tmp_path, monkeypatch):
    index = built(random_bits(20))
    index.save(tmp_path)

    def killed(file, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_replace", killed)
        with pytest.raises(KeyboardInterrupt):
            index.without(["photo 0.jpg"]).save(tmp_path)
    assert len(open_index(tmp_path)) == 20
    index.without(["photo 0.jpg"]).save(tmp_path)
    assert len(open_index(tmp_path)) == 19
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "index.json"]


@pytest.mark.parametrize("name", module.FILES)
def test_damage_is_seen(name, tmp_path):
    built(random_bits(20)).save(tmp_path)
    file = tmp_path / "000001" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UnfitIndexError, match=f"{name} is damaged"):
        open_index(tmp_path)
    file.unlink()
    with pytest.raises(UnfitIndexError, match=f"{name} cannot be read"):
        open_index(tmp_path)


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(UnfitIndexError, match="holds no index"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UnfitIndexError, match="damaged"):
        open_index(tmp_path)
    shutil.rmtree(tmp_path)
    built(random_bits(20)).save(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, "version": 2}))
    with pytest.raises(UnfitIndexError, match="version 1"):
        open_index(tmp_path)


def test_identities_are_told_apart_by_name():
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert differences({"a": "1"}, {"a": "1"}) == []


@pytest.mark.parametrize("values", [{"kind": "tree"}, {"probes": 0}, {"lists": 0}, {"links": 1}, {"breadth": 0}])
def test_settings_out_of_range(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        IndexSettings(**values)


def test_cells_have_enough_codes():
    assert IndexSettings("ivf").cells(1_000_000) == 1000
    assert IndexSettings("ivf").cells(390) == 10
    assert IndexSettings("ivf").cells(5) == 1
    assert IndexSettings("ivf", lists=50).cells(20) == 20

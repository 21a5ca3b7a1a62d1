from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.retrieval_pictures import (
    RetrievalPictures,
    choose_queries,
    label_text,
    share_a_label,
    write_codes,
)
from lit_modules.metrics.hamming import HammingRetrieval


def evaluated(multi_label=False, queries=12, database=30, bits=70):
    random = torch.Generator().manual_seed(0)
    metric = HammingRetrieval(bits=bits)
    for part, count in (("query", queries), ("database", database)):
        labels = torch.randint(0, 3, (count,), generator=random)
        if multi_label:
            labels = (torch.rand(count, 5, generator=random) > 0.6).float()
        values = torch.randn(count, bits, generator=random)
        metric.update(values, labels, torch.arange(count).flip(0), part)
    return metric.compute()


class Data:
    class_names = ("cat", "dog", "emu", "fox", "gnu")

    def __init__(self):
        self.asked = []

    def pictures(self, split, positions):
        self.asked.append((split, positions.clone()))
        shade = positions.to(torch.uint8)[:, None, None, None]
        return shade.expand(-1, 3, 6, 5).contiguous()


def run_at(trainer_zero, data):
    return SimpleNamespace(loggers=[], global_step=0, is_global_zero=trainer_zero, datamodule=data)


@pytest.mark.parametrize("multi_label", [False, True])
def test_three_files(tmp_path, multi_label):
    result = evaluated(multi_label)
    data = Data()
    RetrievalPictures(str(tmp_path), seed=1, queries=2).on_test_end(
        run_at(True, data), SimpleNamespace(retrieval_result=result)
    )
    for name in ("pr_curve", "gallery", "bits"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert image.info["Description"]
    assert [split for split, _ in data.asked] == ["query", "database"]
    assert torch.equal(data.asked[0][1], torch.from_numpy(result.query.index[choose_queries(12, 2, 1)]))
    assert (tmp_path / "codes" / "codes.npz").is_file()


def test_gallery_shows_the_nearest_and_what_they_are(tmp_path, monkeypatch):
    result, drawn = evaluated(), []

    def keep(*arguments):
        drawn.append(arguments)
        return SimpleNamespace(save=lambda path: None)

    monkeypatch.setattr("callbacks.retrieval_pictures.gallery_picture", keep)
    RetrievalPictures(str(tmp_path), seed=4).on_test_end(run_at(True, Data()), SimpleNamespace(retrieval_result=result))
    ((queries, neighbours, hit, distances, titles),) = drawn
    for row, query in enumerate(choose_queries(12, 8, 4)):
        by_hand = [
            sum(int(a ^ b).bit_count() for a, b in zip(result.query.codes[query], code, strict=True))
            for code in result.database.codes
        ]
        order = sorted(range(30), key=lambda item: (by_hand[item], item))[:8]
        assert distances[row].tolist() == [by_hand[item] for item in order]
        assert neighbours[row, :, 0, 0, 0].tolist() == [result.database.index[item] for item in order]
        assert hit[row].tolist() == [bool(result.database.labels[item] == result.query.labels[query]) for item in order]
        assert queries[row, 0, 0, 0] == result.query.index[query]
        assert titles[row] == Data.class_names[result.query.labels[query]]


def test_codes_are_read_without_pickle(tmp_path):
    result = evaluated(multi_label=True)
    write_codes(tmp_path / "codes.npz", result)
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as stored:
        assert int(stored["bits"]) == 70
        assert np.array_equal(stored["query_codes"], result.query.codes)
        assert np.array_equal(stored["database_labels"], result.database.labels)
        assert stored["database_labels"].dtype == bool
        assert np.array_equal(stored["database_index"], result.database.index)


def test_small_data(tmp_path):
    result = evaluated(queries=2, database=3)
    RetrievalPictures(str(tmp_path)).on_test_end(run_at(True, Data()), SimpleNamespace(retrieval_result=result))
    assert (tmp_path / "plots" / "gallery.png").is_file()


@pytest.mark.parametrize(("zero", "result"), [(False, "any"), (True, None)])
def test_nothing_on_other_ranks_and_without_a_result(tmp_path, zero, result):
    RetrievalPictures(str(tmp_path)).on_test_end(run_at(zero, Data()), SimpleNamespace(retrieval_result=result))
    assert list(tmp_path.iterdir()) == []


def test_queries_are_a_function_of_the_seed():
    first = choose_queries(1000, 8, 5)
    assert np.array_equal(first, choose_queries(1000, 8, 5))
    assert not np.array_equal(first, choose_queries(1000, 8, 6))
    assert len(set(first.tolist())) == 8
    assert choose_queries(3, 8, 0).tolist() == [0, 1, 2]


def test_sharing_a_label():
    assert share_a_label(np.array([1, 2]), np.array([[1, 2], [2, 0]])).tolist() == [
        [True, False],
        [True, False],
    ]
    multi_hot = np.array([[True, True, False]])
    neighbours = np.array([[[False, True, True], [False, False, True], [False, False, False]]])
    assert share_a_label(multi_hot, neighbours).tolist() == [[True, False, False]]


def test_names_of_labels():
    assert label_text(np.int64(2), Data.class_names) == "emu"
    assert label_text(np.array([True, False, False, True, False]), Data.class_names) == "cat, fox"
    assert label_text(np.zeros(5, bool), Data.class_names) == "no label"

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from datamodules.digits import Digits


def test_sizes_and_strata_are_those_of_the_docstring() -> None:
    digits = Digits(image_size=32, seed=0, val_fraction=0.1)
    assert digits.sizes == {
        "train": 1294,
        "val_query": 144,
        "val_database": 1294,
        "query": 359,
        "database": 1438,
    }
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    whole = np.bincount(load_digits().target)
    queries = torch.bincount(digits.labels("query")).numpy()
    assert abs(queries - 0.2 * whole).max() < 1
    for split in ("query", "database"):
        assert 0 not in torch.bincount(digits.labels(split))


def test_queries_are_outside_the_database_and_the_training_part() -> None:
    digits = Digits(image_size=None, seed=0, val_fraction=0.1)
    query = set(digits.positions("query").tolist())
    database = set(digits.positions("database").tolist())
    assert not query & database
    assert query | database == set(range(1797))
    assert set(digits.positions("train").tolist()) | set(digits.positions("val_query").tolist()) == database


def test_grey_values_are_spread_over_a_byte_in_three_equal_channels() -> None:
    digits = Digits(image_size=None, seed=0)
    pictures = digits.pictures("query", torch.arange(359))
    assert pictures.shape == (359, 3, 8, 8)
    grey = load_digits().images[digits.positions("query").numpy()]
    assert abs(pictures[:, 0].numpy() / 255 - grey / 16).max() <= 0.5 / 255
    assert pictures.max() == 255
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    assert torch.equal(pictures[:, 0], pictures[:, 2])


def test_the_split_follows_its_seed_and_the_size_the_model() -> None:
    fingerprints = {Digits(image_size=8, seed=0, split_seed=seed).fingerprint for seed in (0, 1, 0)}
    assert len(fingerprints) == 2
    batch = next(iter(Digits(image_size=32, seed=0, batch_size=64, augment={"crop_padding": 2}).train_dataloader()))
    assert batch["image"].shape == (64, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8

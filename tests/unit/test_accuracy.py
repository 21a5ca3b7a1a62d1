"""Accuracy counts in integers."""

import pytest
import torch

from lit_modules.metrics.accuracy import Accuracy


def test_equals_counting_one_by_one():
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(101, 7, generator=generator), torch.randint(7, (101,), generator=generator)
    metric = Accuracy()
    for rows in torch.arange(101).split(10):
        metric.update(logits[rows], label[rows])
    right = sum(max(range(7), key=row.__getitem__) == y for row, y in zip(logits.tolist(), label.tolist(), strict=True))
    assert metric.compute().item() == right / 101


def test_nothing_is_not_a_number():
    with pytest.warns(UserWarning, match="compute"):
        assert torch.isnan(Accuracy().compute())

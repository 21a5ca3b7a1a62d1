"""Matching of cosines against a loop over pairs, the running mean against the mean of everything."""

import pytest
import torch
from plain_numbers import assert_value_and_gradient, cosine

from lit_modules.hashing.cosine_matching import RunningMean, cosine_matching


def slow_matching(code, features):
    half = len(code) // 2
    pairs = [(i, i + half) for i in range(half)]
    return sum((cosine(code[i], code[j]) - cosine(features[i], features[j])) ** 2 for i, j in pairs) / half


@pytest.mark.parametrize("rows", [2, 6, 7])
def test_value_and_gradient_equal_the_slow_loop(rows):
    generator = torch.Generator().manual_seed(rows)
    code = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    features = torch.randn(rows, 9, dtype=torch.float64, generator=generator)
    assert_value_and_gradient(
        lambda x: cosine_matching(x, features), lambda x: slow_matching(x, features.tolist()), code
    )


def test_features_get_no_gradient():
    features = torch.randn(4, 3, requires_grad=True)
    cosine_matching(torch.randn(4, 2, requires_grad=True), features).backward()
    assert features.grad is None


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match=r"data\.batch_size must be at least 2"):
        cosine_matching(torch.ones(1, 2), torch.ones(1, 2))


def test_the_running_mean_is_the_mean_of_all_rows_so_far():
    rows = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centre = RunningMean(3).double()
    centre(rows[:7])
    centred = centre(rows[7:])
    torch.testing.assert_close(centre.mean, rows.mean(dim=0))
    torch.testing.assert_close(centred, rows[7:] - rows.mean(dim=0))

"""Tip-Adapter against loops over keys and over the grid."""

import math

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot.tip_adapter import TipAdapter, grid
from records.errors import UserError
from records.notices import RunWarning

GRID = {"alpha_range": [0.5, 8.0], "beta_range": [0.5, 12.0], "alpha_steps": 5, "beta_steps": 4}


def slow_logits(one, image, alpha, beta, with_text=True):
    logits = [100 * dot(image, t) if with_text else 0.0 for t in one.text.tolist()]
    for key, label in zip(one.support.tolist(), one.labels.tolist(), strict=True):
        logits[label] += alpha * math.exp(-beta * (1 - dot(image, key)))
    return logits


@pytest.mark.parametrize("with_text", [True, False])
def test_logits_equal_the_slow_loop(with_text):
    one = problem()
    head = one.fit(TipAdapter(alpha=2.5, beta=7.0, search=False), text=one.text if with_text else None)
    logits = head.predict(one.test)
    for i in (0, 40, 159):
        expected = slow_logits(one, one.test[i].tolist(), 2.5, 7.0, with_text)
        assert logits[i].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spacing", ["log", "linear"])
def test_the_search_takes_the_first_best_of_the_grid_betas_outermost(spacing):
    one = problem(shots=2, spread=0.45)
    head = one.fit(TipAdapter(**GRID, spacing=spacing))
    best, chosen = -1.0, None
    for beta in head.betas.tolist():
        for alpha in head.alphas.tolist():
            right = 0
            for image, label in zip(one.validation.tolist(), one.validation_labels.tolist(), strict=True):
                logits = slow_logits(one, image, alpha, beta)
                right += max(range(8), key=logits.__getitem__) == label
            if right / len(one.validation) > best:
                best, chosen = right / len(one.validation), (alpha, beta)
    assert (head.facts["alpha"], head.facts["beta"]) == pytest.approx(chosen)
    assert head.facts["validation_accuracy"] == best


def test_the_grids():
    assert grid(0.1, 7.1, 7, "linear").tolist() == pytest.approx([0.1, 1.1, 2.1, 3.1, 4.1, 5.1, 6.1])
    assert grid(0.1, 10.0, 3, "log").tolist() == pytest.approx([0.1, 1.0, 10.0])


def test_keys_are_the_means_of_views():
    one = problem(views=3)
    mean = one.support.mean(dim=1)
    keys = one.fit(TipAdapter(search=False)).state["keys"]
    torch.testing.assert_close(keys, mean / mean.norm(dim=1, keepdim=True))


def test_without_validation_the_given_settings_are_taken_and_the_run_warns():
    with pytest.warns(RunWarning, match=r"task.alpha=1.17 and task.beta=1.0 it is"):
        head = problem().fit(TipAdapter(), validation=None)
    assert head.facts == {"alpha": 1.17, "beta": 1.0}


def test_a_range_that_is_none_is_refused():
    with pytest.raises(UserError, match="beta_range"):
        TipAdapter(beta_range=[5.0, 1.0])


def test_a_stack_of_problems():
    check_stack(lambda: TipAdapter(**GRID))

"""The linear probe against gradient conditions of its optimum, and its search."""

import pytest
import torch
from problems import check_stack, problem

from lit_modules.fewshot.linear_probe import COARSE, LinearProbe
from records.errors import UserError
from records.notices import RunWarning


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_solution_is_the_optimum_of_the_penalised_likelihood(strength):
    one = problem()
    head = one.fit(LinearProbe(C=strength, max_iterations=10000))
    weight = head.state["weight"].requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        one.support @ weight.T + head.state["bias"], one.labels, reduction="sum"
    ) + weight.square().sum() / (2 * strength)
    loss.backward()
    assert weight.grad.abs().max() < 5e-3


def test_two_classes_give_two_rows_of_logits():
    one = problem(classes=2)
    head = one.fit(LinearProbe(C=10.0))
    assert head.predict(one.test).shape == (40, 2)
    assert one.accuracy(head) > 0.8


def test_the_search_finds_at_least_the_best_of_the_coarse_grid():
    one = problem(spread=0.6)
    coarse = []
    for strength in COARSE:
        head = one.fit(LinearProbe(C=strength))
        right = head.predict(one.validation).argmax(dim=1) == one.validation_labels
        coarse.append(right.double().mean().item())
    chosen = one.fit(LinearProbe())
    assert chosen.facts["validation_accuracy"] >= max(coarse)
    right = chosen.predict(one.validation).argmax(dim=1) == one.validation_labels
    assert right.double().mean().item() == pytest.approx(chosen.facts["validation_accuracy"])


def test_without_validation_the_default_is_taken_and_the_run_warns():
    with pytest.warns(RunWarning, match="task.default_C=1.0 it is"):
        head = problem().fit(LinearProbe(), validation=None)
    assert head.facts == {"C": 1.0}


def test_a_class_without_support_is_refused():
    one = problem()
    with pytest.raises(UserError, match="no support image"):
        one.fit(LinearProbe(), support=one.support[4:], labels=one.labels[4:])


def test_a_stack_of_problems():
    check_stack(lambda: LinearProbe(C=1.0))

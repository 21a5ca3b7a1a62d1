"""GDA against matrices written out one entry at a time."""

import math

import numpy as np
import pytest
import torch
from problems import check_stack, problem

from lit_modules.fewshot.gda import GDA, precision_matrix
from lit_modules.fewshot.zeroshot import ZeroShot
from records.errors import UserError
from records.notices import RunWarning


def slow_discriminant(features, labels, classes):
    """Return weights and biases from loops over entries and numpy's pseudo-inverse."""
    size, width = features.shape
    means = np.zeros((classes, width))
    for c in range(classes):
        means[c] = np.mean([x for x, y in zip(features, labels, strict=True) if y == c], axis=0)
    centred = np.array([x - means[y] for x, y in zip(features, labels, strict=True)])
    covariance = np.zeros((width, width))
    for a in range(width):
        for b in range(width):
            covariance[a, b] = sum(row[a] * row[b] for row in centred) / (size - 1)
    inverse = width * np.linalg.pinv((size - 1) * covariance + np.trace(covariance) * np.eye(width))
    weights = means @ inverse
    return weights, np.array([math.log(1 / classes) - 0.5 * mean @ inverse @ mean for mean in means])


@pytest.mark.parametrize("views", [1, 3])
def test_the_discriminant_equals_the_slow_one_with_every_view_a_sample(views):
    one = problem(views=views)
    head = one.fit(GDA())
    samples = one.support.reshape(-1, 24).numpy()
    labels = one.labels.repeat_interleave(views).tolist()
    weight, bias = slow_discriminant(samples, labels, 8)
    np.testing.assert_allclose(head.state["weight"].numpy(), weight, rtol=1e-8)
    np.testing.assert_allclose(head.state["bias"].numpy(), bias, rtol=1e-8)


def test_alpha_is_the_first_best_on_validation():
    one = problem(shots=2, spread=0.4)
    accuracies = {}
    for alpha in GDA().alphas:
        head = one.fit(GDA(alpha=alpha, alphas=[]))
        right = head.predict(one.validation).argmax(dim=1) == one.validation_labels
        accuracies[alpha] = right.double().mean().item()
    chosen = one.fit(GDA())
    assert chosen.facts["alpha"] == max(accuracies, key=accuracies.__getitem__)
    assert chosen.facts["validation_accuracy"] == max(accuracies.values())


def test_it_gains_over_zero_shot_and_works_on_images_alone():
    one = problem(text_error=0.6)
    assert one.accuracy(one.fit(GDA())) > one.accuracy(one.fit(ZeroShot())) + 0.05
    assert one.accuracy(one.fit(GDA(), text=None)) > 0.7


def test_one_shot_and_one_view_leave_zero_shot_and_warn():
    one = problem(shots=1)
    with pytest.warns(RunWarning, match="zero-shot classifier is left"):
        head = one.fit(GDA())
    assert not head.state["weight"].any()
    torch.testing.assert_close(head.predict(one.test).argmax(1), (one.test @ one.text.T).argmax(1))
    with pytest.raises(UserError, match="discriminant is zero"):
        one.fit(GDA(), text=None)


def test_features_that_do_not_vary_have_the_pseudo_inverse_zero():
    assert not precision_matrix(torch.zeros(5, 3)).any()


def test_a_class_without_support_is_refused():
    one = problem()
    with pytest.raises(UserError, match="no support image"):
        one.fit(GDA(), support=one.support[4:], labels=one.labels[4:])


def test_a_stack_of_problems():
    check_stack(GDA)

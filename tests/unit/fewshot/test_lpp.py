"""LP++ against a training loop with autograd and torch's SGD, step sizes against their definitions."""

import numpy as np
import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot.episode import Labelled
from lit_modules.fewshot.lpp import LPP, Probe, alpha_step, gradients, initial_alpha, weight_step


def slow_training(one, epochs, learned=True, accumulated=False):
    """Return the blended weights and biases after every epoch, and alpha: the published loop with autograd."""
    features, labels, text = one.support, one.labels, one.text
    size, classes = len(labels), len(text)
    largest = max(np.linalg.eigvalsh((features.T @ features).numpy()))
    squares = [sum(dot(f, t) ** 2 for f in features.tolist()) for t in text.tolist()]
    by_class = [
        np.mean([dot(f, t) for f, y in zip(features.tolist(), labels.tolist(), strict=True) if y == c])
        for c, t in enumerate(text.tolist())
    ]
    weight = torch.stack([features[labels == c].sum(dim=0) for c in range(classes)]).requires_grad_()
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    alpha = torch.full((classes,), 250 * float(np.mean(by_class)), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=4 * size / largest, momentum=0.9)
    history = []
    for epoch in range(epochs):
        logits = features @ weight.T + alpha * (features @ text.T) + bias
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        if not accumulated:
            alpha.grad = None
        loss.backward()
        optimizer.step()
        if learned and (epoch + 1) % 10 == 0:
            alpha.data -= size / (4 * max(squares)) * alpha.grad
        history.append(((weight + alpha[:, None] * text).detach().clone(), bias.detach().clone()))
    return history, alpha.detach()


@pytest.mark.parametrize(
    "settings", [{}, {"alpha": "fixed"}, {"alpha_gradient": "accumulated"}], ids=["fresh", "fixed", "accumulated"]
)
def test_training_equals_the_published_loop(settings):
    one = problem(spread=0.5)
    head = one.fit(LPP(epochs=25, selection="last", **settings))
    history, alpha = slow_training(
        one, 25, settings.get("alpha") != "fixed", settings.get("alpha_gradient") == "accumulated"
    )
    torch.testing.assert_close(head.state["weight"], history[-1][0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(head.state["bias"], history[-1][1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(head.state["class_alpha"], alpha, rtol=1e-9, atol=0)


def test_the_accumulated_gradient_is_another_method():
    one = problem(spread=0.5)
    fresh, accumulated = (
        one.fit(LPP(epochs=30, alpha_gradient=kind)).state["class_alpha"] for kind in ("fresh", "accumulated")
    )
    assert not torch.allclose(fresh, accumulated, rtol=1e-9)


def test_the_last_epoch_with_the_best_validation_accuracy_is_kept():
    one = problem(spread=0.6, shots=2)
    history, _ = slow_training(one, 40)
    accuracies = [
        (one.validation @ weight.T + bias).argmax(dim=1).eq(one.validation_labels).double().mean().item()
        for weight, bias in history
    ]
    best = max(epoch for epoch in range(40) if accuracies[epoch] == max(accuracies))
    head = one.fit(LPP(epochs=40))
    torch.testing.assert_close(head.state["weight"], history[best][0], rtol=1e-6, atol=1e-8)
    assert head.facts["validation_accuracy"] == max(accuracies)
    assert head.facts["last_validation_accuracy"] == accuracies[-1]


def test_gradients_equal_autograd():
    one = problem()
    support, on_text = Labelled(one.support, one.labels), one.support @ one.text.T
    random = torch.Generator().manual_seed(1)
    weight, bias, alpha = (
        torch.randn(*shape, dtype=torch.float64, generator=random, requires_grad=True)
        for shape in ((8, 24), (8,), (8,))
    )
    found = gradients(Probe(weight, bias, alpha), support, on_text)
    logits = one.support @ (weight + alpha[:, None] * one.text).T + bias
    torch.nn.functional.cross_entropy(logits, one.labels).backward()
    for gradient, parameter in zip((found.weight, found.bias, found.alpha), (weight, bias, alpha), strict=True):
        torch.testing.assert_close(gradient.detach(), parameter.grad)


@pytest.mark.parametrize("shots", [1, 8])
def test_step_sizes_equal_their_definitions(shots):
    one = problem(shots=shots)
    size = len(one.labels)
    largest = np.linalg.svd(one.support.numpy(), compute_uv=False)[0] ** 2
    assert weight_step(one.support).item() == pytest.approx(4 * size / largest)
    squares = [sum(dot(f, t) ** 2 for f in one.support.tolist()) for t in one.text.tolist()]
    assert alpha_step(one.support @ one.text.T).item() == pytest.approx(size / (4 * max(squares)))


def test_initial_alpha_leaves_absent_classes_out():
    on_text = torch.tensor([[0.2, 0.9, 0.9], [0.4, 0.9, 0.9], [0.9, 0.9, 0.5]], dtype=torch.float64)
    assert initial_alpha(on_text, torch.tensor([0, 0, 2]), 3).item() == pytest.approx(250 * (0.3 + 0.5) / 2)


def test_a_class_without_support_has_its_text_alone_and_loses_to_the_others():
    one = problem(text_error=0.1)
    kept = one.labels != 3
    head = one.fit(LPP(epochs=50), support=one.support[kept], labels=one.labels[kept])
    logits = head.predict(one.test)
    torch.testing.assert_close(logits[:, 3], head.state["class_alpha"][3] * one.test @ one.text[3], rtol=1e-4, atol=0)
    own = one.test_labels == 3
    by_text = (one.test @ one.text.T).argmax(dim=1)
    assert (logits.argmax(dim=1)[own] == 3).sum() < (by_text[own] == 3).sum()


def test_without_validation_the_last_epoch_is_kept():
    one = problem()
    head = one.fit(LPP(epochs=20), validation=None)
    assert torch.equal(head.state["weight"], one.fit(LPP(epochs=20, selection="last")).state["weight"])


def test_a_stack_of_problems():
    check_stack(lambda: LPP(epochs=30))

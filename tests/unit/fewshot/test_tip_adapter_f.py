"""Tip-Adapter-F: its gradient against finite differences of the slow loop, its selection, what leaks."""

import math

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot import tip_adapter
from lit_modules.fewshot.tip_adapter import TipAdapter
from lit_modules.fewshot.tip_adapter_f import ADAM_EPSILON, TipAdapterF
from records.notices import RunWarning

SMALL = {"alpha_steps": 5, "beta_steps": 4}


def slow_loss(images, labels, keys, key_labels, text, alpha, beta):
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = [100 * dot(image, t) for t in text]
        for key, own in zip(keys, key_labels, strict=True):
            logits[own] += alpha * math.exp(-beta * (1 - dot(image, key)))
        top = max(logits)
        total += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[label]
    return total / len(images)


def test_one_step_is_adamw_on_the_slow_loss_gradient():
    one = problem(classes=3, shots=2, width=4)
    head = TipAdapterF(epochs=1, lr=0.01, batch_size=100, selection="last", alpha=3.0, beta=2.0, search=False)
    moved = one.fit(head).state["keys"]
    keys, labels, text = one.support.tolist(), one.labels.tolist(), one.text.tolist()
    for row in range(len(keys)):
        for column in range(4):
            losses = []
            for step in (1e-6, -1e-6):
                shifted = [list(key) for key in keys]
                shifted[row][column] += step
                losses.append(slow_loss(keys, labels, shifted, labels, text, 3.0, 2.0))
            gradient = (losses[0] - losses[1]) / 2e-6
            expected = keys[row][column] * (1 - 0.01 * 0.01) - 0.01 * gradient / (abs(gradient) + ADAM_EPSILON)
            assert moved[row, column].item() == pytest.approx(expected, abs=2e-6)


def test_training_fits_the_support_better_than_the_keys_as_they_are():
    one = problem(spread=0.5, shots=8)
    plain = one.fit(TipAdapter(search=False))
    trained = one.fit(TipAdapterF(search=False, selection="last", epochs=60, lr=1e-2))
    entropy = torch.nn.functional.cross_entropy
    assert entropy(trained.predict(one.support), one.labels) < entropy(plain.predict(one.support), one.labels) - 0.01


def test_the_epoch_is_the_first_best_on_validation():
    one = problem(spread=0.5, shots=8)
    settings = {"epochs": 12, "lr": 0.05, "batch_size": 16, "search": False}
    chosen = one.fit(TipAdapterF(**settings))
    assert chosen.facts["epoch_validation_accuracy"] >= chosen.facts["last_epoch_validation_accuracy"]
    right = chosen.predict(one.validation).argmax(dim=1) == one.validation_labels
    assert right.double().mean().item() == chosen.facts["epoch_validation_accuracy"]


def test_without_validation_it_warns_and_keeps_the_last_epoch():
    one = problem()
    with pytest.warns(RunWarning, match="the last epoch"):
        head = one.fit(TipAdapterF(epochs=2, search=False), validation=None)
    last = one.fit(TipAdapterF(epochs=2, search=False, selection="last"))
    assert torch.equal(head.state["keys"], last.state["keys"])


def test_views_are_learnt_from_in_turn():
    one = problem(views=2)
    settings = {"epochs": 1, "search": False, "selection": "last"}
    first = one.fit(TipAdapterF(**settings)).state["keys"]
    other = one.fit(TipAdapterF(**settings), support=one.support.flip(1)).state["keys"]
    assert not torch.equal(first, other)


def test_only_the_leaking_selection_says_that_it_leaks():
    assert TipAdapterF(selection="test_leak").selects_on_test
    assert not TipAdapterF().selects_on_test


def test_a_stack_of_problems():
    check_stack(lambda: TipAdapterF(epochs=3, batch_size=8, **SMALL))


def test_the_texts_logits_of_the_validation_images_are_computed_once(monkeypatch):
    sizes = []
    text_logits = tip_adapter.text_logits
    monkeypatch.setattr(
        tip_adapter, "text_logits", lambda features, *rest: sizes.append(len(features)) or text_logits(features, *rest)
    )
    one = problem()
    one.fit(TipAdapterF(epochs=5, search=False))
    assert sizes.count(len(one.validation)) == 1
    assert sizes.count(len(one.support)) == 5

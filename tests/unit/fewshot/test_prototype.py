"""Nearest prototype against a loop."""

import math

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot.prototype import Prototype
from records.errors import UserError
from records.notices import RunWarning


def slow_logits(one, text_weight, image):
    rows = []
    for c in range(len(one.text)):
        members = [x for x, y in zip(one.support.tolist(), one.labels.tolist(), strict=True) if y == c]
        mean = [sum(values) / len(members) for values in zip(*members, strict=True)]
        length = math.sqrt(dot(mean, mean))
        mixed = [
            (1 - text_weight) * m / length + text_weight * t for m, t in zip(mean, one.text[c].tolist(), strict=True)
        ]
        rows.append(100 * dot(image, mixed) / math.sqrt(dot(mixed, mixed)))
    return rows


@pytest.mark.parametrize("text_weight", [0.0, 0.3, 1.0])
def test_logits_equal_the_slow_loop(text_weight):
    one = problem()
    logits = one.fit(Prototype(text_weight=text_weight)).predict(one.test)
    for i in (0, 50):
        assert logits[i].tolist() == pytest.approx(slow_logits(one, text_weight, one.test[i].tolist()))


def test_search_takes_the_first_best_weight_on_validation():
    one = problem(shots=2, spread=0.35)
    accuracies = {}
    for weight in Prototype().text_weights:
        head = one.fit(Prototype(text_weight=weight))
        right = head.predict(one.validation).argmax(dim=1) == one.validation_labels
        accuracies[weight] = right.double().mean().item()
    chosen = one.fit(Prototype(text_weight="search"))
    assert chosen.facts["text_weight"] == max(accuracies, key=accuracies.__getitem__)
    assert chosen.facts["validation_accuracy"] == max(accuracies.values())


def test_without_validation_a_search_warns_and_takes_a_usual_weight():
    with pytest.warns(RunWarning, match="0.9 is taken"):
        assert problem().fit(Prototype(text_weight="search"), validation=None).facts["text_weight"] == 0.9


def test_a_class_without_support_falls_back_on_text_or_is_refused():
    one = problem()
    kept = one.labels != 3
    parts = {"support": one.support[kept], "labels": one.labels[kept]}
    head = one.fit(Prototype(text_weight=0.5), **parts)
    torch.testing.assert_close(head.state["prototypes"][3], one.text[3])
    with pytest.raises(UserError, match=r"1 of 8 classes have no support image \(class numbers 3\)"):
        one.fit(Prototype(), **parts)


def test_text_cannot_be_mixed_in_where_there_is_none():
    with pytest.raises(UserError, match="give no text"):
        problem().fit(Prototype(text_weight=0.5), text=None)
    assert problem().accuracy(problem().fit(Prototype(), text=None)) > 0.5


def test_a_stack_of_problems():
    check_stack(lambda: Prototype(text_weight="search"))

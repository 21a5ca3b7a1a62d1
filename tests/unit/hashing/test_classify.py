"""The plain classifier: cross-entropy on the real values of the hash layer."""

import math

import pytest
import torch
from plain_numbers import softmax
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.classify import Classify


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_real_values(multi_label):
    module, batch = small_task(Classify, multi_label), small_batch(multi_label=multi_label)
    h = module(batch)["h"]
    weight, bias = module.classifier.weight.tolist(), module.classifier.bias.tolist()
    expected = 0.0
    for row, label in zip(h.tolist(), batch["label"].tolist(), strict=True):
        p = softmax([sum(a * b for a, b in zip(row, w, strict=True)) + c for w, c in zip(weight, bias, strict=True)])
        target = label if multi_label else [float(c == label) for c in range(4)]
        expected -= sum(t * math.log(q) for t, q in zip(target, p, strict=True)) / max(sum(target), 1)
    assert module.loss(module(batch), batch)["loss"].item() == pytest.approx(expected / len(h), rel=1e-5)


def test_a_step_reaches_every_parameter():
    module = small_task(Classify, classifier_bias=False)
    trained_loss(module, small_batch())
    assert module.classifier.bias is None
    assert all(torch.any(parameter.grad != 0) for parameter in module.hash_layer.parameters())
    assert torch.any(module.classifier.weight.grad != 0)

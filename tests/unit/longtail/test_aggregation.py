"""SADE at test time: weights of the experts from unlabelled views, against slow loops and on real digits."""

import math
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from slow_numbers import assert_equals_slow, dot, draw, softmax
from small_methods import small_method
from torch import nn

from datamodules.digits_lt import DigitsLongTail
from lit_modules.longtail.aggregation import aggregated_logits, prediction_stability, stable_weights
from lit_modules.longtail.sade import SADE, sade_loss
from records.errors import UserError

FIRST, SECOND = draw(5, 3, 4, seed=1), draw(5, 3, 4, seed=2)
SCORES = torch.tensor([0.2, -0.4, 0.7], dtype=torch.float64)


def slow_aggregate(experts, weights):
    return [sum(w * row[c] for w, row in zip(weights, experts, strict=True)) for c in range(len(experts[0]))]


def slow_stability(first, second, scores):
    weights = softmax(scores)
    total = 0.0
    for one, other in zip(first, second, strict=True):
        p, q = (softmax(slow_aggregate(experts, weights)) for experts in (one, other))
        total += dot(p, q) / math.sqrt(dot(p, p) * dot(q, q))
    return total / len(first)


def test_aggregated_logits():
    weights = [0.2, 0.3, 0.5]
    expected = torch.tensor([slow_aggregate(experts, weights) for experts in FIRST.tolist()], dtype=torch.float64)
    torch.testing.assert_close(aggregated_logits(FIRST, torch.tensor(weights, dtype=torch.float64)), expected)


def test_the_stability_by_value_and_gradient():
    assert_equals_slow(
        lambda scores: prediction_stability(FIRST, SECOND, scores),
        lambda scores: slow_stability(FIRST.tolist(), SECOND.tolist(), scores),
        SCORES,
    )
    assert prediction_stability(FIRST, FIRST, SCORES).item() == pytest.approx(1)


def slow_weights(batches, epochs, lr, smallest):
    """SGD with Nesterov momentum and weight decay, gradients by central differences."""
    scores, velocity = [1 / 3] * 3, None
    for _ in range(epochs):
        for first, second in batches:
            gradient = []
            for place in range(3):
                values = []
                for sign in (1, -1):
                    moved = list(scores)
                    moved[place] += sign * 1e-6
                    values.append(-slow_stability(first.tolist(), second.tolist(), moved))
                gradient.append((values[0] - values[1]) / 2e-6 + 5e-4 * scores[place])
            velocity = gradient if velocity is None else [0.9 * v + g for v, g in zip(velocity, gradient, strict=True)]
            steps = [g + 0.9 * v for g, v in zip(gradient, velocity, strict=True)]
            scores = [s - lr * step for s, step in zip(scores, steps, strict=True)]
        if min(softmax(scores)) < smallest:
            break
    return softmax(scores)


@pytest.mark.parametrize(("lr", "smallest"), [(0.1, 0.05), (20.0, 0.3)])
def test_the_weights_against_slow_descent(lr, smallest):
    batches = [(FIRST, SECOND), (SECOND, draw(5, 3, 4, seed=3))]
    found = stable_weights([batches] * 3, 3, lr, smallest)
    expected = slow_weights(batches, 3, lr, smallest)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.sum().item() == pytest.approx(1)
    assert len({round(one, 3) for one in expected}) == 3


def test_an_expert_left_with_little_ends_it():
    drawn = []

    def epochs():
        for epoch in range(5):
            drawn.append(epoch)
            yield [(FIRST, SECOND)]

    stable_weights(epochs(), 3, lr=20.0, smallest_weight=0.33)
    assert drawn == [0]


def digits(order="forward", ratio=50):
    return DigitsLongTail(image_size=16, seed=0, batch_size=64, test_imbalance_ratio=ratio, test_order=order)


def linear_experts(data):
    """Train three linear experts on the pixels by SADE's loss."""
    torch.manual_seed(0)
    pixels = flat(data.data.source.read(data.positions("train")))
    label, counts = data.labels("train"), data.class_counts
    experts = nn.Linear(pixels.shape[1], 30)
    optimizer = torch.optim.Adam(experts.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        sade_loss(experts(pixels).unflatten(1, (3, 10)), label, counts)["loss"].backward()
        optimizer.step()
    return experts


def flat(images):
    return images[:, 0].flatten(1).float() / 255


def test_on_digits_the_weights_move_to_the_experts_that_fit_the_test_part():
    experts = linear_experts(digits())

    def logits(data, epoch):
        for batch in data.unlabelled_loader("test", epoch):
            yield tuple(experts(flat(view)).detach().unflatten(1, (3, 10)) for view in batch["views"])

    weights = {}
    for order in ("forward", "backward"):
        data = digits(order)
        weights[order] = stable_weights((logits(data, epoch) for epoch in range(5)), 3, lr=1.0).tolist()
    assert weights["forward"][0] == max(weights["forward"])
    assert weights["backward"][2] == max(weights["backward"])


def metrics_after_test(module, data):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.test(module, data, verbose=False)
    return module.exact_metrics


def sade(**settings):
    return small_method(partial(SADE, experts=3), experts=3, counts=(114, 73, 47, 30, 20, 12, 8, 5, 3, 2), **settings)


def test_a_test_learns_the_weights_without_labels_and_says_so(monkeypatch):
    data = digits(ratio=5)
    loader = data.unlabelled_loader("test", 0)
    batch = next(iter(loader))
    assert set(batch) == {"views", "index"}
    assert batch["views"].shape == (2, 64, 3, 16, 16)
    assert not torch.equal(batch["views"][0], batch["views"][1])
    plain, module = sade(), sade(test_time="aggregate", aggregation_epochs=2, aggregation_lr=5.0)
    assert plain.evaluation_protocol == {}
    assert module.evaluation_protocol["transductive"].startswith("yes")
    before = metrics_after_test(plain, data)
    found = metrics_after_test(module, data)
    weights = [found[f"test/weight_{name}"] for name in ("forward", "uniform", "backward")]
    assert sum(weights) == pytest.approx(1)
    assert max(weights) > 0.34
    assert not any("weight" in name for name in before)
    module.eval()
    views = [
        [tuple(module({"image": view})["expert_logits"].detach() for view in batch["views"]) for batch in loader]
        for loader in (data.unlabelled_loader("test", epoch) for epoch in range(2))
    ]
    assert weights == pytest.approx(stable_weights(views, 3, 5.0).tolist(), abs=1e-9)


def test_features_have_no_views_and_are_refused_before_training():
    module = sade(test_time="aggregate")
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(), world_size=1)
    with pytest.raises(UserError, match=r"task\.test_time=aggregate.*cache_features=false"):
        module.on_fit_start()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"test_time": "always"}, UserError, r"task\.test_time=always.*none, aggregate"),
        ({"aggregation_epochs": 0}, ValueError, r"task\.aggregation_epochs is 0"),
        ({"aggregation_lr": 0.0}, ValueError, r"task\.aggregation_lr 0"),
        ({"smallest_weight": 0.4}, ValueError, r"task\.smallest_weight is 0\.4"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        sade(**settings)

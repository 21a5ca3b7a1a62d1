"""APE against loops over pairs of samples, channels and keys."""

import inspect
import math

import pytest
import torch
from problems import check_stack, dot, problem

from launch.compose import compose_config
from lit_modules.fewshot.ape import APE, channel_scores, kept_channels
from lit_modules.fewshot.episode import Labelled
from lit_modules.fewshot.zeroshot import ZeroShot
from records.notices import RunWarning

GRID_KEYS = [f"{name}_{what}" for name in ("alpha", "beta", "gamma") for what in ("range", "steps")]
GRID = {"alpha_steps": 4, "beta_steps": 3, "gamma_steps": 2, "alpha_range": [0.5, 6.0], "beta_range": [0.5, 9.0]}


def slow_channel_scores(one, similarity_weight, variance_weight):
    samples = [(t, c) for c, t in enumerate(one.text.tolist())]
    samples += list(zip(one.support.tolist(), one.labels.tolist(), strict=True))
    scores = []
    for d in range(one.text.shape[1]):
        products = [a[d] * b[d] for a, y in samples for b, z in samples if y != z]
        values = [t[d] for t in one.text.tolist()]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        scores.append(variance_weight * variance - similarity_weight * sum(products) / len(products))
    return scores


def slow_logits(one, image, channels, alpha, beta, gamma):
    def cut(row):
        chosen = [row[d] for d in channels]
        length = math.sqrt(dot(chosen, chosen))
        return [x / length for x in chosen]

    texts = [cut(t) for t in one.text.tolist()]
    logits = [100 * dot(image, t) for t in one.text.tolist()]
    for key, label in zip(one.support.tolist(), one.labels.tolist(), strict=True):
        on_text = [math.exp(dot(cut(key), t)) for t in texts]
        divergence = 0.0
        for c, value in enumerate(on_text):
            wanted = float(c == label)
            divergence += wanted * math.log2((wanted + 1e-6) / (value / sum(on_text) + 1e-6))
        similarity = math.exp(-beta * (1 - dot(cut(image), cut(key))))
        logits[label] += alpha * similarity * math.exp(gamma * divergence)
    return logits


def test_channel_scores_equal_the_loop_over_pairs():
    one = problem(classes=4, shots=2, width=6)
    found = channel_scores(Labelled(one.support, one.labels), one.text, 0.7, 0.3)
    assert found.tolist() == pytest.approx(slow_channel_scores(one, 0.7, 0.3))


def test_the_grid_is_the_authors():
    head = APE()
    for found, top, steps in ((head.alphas, 7, 20), (head.betas, 7, 200)):
        assert found.tolist() == pytest.approx([i * (top - 0.1) / steps + 0.1 for i in range(steps)])
    assert head.gammas.tolist() == pytest.approx([i * 0.5 / 5 for i in range(5)])
    node = compose_config(["task=ape"]).task
    assert {name: node[name] for name in GRID_KEYS} == {
        name: inspect.signature(APE).parameters[name].default
        if name.endswith("steps")
        else list(inspect.signature(APE).parameters[name].default)
        for name in GRID_KEYS
    }


def test_the_best_channels_are_kept():
    assert sorted(kept_channels(torch.tensor([0.1, 0.9, 0.3, 0.5]), 0.5).tolist()) == [1, 3]
    assert kept_channels(torch.tensor([0.1, 0.9]), 0.01).tolist() == [1]


def test_logits_equal_the_slow_loop():
    one = problem(width=10)
    head = one.fit(APE(search=False, alpha=3.0, beta=5.0, gamma=0.3))
    channels = head.state["channels"].tolist()
    assert len(channels) == 5
    logits = head.predict(one.test)
    for i in (0, 77):
        assert logits[i].tolist() == pytest.approx(slow_logits(one, one.test[i].tolist(), channels, 3.0, 5.0, 0.3))


def test_the_search_takes_the_first_best_cell():
    one = problem(classes=5, width=10, shots=2, spread=0.45)
    head = one.fit(APE(**GRID))
    channels = head.state["channels"].tolist()
    best, chosen = -1.0, None
    for beta in head.betas.tolist():
        for gamma in head.gammas.tolist():
            for alpha in head.alphas.tolist():
                right = 0
                for image, label in zip(one.validation.tolist(), one.validation_labels.tolist(), strict=True):
                    logits = slow_logits(one, image, channels, alpha, beta, gamma)
                    right += max(range(5), key=logits.__getitem__) == label
                if right / len(one.validation) > best:
                    best, chosen = right / len(one.validation), (alpha, beta, gamma)
    assert tuple(head.facts[name] for name in ("alpha", "beta", "gamma")) == pytest.approx(chosen)
    assert head.facts["validation_accuracy"] == best


def test_it_gains_over_zero_shot():
    one = problem(text_error=0.6, shots=8)
    assert one.accuracy(one.fit(APE())) > one.accuracy(one.fit(ZeroShot())) + 0.05


def test_without_validation_it_warns():
    with pytest.warns(RunWarning, match="task.gamma=0.1 it is"):
        problem().fit(APE(), validation=None)


def test_a_stack_of_problems():
    check_stack(lambda: APE(**GRID))

"""TransCLIP against loops over images, classes, channels and neighbours."""

import math

import pytest
import torch
import torch.nn.functional as F
from problems import check_stack, dot, problem

from lit_modules.fewshot import transclip
from lit_modules.fewshot.episode import Labelled
from lit_modules.fewshot.transclip import TransCLIP, log_likelihood, mixture, nearest, neighbour_votes
from lit_modules.fewshot.zeroshot import ZeroShot


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def slow_mixture(images, z, support, labels, gamma):
    classes, width = len(z[0]), len(images[0])
    weighted = [(f, row, 1 / len(images)) for f, row in zip(images, z, strict=True)]
    for f, y in zip(support, labels, strict=True):
        weighted.append((f, [float(c == y) for c in range(classes)], gamma / len(support)))
    means = []
    for c in range(classes):
        mass = sum(share * row[c] for _, row, share in weighted)
        means.append([sum(share * row[c] * f[d] for f, row, share in weighted) / mass for d in range(width)])
    total = sum(share * sum(row) for _, row, share in weighted)
    variance = [
        sum(share * row[c] * (f[d] - means[c][d]) ** 2 for f, row, share in weighted for c in range(classes)) / total
        for d in range(width)
    ]
    return means, variance


def slow_transclip(one, settings, with_support, gamma):
    """Return z by loops: 3 neighbours, shared diagonal variance, the published order of updates."""
    images, text = one.test.tolist(), one.text.tolist()
    classes, width = len(text), len(text[0])
    support = one.support.tolist() if with_support else []
    labels = one.labels.tolist() if with_support else []
    weight = 0.5 if with_support else 1.0
    prediction = [softmax([100 * dot(f, t) for t in text]) for f in images]
    graph = []
    for i, f in enumerate(images):
        others = sorted((j for j in range(len(images)) if j != i), key=lambda j: -dot(f, images[j]))[:3]
        graph.append([(j, max(0.0, dot(f, images[j]))) for j in others])
    means = []
    for c in range(classes):
        if with_support:
            rows = [f for f, y in zip(support, labels, strict=True) if y == c]
        else:
            rows = [images[i] for i in sorted(range(len(images)), key=lambda i: -prediction[i][c])[:8]]
        mean = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
        means.append([m / math.sqrt(dot(mean, mean)) for m in mean])
    variance, z = [1 / width] * width, prediction
    for _ in range(settings["iterations"]):
        evidence = []
        for f, y in zip(images, prediction, strict=True):
            row = []
            for c in range(classes):
                exponent = sum((f[d] - means[c][d]) ** 2 / variance[d] + math.log(variance[d]) for d in range(width))
                row.append(weight * math.log(y[c]) - exponent / 2 / settings["temperature"])
            evidence.append(row)
        for _ in range(settings["inner_iterations"]):
            z = [
                softmax([evidence[i][c] + sum(w * z[j][c] for j, w in graph[i]) / 3 for c in range(classes)])
                for i in range(len(images))
            ]
        means, variance = slow_mixture(images, z, support, labels, gamma * settings["temperature"])
    return torch.tensor(z, dtype=torch.float64)


@pytest.mark.parametrize("with_support", [False, True])
def test_assignments_equal_the_slow_loop(with_support):
    one = problem(classes=4, width=6, test=5, shots=2)
    settings = {"iterations": 3, "inner_iterations": 2, "temperature": 4.0}
    parts = {} if with_support else {"support": None, "labels": None}
    head = one.fit(TransCLIP(**settings, gamma=0.3), validation=None, **parts)
    torch.testing.assert_close(
        head.state["assignment"], slow_transclip(one, settings, with_support, 0.3), rtol=1e-7, atol=1e-10
    )


def test_the_mixture_equals_the_slow_one():
    one = problem(classes=3, width=4, test=4, shots=2)
    z = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    gamma = torch.tensor(0.2, dtype=torch.float64)
    means, variance = mixture(one.test, z, Labelled(one.support, one.labels), gamma)
    slow = slow_mixture(one.test.tolist(), z.tolist(), one.support.tolist(), one.labels.tolist(), 0.2)
    torch.testing.assert_close(means, torch.tensor(slow[0], dtype=torch.float64))
    torch.testing.assert_close(variance, torch.tensor(slow[1], dtype=torch.float64))


def test_log_likelihood_is_that_of_a_normal_distribution_up_to_its_constant():
    one = problem(classes=3, width=4)
    variance = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    normal = torch.distributions.Normal(one.text[1], variance.sqrt())
    found = log_likelihood(one.test, one.text, variance)[:, 1] - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(found, normal.log_prob(one.test).sum(dim=1))


def test_an_image_is_no_neighbour_of_itself():
    rows = torch.eye(5, dtype=torch.float64) + 0.1
    _, places = nearest(rows, rows, 4, own=True)
    assert all(i not in places[i].tolist() for i in range(5))
    assert nearest(rows, rows, 9, own=True)[1].shape == (5, 4)


def test_votes_are_means_over_neighbours():
    weights = torch.tensor([[0.5, 1.0], [0.0, 0.2]])
    places = torch.tensor([[1, 2], [0, 2]])
    z = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    expected = torch.tensor([[0.25, 1.25], [0.0, 0.2]]) / 2
    torch.testing.assert_close(neighbour_votes(weights, places, z), expected)


def test_an_image_of_the_fit_is_judged_as_in_the_fit():
    one = problem(test=10)
    head = one.fit(TransCLIP(iterations=60, inner_iterations=20), support=None, labels=None, validation=None)
    torch.testing.assert_close(head.predict(one.test).softmax(dim=1), head.state["assignment"], atol=1e-4, rtol=0)


def test_it_gains_over_zero_shot_with_and_without_support():
    one = problem(classes=12, test=40, text_error=0.15, spread=0.1)
    base = one.accuracy(one.fit(ZeroShot()))
    transductive = one.accuracy(one.fit(TransCLIP(), support=None, labels=None))
    assert transductive > base + 0.03
    assert one.accuracy(one.fit(TransCLIP())) > transductive


def test_the_support_weighs_gamma_times_temperature_as_in_the_authors_code():
    one = problem(classes=3, width=4, test=4, shots=2)
    head = one.fit(TransCLIP(iterations=1, inner_iterations=1, gamma=0.02), validation=None)
    z = head.state["assignment"]
    images, support = one.test, one.support
    labels = F.one_hot(one.labels, 3).double()
    weights = torch.cat([z / len(images), 0.02 * 50 / len(support) * labels])
    both = torch.cat([images, support])
    means = torch.einsum("ik,id->kd", weights, both) / weights.sum(dim=0)[:, None]
    torch.testing.assert_close(head.state["means"], means)
    squares = (both[:, None] - means).square()
    torch.testing.assert_close(head.state["variance"], torch.einsum("ik,ikd->d", weights, squares) / weights.sum())


def test_gamma_is_the_first_best_on_validation_images_that_take_part_unlabelled():
    one = problem(spread=0.45, shots=2)
    gammas = (0.2, 0.002, 1.0)
    joined = torch.cat([one.test, one.validation])
    accuracies = {}
    for gamma in gammas:
        head = one.fit(TransCLIP(gamma=gamma), unlabelled=joined, validation=None)
        answers = head.predict(joined)[len(one.test) :].argmax(dim=1)
        accuracies[gamma] = (answers == one.validation_labels).double().mean().item()
    assert len(set(accuracies.values())) > 1
    best = max(accuracies, key=accuracies.__getitem__)
    chosen = one.fit(TransCLIP(gammas=gammas))
    assert chosen.facts["gamma"] == best
    assert chosen.facts["validation_accuracy"] == pytest.approx(accuracies[best])
    alone = one.fit(TransCLIP(gamma=best), validation=None)
    assert torch.equal(chosen.state["assignment"], alone.state["assignment"])


def test_a_class_without_support_is_found_by_its_most_confident_images():
    one = problem(text_error=0.1)
    kept = one.labels != 3
    head = one.fit(TransCLIP(), support=one.support[kept], labels=one.labels[kept])
    centres = torch.stack([one.test[one.test_labels == c].mean(dim=0) for c in range(8)])
    assert (head.state["means"][3] - centres).norm(dim=1).argmin() == 3


def test_a_stack_of_problems():
    check_stack(lambda: TransCLIP(iterations=3, gammas=[0.01, 0.2]))


def test_what_no_update_changes_is_computed_once(monkeypatch):
    asked = {"text_logits": 0, "nearest": 0}

    def counted(name):
        original = getattr(transclip, name)

        def count(*arguments, **options):
            asked[name] += 1
            return original(*arguments, **options)

        return count

    for name in asked:
        monkeypatch.setattr(transclip, name, counted(name))
    problem().fit(TransCLIP())
    # once for the images that are judged, once for those with the validation images; all updates share them
    assert asked == {"text_logits": 2, "nearest": 2}

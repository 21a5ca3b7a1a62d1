"""InMaP against loops: Sinkhorn's scaling, hardening, the steps, when it stops, what a prior does."""

import math

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot.inmap import InMaP, hardened, proxy_gradient, sinkhorn
from lit_modules.fewshot.zeroshot import ZeroShot
from records.errors import UserError


def slow_softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def slow_sinkhorn(rows, prior, rounds):
    rows = [list(row) for row in rows]
    for _ in range(rounds):
        for c in range(len(prior)):
            column = sum(row[c] for row in rows)
            for row in rows:
                row[c] *= prior[c] * len(rows) / column
        rows = [[value / sum(row) for value in row] for row in rows]
    return rows


def slow_inmap(one, head, iterations):
    """Return the proxies after some steps, by loops over images, classes and channels."""
    images, text = one.test.tolist(), one.text.tolist()
    size, classes, width = len(images), len(text), len(text[0])
    rows = [slow_softmax([dot(f, t) / head.tau_text for t in text]) for f in images]
    rows = slow_sinkhorn(rows, [1 / classes] * classes, head.sinkhorn_rounds)
    for row in rows:
        top = max(range(classes), key=row.__getitem__)
        if row[top] > head.harden:
            row[:] = [float(c == top) for c in range(classes)]
    proxies, rate, previous = [list(t) for t in text], head.lr / (size * head.tau_image), math.inf
    for _ in range(iterations):
        gradient = [[0.0] * width for _ in range(classes)]
        for f, wanted in zip(images, rows, strict=True):
            found = slow_softmax([dot(f, w) / head.tau_image for w in proxies])
            for c in range(classes):
                for d in range(width):
                    gradient[c][d] += (found[c] - wanted[c]) * f[d]
        norm = math.sqrt(sum(dot(row, row) for row in gradient))
        rate = rate / 2 if norm > previous else rate
        previous = norm
        for c in range(classes):
            moved = [w - rate * g for w, g in zip(proxies[c], gradient[c], strict=True)]
            proxies[c] = [m / math.sqrt(dot(moved, moved)) for m in moved]
    return torch.tensor(proxies, dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 6])
def test_the_proxies_equal_the_slow_loop(iterations):
    one = problem(classes=5, width=7, test=6)
    head = one.fit(InMaP(iterations=iterations, tolerance=0.0))
    torch.testing.assert_close(head.state["proxies"], slow_inmap(one, head, iterations), rtol=1e-8, atol=1e-10)
    assert head.facts["steps"] == iterations


def test_sinkhorn_equals_the_slow_one_and_reaches_its_prior():
    rows = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    prior = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected = torch.tensor(slow_sinkhorn(rows.tolist(), prior.tolist(), 3), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(rows, prior, 3), expected)
    balanced = sinkhorn(rows, prior, 200)
    torch.testing.assert_close(balanced.mean(dim=0), prior)
    torch.testing.assert_close(balanced.sum(dim=1), torch.ones(30, dtype=torch.float64))
    assert torch.equal(sinkhorn(rows, prior, 0), rows)


def test_sinkhorn_bears_a_class_that_no_image_has():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert torch.equal(sinkhorn(rows, torch.tensor([0.5, 0.5]), 5), rows)
    # so many images that their number over the smallest positive one is beyond float32
    many = rows[:1].expand(20_000, 2)
    assert torch.equal(sinkhorn(many, torch.tensor([0.5, 0.5]), 5), many)


def test_the_gradient_written_into_memory_is_the_same():
    one = problem(classes=4, width=6, test=5)
    wanted = one.text.softmax(dim=1)
    memory = torch.empty(20, 4, dtype=torch.float64), torch.empty(20, 4, dtype=torch.float64)
    plain = proxy_gradient(one.test, one.text, wanted, 0.04)
    assert torch.equal(proxy_gradient(one.test, one.text, wanted, 0.04, memory), plain)
    assert torch.equal(memory[1], (one.test @ one.text.T / 0.04).softmax(dim=1))


def test_only_rows_above_the_threshold_become_hard():
    rows = torch.tensor([[0.7, 0.3], [0.55, 0.45], [0.6, 0.4]])
    assert torch.equal(hardened(rows, 0.6)[0], torch.tensor([1.0, 0.0]))
    assert torch.equal(hardened(rows, 0.6)[1], rows[1])
    assert torch.equal(hardened(rows, 1.0), rows)


def test_the_gradient_is_that_of_the_cross_entropy_times_the_temperature():
    one = problem(classes=4, width=6, test=5)
    wanted = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    proxies = one.text.clone().requires_grad_()
    loss = -(wanted * (one.test @ proxies.T / 0.04).log_softmax(dim=1)).sum()
    loss.backward()
    found = proxy_gradient(one.test, one.text, wanted.T @ one.test, 0.04)
    torch.testing.assert_close(found, 0.04 * proxies.grad)


def test_it_gains_where_test_classes_are_balanced_and_stops_by_itself():
    one = problem(classes=12, test=40, text_error=0.6, spread=0.2)
    head = one.fit(InMaP())
    assert one.accuracy(head) > one.accuracy(one.fit(ZeroShot())) + 0.03
    assert head.facts["steps"] < 2000
    assert head.facts["gradient_norm"] < head.facts["first_gradient_norm"]


def test_on_a_skewed_test_part_the_true_prior_beats_the_uniform_one():
    one = problem(classes=6, test=60, text_error=0.5, spread=0.45)
    rows = torch.cat([(one.test_labels == c).nonzero()[: 60 // 2**c, 0] for c in range(6)])
    images, labels = one.test[rows], one.test_labels[rows]
    shares = torch.bincount(labels).tolist()

    def reached(**settings):
        head = one.fit(InMaP(**settings), unlabelled=images)
        return (head.predict(images).argmax(dim=1) == labels).double().mean().item()

    assert reached(given_prior=shares) > reached()
    assert reached(prior="clip", gamma=1.0) > reached()


def test_gamma_zero_is_the_uniform_prior():
    one = problem()
    uniform, flat = (one.fit(InMaP(**kind)).state["proxies"] for kind in ({}, {"prior": "clip", "gamma": 0.0}))
    torch.testing.assert_close(uniform, flat)


def test_a_given_prior_must_fit():
    with pytest.raises(UserError, match="2 values for 8 classes"):
        problem().fit(InMaP(given_prior=[0.5, 0.5]))
    with pytest.raises(ValueError, match="given_prior"):
        InMaP(given_prior=[0.0, 0.0])


def test_it_needs_the_images_to_be_judged():
    assert InMaP.transductive
    with pytest.raises(UserError, match="transductive"):
        problem().fit(InMaP(), unlabelled=None)


def test_a_stack_of_problems():
    check_stack(lambda: InMaP(iterations=10, tolerance=0.0))

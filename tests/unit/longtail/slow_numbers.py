"""Plain Python numbers for slow loops, and central differences to hold gradients against."""

import math

import torch

COUNTS = [50, 20, 6, 2]
LABELS = [0, 2, 0, 1, 2, 0, 1, 0, 2]


def draw(*shape, seed=0, scale=1.5):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_softmax(row):
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


def softmax(row):
    return [math.exp(x) for x in log_softmax(row)]


def priors(counts=COUNTS):
    return [count / sum(counts) for count in counts]


def cross_entropy(rows, labels, weights=None):
    """Return the mean of -log softmax(row)[label], weighted and divided by the sum of the weights."""
    weights = weights or [1.0] * len(rows[0])
    total = sum(weights[label] for label in labels)
    return -sum(weights[y] * log_softmax(row)[y] for row, y in zip(rows, labels, strict=True)) / total


def normalised(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def numeric_gradient(function, x, step=1e-6):
    """Return the central difference of function (nested lists -> number) at each entry of x."""
    gradient = torch.zeros_like(x)
    for place in range(x.numel()):
        values = []
        for sign in (1, -1):
            shifted = x.detach().clone()
            shifted.view(-1)[place] += sign * step
            values.append(function(shifted.tolist()))
        gradient.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return gradient


def assert_equals_slow(fast, slow, x):
    """Hold fast (tensor -> scalar tensor) against slow (nested lists -> number) at x, value and gradient."""
    leaf = x.clone().requires_grad_()
    value = fast(leaf)
    value.backward()
    assert value.dtype == torch.float64
    assert abs(value.item() - slow(x.tolist())) <= 1e-11 * (1 + abs(value.item()))
    assert leaf.grad.abs().max() > 1e-6
    torch.testing.assert_close(leaf.grad, numeric_gradient(slow, x), rtol=1e-6, atol=1e-8)

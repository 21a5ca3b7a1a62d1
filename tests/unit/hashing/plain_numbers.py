"""The slow ways of doing it that the tests of this folder share: plain Python numbers, and central differences."""

import math

import torch


def numeric_gradient(function, x, step=1e-6):
    """Return the central difference of function (tensor to float) at each entry of x."""
    gradient = torch.zeros_like(x)
    for position in range(x.numel()):
        shifted = [x.detach().clone() for _ in range(2)]
        shifted[0].view(-1)[position] += step
        shifted[1].view(-1)[position] -= step
        gradient.view(-1)[position] = (function(shifted[0]) - function(shifted[1])) / (2 * step)
    return gradient


def cosine(left, right):
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def assert_value_and_gradient(fast, slow, x):
    """Compare fast (tensor to scalar tensor) with slow (nested lists to float) at x, value and gradient."""
    leaf = x.clone().requires_grad_()
    value = fast(leaf)
    value.backward()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.item(), slow(x.tolist()), rtol=1e-11, atol=1e-13)
    expected = numeric_gradient(lambda shifted: slow(shifted.tolist()), x)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-8)

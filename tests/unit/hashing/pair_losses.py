"""What the tests of losses over pairs share: a small batch, small modules, and gradients by central differences."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lit_modules.base import LabelSpace
from lit_modules.metrics.hamming import HammingRetrieval

BITS, CLASSES, SIZE = 6, 3, 10
CLASS_NUMBERS = torch.tensor([0, 2, 2, 1, 0, 0, 1, 2, 0, 1])
MULTI_HOT = torch.tensor(
    [[1, 0, 0], [0, 1, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]]
).float()


class Features(nn.Identity):
    num_features = 4
    name = "features"
    pretrained = SimpleNamespace(used=True)


def draw(*shape, seed=0, scale=1.5):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(method, multi_label=False, size=SIZE, seed=0, **options):
    """Build a method on four features per image, in float64."""
    torch.manual_seed(seed)
    labels = LabelSpace(CLASSES, ("a", "b", "c"), (4, 3, 3), multi_label, size)
    shared = {"backbone": Features(), "labels": labels, "optimization": None, "metric": HammingRetrieval(BITS)}
    return method(**shared, bits=BITS, **{"gather_batch": True, **options}).double()


def batch_of(rows, multi_label=False):
    index = torch.tensor(rows)
    return {"index": index, "label": (MULTI_HOT if multi_label else CLASS_NUMBERS)[index]}


def share(a, b):
    """Tell whether two label rows share a class, or two class numbers are equal."""
    if isinstance(a, int):
        return a == b
    return any(x > 0 and y > 0 for x, y in zip(a, b, strict=True))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def sign(x):
    return 1.0 if x > 0 else -1.0


def slow_gradient(function, x, step=1e-6):
    """Return the central difference of function (rows of numbers -> number) at each entry of x."""
    gradient = torch.zeros_like(x)
    for place in range(x.numel()):
        shifted = [x.clone(), x.clone()]
        shifted[0].view(-1)[place] += step
        shifted[1].view(-1)[place] -= step
        gradient.view(-1)[place] = (function(shifted[0].tolist()) - function(shifted[1].tolist())) / (2 * step)
    return gradient


def assert_equals_slow(loss, slow, h):
    """Hold a loss of h and its gradient against a function of plain rows of numbers."""
    h = h.clone().requires_grad_()
    value = loss(h)
    value.backward()
    assert value.item() == pytest.approx(slow(h.tolist()), rel=1e-10, abs=1e-12)
    assert h.grad.abs().max() > 1e-6
    expected = slow_gradient(slow, h.detach())
    torch.testing.assert_close(h.grad, expected, rtol=1e-5, atol=1e-7 * expected.abs().max().item())

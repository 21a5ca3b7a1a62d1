"""Low-rank changes: none at first, and afterwards those of the merged matrices, by values and gradients."""

import pytest
import torch
from torch import nn

from lit_modules.fewshot.lora import PROJECTIONS, LoraAttention, LowRank

WIDTH, HEADS, LENGTH, BATCH = 12, 3, 5, 2
CAUSAL = torch.triu(torch.full((LENGTH, LENGTH), -torch.inf), diagonal=1).double()


def attention(batch_first, projections=PROJECTIONS, dropout=0.0):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first).double()
    nn.init.normal_(plain.in_proj_bias)
    nn.init.normal_(plain.out_proj.bias)
    changed = LoraAttention(plain, projections, rank=2, scaling=0.7, dropout=dropout).double()
    return plain, changed


def inputs(batch_first):
    shape = (BATCH, LENGTH, WIDTH) if batch_first else (LENGTH, BATCH, WIDTH)
    return torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "mask",
    [None, CAUSAL, torch.isinf(CAUSAL), CAUSAL.expand(BATCH * HEADS, -1, -1)],
    ids=["none", "float", "bool", "by_head"],
)
def test_nothing_changes_at_first(batch_first, mask):
    plain, changed = attention(batch_first)
    x = inputs(batch_first)
    expected, _ = plain(x, x, x, need_weights=False, attn_mask=mask)
    found, weights = changed(x, x, x, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert weights is None


@pytest.mark.parametrize("projections", [("q",), ("k", "v"), ("q", "k", "v"), ("o",)])
def test_the_change_is_that_of_the_merged_matrices(projections):
    plain, changed = attention(True, projections)
    factors = changed.low_rank
    for low in factors.values():
        nn.init.normal_(low.up, std=0.3)
    merged = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    merged.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name in projections:
            change = 0.7 * factors[name].up @ factors[name].down
            place = PROJECTIONS.index(name)
            if name == "o":
                merged.out_proj.weight += change
            else:
                merged.in_proj_weight[place * WIDTH : (place + 1) * WIDTH] += change
    x, y = inputs(True).requires_grad_(), inputs(True).requires_grad_()
    found, _ = changed(x, x, x, need_weights=False, attn_mask=CAUSAL)
    expected, _ = merged(y, y, y, need_weights=False, attn_mask=CAUSAL)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-11)
    # d(loss)/dB = scaling * d(loss)/dW A^T, and likewise for A
    for name in projections:
        place = PROJECTIONS.index(name)
        whole = merged.out_proj.weight.grad if name == "o" else merged.in_proj_weight.grad.chunk(3)[place]
        low = factors[name]
        torch.testing.assert_close(low.up.grad, 0.7 * whole @ low.down.T, rtol=0, atol=1e-11)
        torch.testing.assert_close(low.down.grad, 0.7 * low.up.T @ whole, rtol=0, atol=1e-11)


def test_the_parameters_are_taken_over_under_their_names():
    plain, changed = attention(True)
    assert changed.in_proj_weight is plain.in_proj_weight
    names = set(changed.state_dict()) - {name for name in changed.state_dict() if "low_rank" in name}
    assert names == set(plain.state_dict())
    assert not any(parameter.is_meta for parameter in changed.parameters())


def test_dropout_falls_on_the_inputs_of_the_change_alone():
    low = LowRank(50, 4, rank=3, scaling=1.0, dropout=0.5)
    nn.init.ones_(low.up)
    x = torch.ones(1, 50)
    kept = low.eval()(x)
    torch.manual_seed(0)
    dropped = torch.stack([low.train()(x) for _ in range(400)]).mean(dim=0)
    assert not torch.equal(low(x), low(x))
    assert torch.allclose(dropped, kept, atol=0.2)
    _, changed = attention(True, dropout=0.9)
    x = inputs(True)
    assert torch.equal(changed.train()(x, x, x)[0], changed.eval()(x, x, x)[0]), "B is 0: nothing to drop"


def test_what_is_not_handled_is_refused():
    _, changed = attention(True)
    x = inputs(True)
    with pytest.raises(ValueError, match="gives no weights"):
        changed(x, x, x, need_weights=True)
    with pytest.raises(ValueError, match="no low-rank form"):
        LoraAttention(nn.MultiheadAttention(WIDTH, HEADS, kdim=5), ("q",), 2, 1.0, 0.0)

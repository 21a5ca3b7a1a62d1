"""ADSH's loss and codes against loops over single numbers, and its turns between network and codes."""

import pytest
import torch
from pair_losses import BITS, CLASS_NUMBERS, MULTI_HOT, assert_equals_slow, batch_of, build, dot, draw, share

from lit_modules.hashing import adsh
from lit_modules.hashing.adsh import ADSH, adsh_loss, signed_similarity, update_codes

LABELS = pytest.mark.parametrize("labels", [CLASS_NUMBERS, MULTI_HOT], ids=["class numbers", "multi-hot"])


def slow_similarity(rows, columns):
    """Return 1 for pairs that share a label, minus their share over that of the others elsewhere."""
    pairs = [[share(a, b) for b in columns] for a in rows]
    alike = sum(map(sum, pairs))
    ratio = alike / (len(rows) * len(columns) - alike)
    return [[1.0 if one else -ratio for one in row] for row in pairs]


def slow_loss(h, codes, own, similarity, gamma, size):
    bits = len(codes[0])
    total = 0.0
    for i, row in enumerate(h):
        total += sum((dot(row, code) - bits * similarity[i][j]) ** 2 for j, code in enumerate(codes))
        total += gamma * sum((v - u) ** 2 for v, u in zip(own[i], row, strict=True))
    return total / (size * len(h))


def slow_codes(codes, values, similarity, own, gamma):
    """Set each bit to whichever of -1 and 1 makes the objective smaller; own has None outside the sample."""
    codes, bits = [list(row) for row in codes], len(codes[0])

    def objective(j):
        errors = sum((dot(u, codes[j]) - bits * similarity[i][j]) ** 2 for i, u in enumerate(values))
        pull = [] if own[j] is None else [(v - u) ** 2 for v, u in zip(codes[j], own[j], strict=True)]
        return errors + gamma * sum(pull)

    for bit in range(bits):
        for j in range(len(codes)):
            costs = {}
            for choice in (-1.0, 1.0):
                codes[j][bit] = choice
                costs[choice] = objective(j)
            codes[j][bit] = min(costs, key=costs.get)
    return codes


def test_loss_and_gradient_equal_the_slow_loop():
    codes, own, similar = draw(7, BITS, seed=1).sign(), draw(4, BITS, seed=2).sign(), draw(4, 7, seed=3) > 0
    alike = similar.sum().item()
    similarity = [[1.0 if one else -alike / (28 - alike) for one in row] for row in similar.tolist()]
    assert_equals_slow(
        lambda x: adsh_loss(x, codes, own, similar, 3.0, 20)["loss"],
        lambda rows: slow_loss(rows, codes.tolist(), own.tolist(), similarity, 3.0, 20),
        draw(4, BITS).tanh(),
    )


@LABELS
def test_signed_similarity_balances_its_own_matrix(labels):
    similar = torch.tensor([[share(a, b) for b in labels.tolist()] for a in labels.tolist()[:4]])
    signed = signed_similarity(similar, torch.float64)
    torch.testing.assert_close(signed, torch.tensor(slow_similarity(labels.tolist()[:4], labels.tolist())).double())
    assert signed.sum().item() == pytest.approx(0, abs=1e-9)
    assert torch.equal(signed_similarity(torch.ones(2, 2, dtype=torch.bool)), torch.ones(2, 2))


@LABELS
@pytest.mark.parametrize("block", [3, 100])
@pytest.mark.parametrize("start", ["signs", "zeros"])
def test_codes_equal_the_best_choice_one_bit_at_a_time(labels, block, start, monkeypatch):
    monkeypatch.setattr(adsh, "BLOCK", block)
    sample, values = [1, 3, 4, 8], draw(4, BITS).tanh()
    codes = draw(10, BITS, seed=1).sign() if start == "signs" else torch.zeros(10, BITS).double()
    own = torch.zeros(10, BITS).double()
    own[sample] = values
    rows = labels.tolist()
    similarity = slow_similarity([rows[i] for i in sample], rows)
    pulls = [own[j].tolist() if j in sample else None for j in range(10)]
    expected = slow_codes(codes.tolist(), values.tolist(), similarity, pulls, 2.0)
    assert update_codes(codes, values, labels[sample], labels, own, 2.0).tolist() == expected


@pytest.mark.parametrize("multi_label", [False, True])
def test_new_images_get_codes_and_the_loss_sees_all_codes(multi_label):
    module, h, rows = build(ADSH, multi_label), draw(4, BITS).tanh(), [8, 2, 0, 1]
    labels = (MULTI_HOT if multi_label else CLASS_NUMBERS).tolist()
    seen = sorted(rows)
    values = [h[rows.index(j)].tolist() for j in seen]
    similarity = slow_similarity([labels[j] for j in seen], [labels[j] for j in seen])
    codes = slow_codes([[0.0] * BITS] * 4, values, similarity, values, 200.0)
    own = [codes[seen.index(i)] for i in rows]
    of_batch = slow_similarity([labels[i] for i in rows], [labels[j] for j in seen])
    loss = module.loss({"h": h}, batch_of(rows, multi_label))["loss"].item()
    assert loss == pytest.approx(slow_loss(h.tolist(), codes, own, of_batch, 200.0, 10))
    assert module.bank.codes[seen].tolist() == codes
    assert not module.bank.codes[[3, 4, 5, 6, 7, 9]].any()


def test_codes_stay_until_the_sample_is_complete_and_then_follow_it():
    module = build(ADSH, num_samples=5, gamma=0.01)
    first, second = batch_of([0, 1, 2]), batch_of([3, 4])
    module.loss({"h": draw(3, BITS).tanh()}, first)
    codes = module.bank.codes[:3].clone()
    module.on_train_batch_end(None, first, 0)
    assert torch.equal(module.bank.codes[:3], codes)
    module.loss({"h": draw(2, BITS, seed=7).tanh()}, second)
    values = module.bank.values[:5].clone()
    before = module.bank.codes[:5].clone()
    module.on_train_batch_end(None, second, 1)
    rows = CLASS_NUMBERS.tolist()[:5]
    expected = slow_codes(before.tolist(), values.tolist(), slow_similarity(rows, rows), values.tolist(), 0.01)
    assert module.bank.codes[:5].tolist() == expected
    assert not module.bank.in_sample.any()


def test_the_end_of_an_epoch_ends_its_sample():
    module = build(ADSH, codes_start_at_zero_as_published=True)
    module.loss({"h": draw(3, BITS).tanh()}, batch_of([0, 1, 2]))
    assert not module.bank.codes.any()
    module.on_train_epoch_end()
    assert module.bank.codes[:3].abs().min() == 1
    assert not module.bank.in_sample.any()


def test_each_update_lowers_the_objective():
    labels, values = CLASS_NUMBERS, draw(10, BITS).tanh()
    codes = draw(10, BITS, seed=1).sign()
    similarity = torch.tensor(slow_similarity(labels.tolist(), labels.tolist())).double()

    def objective(codes):
        return ((values @ codes.T - BITS * similarity).square().sum() + 2 * (codes - values).square().sum()).item()

    costs = [objective(codes)]
    for _ in range(3):
        codes = update_codes(codes, values, labels, labels, values, 2.0)
        costs.append(objective(codes))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_the_head_is_the_tanh_of_the_hash_layer():
    module, features = build(ADSH).float(), torch.randn(2, 4)
    torch.testing.assert_close(module.head(features)["h"], module.hash_layer(features).tanh())


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match=r"task\.num_samples=0"):
        build(ADSH, num_samples=0)

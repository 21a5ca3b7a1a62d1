"""MDSH's two losses against loops over single pairs, and its bank."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from plain_numbers import assert_value_and_gradient, cosine, softmax
from small_tasks import small_batch, small_task, trained_loss

from lit_modules.hashing.mdsh import MDSH, centre_loss, positive_pair_loss
from records.notices import RunWarning


def slow_centre_loss(rows, present, bits):
    total = 0.0
    for row, classes in zip(rows, present, strict=True):
        for j, p in enumerate(softmax([math.sqrt(bits) * value for value in row])):
            total -= math.log(p) if j in classes else math.log(1 - p)
    return total / (len(rows) * len(rows[0]))


def slow_pair_loss(h, values, together):
    terms = [
        math.log(1 + math.exp((1 - cosine(h[i], values[j])) / 2))
        for i in range(len(h))
        for j in range(len(values))
        if together(i, j)
    ]
    return sum(terms) / len(terms)


CLASSES = [{0}, {2}, {1}, {1}, {3}]
SEVERAL = [{0, 1}, {2}, set(), {1, 2, 3}, {3}]


def multi_hot(classes):
    return torch.tensor([[float(c in row) for c in range(4)] for row in classes])


@pytest.mark.parametrize("several", [False, True])
def test_centre_loss_and_gradient_equal_the_slow_loop(several):
    cosines = 2 * torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    classes = SEVERAL if several else CLASSES
    label = multi_hot(classes) if several else torch.tensor([0, 2, 1, 1, 3])
    assert_value_and_gradient(lambda x: centre_loss(x, label, 16), lambda x: slow_centre_loss(x, classes, 16), cosines)


def test_a_certain_class_has_a_finite_loss():
    cosines = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = centre_loss(cosines, torch.tensor([1]), 400)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize("several", [False, True])
def test_pair_loss_and_gradient_equal_the_slow_loop(several):
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    values = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    classes = SEVERAL if several else CLASSES
    others = [{1}, {3}, set(), {0, 2}, {1}, {2}, {0}] if several else [{1}, {3}, {3}, {0}, {1}, {2}, {0}]
    label, labels = (
        (multi_hot(classes), multi_hot(others))
        if several
        else (torch.tensor([0, 2, 1, 1, 3]), torch.tensor([1, 3, 3, 0, 1, 2, 0]))
    )
    assert_value_and_gradient(
        lambda x: positive_pair_loss(x, label, values, labels),
        lambda x: slow_pair_loss(x, values.tolist(), lambda i, j: bool(classes[i] & others[j])),
        h,
    )


def test_without_a_pair_of_one_class_the_loss_is_zero():
    h, values = torch.ones(1, 3), torch.ones(2, 3)
    assert positive_pair_loss(h, torch.tensor([0]), values, torch.tensor([1, 2])) == 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_pairs_are_taken_with_all_images_seen_so_far(multi_label):
    module = small_task(MDSH, multi_label, gather_batch=True, pair_from_epoch=0)
    first, second = small_batch(10, multi_label), small_batch(8, multi_label, start=10, seed=1)
    earlier = module(first)["h"]
    trained_loss(module, first)
    outputs = module(second)
    losses = module.loss(outputs, second)
    values = torch.cat([earlier, outputs["h"]]).detach()
    labels = torch.cat([first["label"], second["label"]])
    expected = positive_pair_loss(outputs["h"], second["label"], values, labels)
    torch.testing.assert_close(losses["pair"], expected)
    total = losses["centre"] + losses["pair"] + 1e-4 * losses["quantization"]
    torch.testing.assert_close(losses["loss"], total)


def test_pairs_wait_for_their_epoch():
    module, batch = small_task(MDSH, gather_batch=True, pair_from_epoch=1), small_batch()
    losses = module.loss(module(batch), batch)
    torch.testing.assert_close(losses["loss"], losses["centre"] + 1e-4 * losses["quantization"])
    assert losses["pair"] > 0


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_hash_layer_is_a_linear_map_a_batch_norm_and_a_tanh(batch_norm, tanh):
    module = small_task(MDSH, gather_batch=True, batch_norm=batch_norm, tanh=tanh, init_std=0.5)
    features = torch.randn(10, module.backbone.num_features, generator=torch.Generator().manual_seed(0))
    module.train()
    rows = (features.double() @ module.hash_layer.weight.detach().double().T).tolist()
    assert (module.hash_layer.bias is None) is batch_norm
    for column in range(len(rows[0])) if batch_norm else ():
        values = [row[column] for row in rows]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)
        for row in rows:
            row[column] = (row[column] - mean) / deviation
    expected = [[math.tanh(value) if tanh else value for value in row] for row in rows]
    torch.testing.assert_close(module.head(features)["h"], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_all_terms_and_the_bank_see_the_bounded_values():
    module, batch = small_task(MDSH, gather_batch=True, pair_from_epoch=0, quantization_weight=0.3), small_batch()
    module.train()
    outputs = module(batch)
    h = outputs["h"]
    losses = module.loss(outputs, batch)
    assert h.abs().max() < 1
    assert torch.equal(module.bank.values[batch["index"]], h.detach())
    torch.testing.assert_close(losses["quantization"], (h.abs() - 1).square().mean())
    cosines = [[cosine(row, centre) for centre in module.codebook.signs.tolist()] for row in h.tolist()]
    present = [{label} for label in batch["label"].tolist()]
    assert losses["centre"].item() == pytest.approx(slow_centre_loss(cosines, present, 12), rel=1e-5)
    pairs = slow_pair_loss(h.tolist(), h.tolist(), lambda i, j: present[i] == present[j])
    assert losses["pair"].item() == pytest.approx(pairs, rel=1e-5)


@pytest.mark.parametrize(
    ("epochs", "weight", "is_told"),
    [(5, 1.0, True), (9, 1.0, True), (10, 1.0, False), (-1, 1.0, False), (5, 0.0, False)],
)
def test_a_run_that_ends_before_the_pairs_count_is_told(epochs, weight, is_told, monkeypatch):
    module = small_task(MDSH, gather_batch=True, bank_from_epoch=1, pair_weight=weight)
    monkeypatch.setattr(MDSH, "trainer", SimpleNamespace(max_epochs=epochs))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module.on_fit_start()
    assert [one.category for one in seen] == [RunWarning] * is_told
    if is_told:
        assert f"trainer.max_epochs={epochs} with task.pair_from_epoch=9" in str(seen[0].message)


def test_an_epoch_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"task\.pair_from_epoch=-1"):
        small_task(MDSH, gather_batch=True, pair_from_epoch=-1)

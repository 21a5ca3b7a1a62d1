"""Images drawn to be pasted into others, and views without labels, are functions of (seed, epoch) on any ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.digits_lt import DigitsLongTail
from datamodules.foreground import ForegroundDraws
from records.errors import UserError


def digits(**settings: Any) -> DigitsLongTail:
    return DigitsLongTail(**{"image_size": 16, "seed": 0, "batch_size": 50, **settings})


def at(data: DigitsLongTail, epoch: int, rank: int = 0, ranks: int = 1) -> DigitsLongTail:
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        overfit_batches=0, fit_loop=SimpleNamespace(epoch_progress=progress), global_rank=rank, world_size=ranks
    )
    return data


def joined(batches: Any, key: str) -> torch.Tensor:
    return torch.cat([batch[key] for batch in batches])


def test_backgrounds_stay_as_they_are_and_foregrounds_are_drawn_with_classes_alike() -> None:
    plain, drawn = (list(at(digits(foreground=kind), 1).train_dataloader()) for kind in ("none", "balanced"))
    for key in ("image", "label", "index"):
        assert torch.equal(joined(plain, key), joined(drawn, key))
    labels = torch.cat(
        [joined(list(at(digits(foreground="balanced"), e).train_dataloader()), "foreground_label") for e in range(8)]
    )
    shares = torch.bincount(labels, minlength=10) / len(labels)
    assert shares.min() > 0.07
    assert shares.max() < 0.13
    batch = drawn[0]
    assert batch["foreground"].shape == batch["image"].shape
    assert batch["foreground"].dtype == torch.uint8


def test_foregrounds_are_the_images_of_their_labels_in_random_versions() -> None:
    data = at(digits(foreground="balanced", augment={"crop_padding": 2}), 0)
    first = list(data.train_dataloader())
    again = list(at(digits(foreground="balanced", augment={"crop_padding": 2}), 0).train_dataloader())
    other = list(at(digits(foreground="balanced", augment={"crop_padding": 2}), 1).train_dataloader())
    assert torch.equal(joined(first, "foreground"), joined(again, "foreground"))
    assert not torch.equal(joined(first, "foreground_label"), joined(other, "foreground_label"))
    stored = digits(foreground="balanced")
    pixels = stored.data.source.read(stored.positions("train"))
    batch = next(iter(at(digits(foreground="balanced"), 0).train_dataloader()))
    for image, label in zip(batch["foreground"][:10], batch["foreground_label"][:10], strict=True):
        same = (pixels == image).flatten(1).all(dim=1)
        assert label in stored.labels("train")[same]


def test_ranks_share_out_what_one_process_sees() -> None:
    whole = next(iter(at(digits(foreground="sqrt", batch_size=40), 2).train_dataloader()))
    parts = [next(iter(at(digits(foreground="sqrt", batch_size=20), 2, rank, 2).train_dataloader())) for rank in (0, 1)]
    for key in ("label", "foreground", "foreground_label"):
        assert torch.equal(torch.stack([part[key] for part in parts], dim=1).flatten(0, 1), whole[key])


def test_unlabelled_views_have_no_labels_and_differ_from_epoch_to_epoch() -> None:
    data = digits(batch_size=100)
    epochs = [list(data.unlabelled_loader("test", epoch)) for epoch in (0, 0, 1)]
    assert {key for batch in epochs[0] for key in batch} == {"views", "index"}
    assert joined(epochs[0], "index").sort().values.tolist() == list(range(600))
    assert torch.equal(epochs[0][0]["views"], epochs[1][0]["views"])
    assert not torch.equal(epochs[0][0]["views"], epochs[2][0]["views"])
    assert not torch.equal(epochs[0][0]["views"][0], epochs[0][0]["views"][1])


def test_an_unknown_rule_and_several_labels_are_refused(toy_multi_label: Any) -> None:
    with pytest.raises(UserError, match=r"data\.foreground is 'rare'; the choices are none, balanced, sqrt, effective"):
        digits(foreground="rare")

    class Pasted(ForegroundDraws, type(toy_multi_label())):  # type: ignore[misc]
        pass

    with pytest.raises(UserError, match=r"data\.foreground is balanced.*data\.foreground=none"):
        at(Pasted(foreground="balanced", image_size=None, seed=0, batch_size=8), 0).train_dataloader()

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from records.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from datamodules.images.source import Batch

AUGMENT = {"crop_padding": 2, "horizontal_flip": True}


def contents(loader: Iterable[Batch]) -> list[tuple[bytes, list[int], list[int]]]:
    return [(b["image"].numpy().tobytes(), b["label"].tolist(), b["index"].tolist()) for b in loader]


class StandInTrainer:
    """The four facts a data module asks a trainer for."""

    overfit_batches = 0

    class FitLoop:
        class EpochProgress:
            class Current:
                def __init__(self, processed: int) -> None:
                    self.processed = processed

            def __init__(self, processed: int) -> None:
                self.current = self.Current(processed)

        def __init__(self, processed: int) -> None:
            self.epoch_progress = self.EpochProgress(processed)

    def __init__(self, epoch: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.fit_loop = self.FitLoop(epoch)
        self.global_rank = rank
        self.world_size = world_size


def test_facts_of_single_label_data(toy: Any) -> None:
    data = toy(val_fraction=0.25)
    assert data.has_validation
    assert (data.num_classes, data.class_names, data.multi_label) == (3, ("a", "b", "c"), False)
    assert data.class_counts.tolist() == [9, 9, 9]
    assert data.sizes == {"train": 27, "val_query": 9, "val_database": 27, "query": 12, "database": 48}
    assert len(data.fingerprint) == 64
    assert data.fingerprint != toy().fingerprint
    assert data.fingerprint == toy(val_fraction=0.25, seed=9).fingerprint
    assert data.fingerprint != toy(val_fraction=0.25, split_seed=9).fingerprint


def test_facts_of_multi_label_data(toy_multi_label: Any) -> None:
    data = toy_multi_label(val_fraction=0.2)
    assert data.multi_label
    assert data.sizes == {"train": 24, "val": 6, "test": 10}
    expected = [sum(int(row[c]) for row in data.labels("train").tolist()) for c in range(4)]
    assert data.class_counts.tolist() == expected
    (loader,) = data.val_dataloader()
    assert next(iter(loader))["label"].shape == (6, 4)


def test_held_out_images_query_the_training_images_and_stay_in_the_test_database(toy: Any) -> None:
    data = toy(val_fraction=0.25)
    train, held = set(data.positions("train").tolist()), set(data.positions("val_query").tolist())
    assert not train & held
    assert set(data.positions("val_database").tolist()) == train
    assert train | held == set(toy().positions("train").tolist())
    assert held <= set(data.positions("database").tolist())
    assert not held & set(data.positions("query").tolist())


def test_evaluation_loaders_are_query_then_database(toy: Any) -> None:
    data = toy(val_fraction=0.25, eval_batch_size=5, augment=AUGMENT)
    for loaders, splits in (
        (data.val_dataloader(), ("val_query", "val_database")),
        (data.test_dataloader(), ("query", "database")),
    ):
        assert len(loaders) == 2
        for loader, split in zip(loaders, splits, strict=True):
            batches = list(loader)
            index = torch.cat([batch["index"] for batch in batches])
            assert index.tolist() == list(range(data.sizes[split]))
            assert torch.equal(torch.cat([batch["image"] for batch in batches]), data.pictures(split, index))
            assert torch.equal(torch.cat([batch["label"] for batch in batches]), data.labels(split))


def test_without_validation_there_is_no_validation_loader(toy: Any) -> None:
    data = toy()
    assert data.val_dataloader() == []
    assert not data.has_validation
    with pytest.raises(UserError, match="no split 'val_query'; the choices are train, query, database"):
        data.pictures("val_query", [0])


def test_pictures_keep_their_own_resolution(toy: Any) -> None:
    data = toy(image_size=12)
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 3, 12, 12)
    assert data.pictures("query", torch.tensor([1, 0])).shape == (2, 3, 6, 6)
    assert torch.equal(data.pictures("query", torch.tensor([1, 0])), data.pictures("query", [0, 1]).flip(0))


def test_every_epoch_has_an_order_and_an_augmentation_of_its_own_and_repeats_them(toy: Any) -> None:
    seen = []
    for epoch in (0, 1, 0):
        data = toy(augment=AUGMENT)
        data.trainer = StandInTrainer(epoch)
        seen.append(contents(data.train_dataloader()))
    assert seen[0] == seen[2]
    assert [indices for *_, indices in seen[0]] != [indices for *_, indices in seen[1]]
    assert seen[0] == contents(toy(augment=AUGMENT).train_dataloader())


def test_an_augmented_sample_does_not_depend_on_batch_size_or_rank(toy: Any) -> None:
    alone = toy(augment=AUGMENT, batch_size=36)
    pictures = {}
    for batch in alone.train_dataloader():
        pictures.update(zip(batch["index"].tolist(), batch["image"], strict=True))
    seen = 0
    for rank in range(3):
        data = toy(augment=AUGMENT, batch_size=5)
        data.trainer = StandInTrainer(0, rank, 3)
        for batch in data.train_dataloader():
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                assert torch.equal(image, pictures[index])
                seen += 1
    assert seen == 36


def test_ranks_share_the_evaluation_without_padding(toy: Any) -> None:
    indices = []
    for rank in range(5):
        data = toy(eval_batch_size=2)
        data.trainer = StandInTrainer(0, rank, 5)
        query, _ = data.test_dataloader()
        indices += [index for batch in query for index in batch["index"].tolist()]
    assert sorted(indices) == list(range(12))


def test_workers_change_nothing_and_draw_nothing_from_the_global_generator(toy: Any) -> None:
    alone = toy(augment=AUGMENT)
    with_workers = toy(augment=AUGMENT, num_workers=2)
    before = torch.get_rng_state()
    assert contents(alone.train_dataloader()) == contents(with_workers.train_dataloader())
    for first, second in zip(alone.test_dataloader(), with_workers.test_dataloader(), strict=True):
        assert contents(first) == contents(second)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sampling_rule_may_repeat_samples(toy: Any) -> None:
    data = toy(augment=AUGMENT, batch_size=6)
    data.training_order = lambda epoch: torch.tensor([3] * 6)
    (batch,) = list(data.train_dataloader())
    assert batch["index"].tolist() == [3] * 6
    assert len({image.numpy().tobytes() for image in batch["image"]}) > 3


def test_splits_are_written_and_read_back(toy: Any, tmp_path: Path) -> None:
    written = toy(val_fraction=0.25, split_seed=4, split_dir=tmp_path / "splits")
    written.setup()
    assert written.split_path == tmp_path / "splits" / "toy-seed4.json"
    settings = {"split_file": written.split_path, "split_seed": 4}
    read = toy(val_fraction=0.25, **settings)
    assert read.fingerprint == written.fingerprint
    assert read.sizes == written.sizes
    with pytest.raises(UserError, match=r"val_fraction=0\.25"):
        toy(**settings).setup()
    with pytest.raises(UserError, match="split_seed=4"):
        toy(val_fraction=0.25, split_file=written.split_path).setup()


def test_folds_validate_each_training_image_once_and_leave_the_test_part_alone(toy: Any, tmp_path: Path) -> None:
    whole = toy()
    held = []
    for fold in range(3):
        data = toy(val_fraction=0.25, folds=3, fold=fold, split_dir=tmp_path)
        assert data.has_validation
        assert data.sizes == {"train": 24, "val_query": 12, "val_database": 24, "query": 12, "database": 48}
        assert not set(data.positions("train").tolist()) & set(data.positions("val_query").tolist())
        assert torch.equal(data.positions("query"), whole.positions("query"))
        assert torch.equal(data.positions("database"), whole.positions("database"))
        held += data.positions("val_query").tolist()
        assert data.split_path.name == f"toy-seed0-fold{fold}of3.json"
    assert sorted(held) == sorted(whole.positions("train").tolist())
    settings = {"folds": 3, "split_file": tmp_path / "toy-seed0-fold1of3.json"}
    assert toy(**settings, fold=1).sizes["val_query"] == 12
    with pytest.raises(UserError, match=r"data\.fold=1 of data\.folds=3"):
        toy(**settings, fold=0).setup()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"eval_batch_size": -1}, r"data\.eval_batch_size is -1"),
        ({"image_size": 0}, r"data\.image_size is 0"),
        ({"num_workers": -1}, r"data\.num_workers is -1"),
        ({"val_fraction": 1.0}, r"data\.val_fraction is 1\.0"),
        ({"val_fraction": -0.1}, r"data\.val_fraction is -0\.1"),
        ({"folds": 1}, r"data\.folds is 1"),
        ({"fold": 5}, r"data\.fold is 5; with data\.folds=5 it is one of 0 \.\. 4"),
        ({"fold": -1}, r"data\.fold is -1"),
        ({"augment": {"flip": True}}, r"data\.augment\.flip is unknown"),
    ],
)
def test_values_out_of_range_are_refused_by_key(toy: Any, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        toy(**settings)


class Recorder(lightning.LightningModule):
    """Writes down what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained: list[tuple[int, bytes, list[int]]] = []
        self.validated: list[tuple[int, int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trained.append((self.current_epoch, batch["image"].numpy().tobytes(), batch["index"].tolist()))
        return self.layer(batch["image"].float().mean().view(1, 1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not self.trainer.sanity_checking:
            self.validated += [(dataloader_idx, index) for index in batch["index"].tolist()]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated += [(dataloader_idx, index) for index in batch["index"].tolist()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer_for(epochs: int, folder: Path, **checkpoint: Any) -> lightning.Trainer:
    callbacks: list[Any] = [ModelCheckpoint(folder, save_last=True, **checkpoint)] if checkpoint else []
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("on_train_epoch_end", "val_fraction"), [(True, 0.25), (False, 0.25), (True, 0.0)])
def test_a_resumed_run_sees_the_batches_of_a_straight_one(
    toy: Any, tmp_path: Path, on_train_epoch_end: bool, val_fraction: float
) -> None:
    settings = {"val_fraction": val_fraction, "augment": AUGMENT}
    straight = Recorder()
    trainer_for(4, tmp_path).fit(straight, datamodule=toy(**settings))
    checkpoint = {"save_on_train_epoch_end": on_train_epoch_end}
    first, second = Recorder(), Recorder()
    trainer_for(2, tmp_path, **checkpoint).fit(first, datamodule=toy(**settings))
    trainer_for(4, tmp_path, **checkpoint).fit(
        second, datamodule=toy(**settings), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True
    )
    assert first.trained + second.trained == straight.trained
    assert len({indices[0] for _, _, indices in straight.trained}) > 2
    assert len(straight.validated) == (4 * (9 + 27) if val_fraction else 0)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_tests_every_sample_once(toy: Any, tmp_path: Path) -> None:
    module = Recorder()
    trainer_for(1, tmp_path).test(module, datamodule=toy(eval_batch_size=5), verbose=False)
    assert module.validated == [(0, index) for index in range(12)] + [(1, index) for index in range(48)]

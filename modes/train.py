"""mode=train: train, test on the chosen weights, write the run directory; with run=DIR go on where it stopped."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.profilers import Profiler
from omegaconf import DictConfig, OmegaConf

from callbacks.checkpoint_io import sound_checkpoint
from callbacks.checkpoints import BestCheckpoint
from callbacks.loggers import SteadyWandbLogger
from launch.run_stamp import is_restarted
from lit_modules.base import LabelSpace, TaskModule
from lit_modules.fewshot.base import FewShotModule
from lit_modules.optimization import count_parameters
from modes import build, encoders, initial, screen
from modes.cached_features import cached_features, caches_features
from modes.kept_memory import keep_freed_memory
from modes.life import Settings, live
from records.atomic_file import write_text
from records.environment import hardware, is_first_process
from records.errors import UserError
from records.labels_file import KnownLabels, write_labels
from records.report import write_report
from records.result import RunRecord, read_result
from records.run_directory import RunDirectory


def run(config: DictConfig, overrides: list[str]) -> int:
    """Train and test what `config` describes; return the exit code."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    if settings["run"] is not None:
        refuse_if_completed(settings)
    elif is_first_process() and not is_restarted():
        refuse_if_occupied(RunDirectory(settings["paths"]["run_dir"]))
    again = ["mode=train", f"run={settings['paths']['run_dir']}"]
    return live(settings, overrides, train, again)


def refuse_if_completed(settings: Settings) -> None:
    """Raise UserError where the run to resume has already done all its epochs."""
    run = RunDirectory(settings["run"])
    result = read_result(run.result)
    stored = OmegaConf.load(run.config)
    epochs = settings["trainer"]["max_epochs"]
    if result.status == "completed" and epochs <= stored.trainer.max_epochs:
        raise UserError(
            f"run={run.path}: this run completed its {stored.trainer.max_epochs} epochs. "
            f"To train on: trainer.max_epochs={2 * epochs}. To test it again: mode=test."
        )


def refuse_if_occupied(run: RunDirectory) -> None:
    """Raise UserError where a new run would write over another one."""
    if run.result.is_file():
        raise UserError(
            f"hydra.run.dir={run.path}: a run lies there already. Go on with it: mode=train run={run.path}; "
            "or name another directory for a new one."
        )


def train(settings: Settings, record: RunRecord) -> None:
    """Build the parts, fit, test, and complete the record."""
    build.check(settings)
    quieten_lightning()
    run = RunDirectory(settings["paths"]["run_dir"])
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    backbone = build.build_backbone(settings)
    data, seen_through = encoders.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data, **encoders.supplied(seen_through))
    initial.apply_initial_weights(settings, task, data, is_resumed=run.last_checkpoint.is_file())
    trainer = build.build_trainer(settings, data)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    describe(record, task, data, trainer)
    keep_labels(run, task.labels)
    screen.show_start(settings, task, data, trainer, run)
    if caches_features(settings):
        data = cached_features(task, data, trainer, sound_checkpoint([run.last_checkpoint, run.best_checkpoint]))
    if initial.frozen_part(settings) == "all":
        evaluate_untrained(trainer, task, data, run, record)
    else:
        with record.measure("training"):
            fit(trainer, task, data, run)
        with record.measure("testing"):
            test(trainer, task, data, chosen_checkpoint(trainer, run, record))
    complete(record, task, trainer, run)


def fit(trainer: L.Trainer, task: TaskModule, data: Any, run: RunDirectory) -> None:
    """Train, from the last checkpoint of the run directory where there is one; where it is damaged, from the best."""
    checkpoint = sound_checkpoint([run.last_checkpoint, run.best_checkpoint])
    if checkpoint:
        screen.say(f"Going on from the last whole epoch: {checkpoint}")
    # Lightning leaves every module in the mode it finds it in; a task decides here what it keeps in evaluation mode
    task.train()
    interruptible(lambda: trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True))


def evaluate_untrained(trainer: L.Trainer, task: TaskModule, data: Any, run: RunDirectory, record: RunRecord) -> None:
    """Test the weights that the task starts with, and keep them as the run's checkpoint; a resumed run has it."""
    with record.measure("testing"):
        test(trainer, task, data, sound_checkpoint([run.last_checkpoint]))
    trainer.save_checkpoint(run.last_checkpoint)
    record.describe(checkpoint_used="last")


def test(trainer: L.Trainer, task: TaskModule, data: Any, checkpoint: Path | None) -> None:
    """Test the weights of `checkpoint`, or those the task holds where there is none."""
    interruptible(lambda: trainer.test(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False))


def chosen_checkpoint(trainer: L.Trainer, run: RunDirectory, record: RunRecord) -> Path | None:
    """Return the best checkpoint where a validation part chose one, and note which weights are tested."""
    chosen = best_checkpoint(trainer) is not None
    record.describe(checkpoint_used="best" if chosen else "last")
    if chosen:
        return run.best_checkpoint
    # not the weights at hand: those of a run that was stopped after its last epoch are not averaged again (EMA)
    return run.last_checkpoint if run.last_checkpoint.is_file() else None


def complete(record: RunRecord, task: TaskModule, trainer: L.Trainer, run: RunDirectory) -> None:
    """End the record, write the report, show the table.

    The validation metrics are those of the epoch that is tested: the best one, or the last.
    """
    best = best_checkpoint(trainer)
    # once more: a few-shot head has its parameters from the fit
    record.describe(parameters=parameters_of(task))
    metrics = task.exact_metrics if best is None else {**task.exact_metrics, **best.best_metrics}
    record.finish(metrics, None if best is None else best.best_score)
    if trainer.is_global_zero:
        keep_profile(trainer, run)
        write_report(run)
        finish_wandb(trainer)
        screen.show_end(record.result, run)


def finish_wandb(trainer: L.Trainer) -> None:
    """End the run at Weights & Biases, where one is logged to."""
    for logger in trainer.loggers:
        if isinstance(logger, SteadyWandbLogger):
            logger.finish()


def keep_profile(trainer: L.Trainer, run: RunDirectory) -> None:
    """Print what a profiler measured and keep it in the run directory, where there is one."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    table = profiler.summary()
    if table:
        write_text(run.path / "profile.txt", table)
        screen.say(table)


def best_checkpoint(trainer: L.Trainer) -> BestCheckpoint | None:
    """Return the callback that chose the best epoch, None where no validation part has been judged."""
    found = [one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)]
    return found[0] if found and found[0].best_score is not None else None


def describe(record: RunRecord, task: TaskModule, data: Any, trainer: L.Trainer) -> None:
    """Note in the record what is known once everything is built."""
    protocol = {**getattr(data, "evaluation_protocol", {}), **getattr(task, "evaluation_protocol", {})}
    if isinstance(task, FewShotModule):
        protocol |= task.seen_by_fit(data)
    describe_data(record, data, protocol, data.fingerprint, screen.gpu_names(trainer))
    record.describe(parameters=parameters_of(task))


def describe_data(
    record: RunRecord, data: Any, protocol: Mapping[str, Any], fingerprint: str, gpus: Sequence[str]
) -> None:
    """Note in the record what is known of the data, what a figure on them depends on, and the machine."""
    record.describe(
        data_sizes=dict(data.sizes),
        num_classes=data.num_classes,
        fingerprint=fingerprint,
        protocol=dict(protocol),
        hardware=hardware(list(gpus)),
    )


def keep_labels(run: RunDirectory, labels: LabelSpace) -> None:
    """Write the classes of a task, so that what came of it can be read and used where its data are not."""
    if is_first_process():
        write_labels(
            run, KnownLabels(labels.class_names, labels.class_counts, labels.multi_label, {"train": labels.train_size})
        )


def parameters_of(task: TaskModule) -> dict[str, int]:
    """Count the parameters of a task, and of the encoders it looks through where it reports them.

    Trainable are those that optimizer steps change: none of a task that is fitted at once.
    """
    total, trainable = count_parameters(task.parameters())
    return {"total": total, "trainable": 0 if task.fits_at_once else trainable, **getattr(task, "parameter_report", {})}


def interruptible(call: Callable[[], object]) -> None:
    """Call into Lightning, which turns Ctrl-C into SystemExit once it has cleaned up; make it Ctrl-C again."""
    try:
        call()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(
            "the checkpoint does not fit this configuration: leave out the task.* and model.* values that differ from "
            f"the run's config.yaml, or start a new run with them. {' '.join(str(error).split())}"
        ) from error


def quieten_lightning() -> None:
    """Keep Lightning's tips and device lines off the screen: the start screen says what matters of them."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # with many cores Lightning would have every loader take workers; our in-memory sets need none
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Consider setting `persistent_workers=True`.*")
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval.*")
    # a frozen backbone is in evaluation mode on purpose
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training.*")
    # every rank computes a metric over all ranks, so that a mean over ranks would only round it
    warnings.filterwarnings("ignore", "It is recommended to use `self.log.*sync_dist=True.*")
    # Lightning calls a function that newer PyTorch renames
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")

"""Loggers in a way that never stops a run: any that Lightning has, and Weights & Biases with an offline fallback."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.metrics_table import MetricsTable
from callbacks.wandb_account import Mode, choose_mode
from records.atomic_file import write_text
from records.console import say
from records.errors import UserError
from records.notices import RunWarning
from records.override_set import override_settings, short_name
from records.result import read_result
from records.run_directory import RunDirectory
from records.wandb_names import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch.callbacks import Checkpoint
    from torch import Tensor
    from torch.nn import Module

ARTIFACTS = ("checkpoints", "codes")
NO_NAME = ("mode", "run", "logger", "paths.", "trainer.accelerator", "trainer.devices")
"""Beginnings of overrides that are no part of a run's name."""


def wandb_logger(
    directory: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    offline: bool | Literal["auto"] = "auto",
    artifacts: list[str] | None = None,
) -> SteadyWandbLogger:
    """Build the W&B logger of a run.

    The identity of the W&B run is kept in the run directory, so a resumed run continues the same one. An
    offline run lies below DIRECTORY/wandb and is sent later with `wandb sync` (with `--append` where the run
    was resumed).

    Args:
        directory: the run directory.
        project: W&B project.
        entity: user or team; None for the account's own.
        group: W&B groups runs by this, for instance the name of a sweep.
        job_type: for instance the task.
        name: shown name of the run; None for what was typed in short (`bits=32 seed=1`), or the directory's name.
        tags: words to find the run by, beside those of W&B's own variable WANDB_TAGS.
        offline: True writes to disk only; False insists on sending; `auto` goes by WANDB_MODE where it
            is set, and otherwise sends only with an API key and a server that answers within 3 seconds.
        artifacts: what is kept at W&B as artifacts, any of `checkpoints` and `codes`; nothing by default.

    Raises:
        UserError: `offline` or `artifacts` are something else.
    """
    unknown = [one for one in artifacts or () if one not in ARTIFACTS]
    if unknown:
        raise UserError(f"logger.wandb.artifacts={unknown}; choices: {', '.join(ARTIFACTS)}.")
    run = RunDirectory(Path(directory))
    return SteadyWandbLogger(
        run_directory=run,
        mode=choose_mode(offline),
        artifacts=tuple(artifacts or ()),
        name=name or _typed(run) or run.path.name,
        project=project,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=list(dict.fromkeys([*(tags or ()), *_tags_of_environment()])),
    )


def _tags_of_environment() -> list[str]:
    return [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]


def steady(logger: Logger) -> Logger:
    """Return a logger whose failures are warnings of the run; metrics.csv and W&B look after themselves."""
    return logger if isinstance(logger, (MetricsTable, _Steadiness)) else SteadyLogger(logger)


class _Steadiness:
    """What a logger does when it fails: the run says so once, goes on, and leaves it alone."""

    _label: str
    _given_up = False

    def _steadily(self, action: Callable[..., None], *arguments: Any, **named: Any) -> None:
        if self._given_up:
            return
        try:
            action(*arguments, **named)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        _warn(f"{self._label} failed and is left alone from here on ({type(error).__name__}: {error}).")


class SteadyLogger(_Steadiness, Logger):
    """Any logger, in a way that its failure is a warning of the run.

    Args:
        logger: the logger itself.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger
        self._label = f"logger {type(logger).__name__}"

    @property
    def name(self) -> str | None:
        """The logger's own name."""
        return self._logger.name

    @property
    def version(self) -> int | str | None:
        """The logger's own version."""
        return self._logger.version

    @property
    def save_dir(self) -> str | None:
        """The logger's own folder."""
        return self._logger.save_dir

    @property
    def group_separator(self) -> str:
        """What the logger puts between a group and a name."""
        return self._logger.group_separator

    @property
    def experiment(self) -> Any:
        """The logger's own experiment; a stand-in that takes every call and does nothing once it has failed."""
        if not self._given_up:
            try:
                return self._logger.experiment  # type: ignore[attr-defined]
            except AttributeError:
                # Not every logger has one; Lightning asks by `hasattr`.
                raise
            except Exception as error:
                self._give_up(error)
        return _Nothing()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of one step, if the logger can."""
        self._steadily(self._logger.log_metrics, dict(metrics), step)

    def log_hyperparams(self, params: Any, *arguments: Any, **named: Any) -> None:
        """Log the settings, if the logger can."""
        self._steadily(self._logger.log_hyperparams, params, *arguments, **named)

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Log the network's graph, if the logger can."""
        self._steadily(self._logger.log_graph, model, input_array)

    def save(self) -> None:
        """Save, if the logger can."""
        self._steadily(self._logger.save)

    def finalize(self, status: str) -> None:
        """Finish, if the logger can."""
        self._steadily(self._logger.finalize, status)

    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Take note of a checkpoint, if the logger can."""
        self._steadily(self._logger.after_save_checkpoint, checkpoint_callback)


class SteadyWandbLogger(_Steadiness, WandbLogger):
    """Lightning's W&B logger that turns every failure of W&B into a warning of the run.

    A run that cannot be started online is started offline; one that cannot be started at all, or fails later,
    is left alone from then on, and training goes on.

    Args:
        run_directory: where the offline files and the W&B identity are kept.
        mode: `online`, `offline` or `disabled`.
        artifacts: what is to be kept as artifacts (`callbacks.wandb_tables`).
        settings: further arguments of `wandb.init`.
    """

    def __init__(
        self, run_directory: RunDirectory, mode: Mode, artifacts: tuple[str, ...] = (), **settings: Any
    ) -> None:
        self._run_directory = run_directory
        self.artifacts = artifacts
        self._label = "logger=wandb: W&B"
        super().__init__(
            save_dir=str(run_directory.path),
            id=_kept_run_id(run_directory),
            mode=mode,
            # An offline run cannot ask the server for its past; W&B warns if it is told to.
            resume="allow" if mode == "online" else None,
            **settings,
        )
        # Lightning passes it on, and W&B warns that it means nothing.
        self._wandb_init.pop("anonymous", None)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; a stand-in that takes every call and does nothing once W&B has failed."""
        if self._given_up:
            return _Nothing()
        if self._experiment is None:
            self._run_directory.path.mkdir(parents=True, exist_ok=True)
            self._experiment = self._started()
        return _Nothing() if self._experiment is None else self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the values of one step, if W&B can."""
        self._steadily(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Send the settings, if W&B can."""
        self._steadily(super().log_hyperparams, params)

    @rank_zero_only
    def record(self, action: Callable[[Any], None]) -> None:
        """Do something with the W&B run, if W&B can."""
        self._steadily(lambda: action(self.experiment))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish what Lightning asks for, if W&B can."""
        self._steadily(super().finalize, status)

    @rank_zero_only
    def finish(self) -> None:
        """End the W&B run, if there is one: what is left is sent or written. Without this its process ends it later."""
        if self._experiment is not None:
            self._steadily(self._experiment.finish)

    def _started(self) -> Any:
        # Each attempt that fails is followed by a more modest one.
        attempts: list[Mode] = (
            ["online", "offline"] if self._wandb_init["mode"] == "online" else [self._wandb_init["mode"]]
        )
        for mode in attempts:
            self._wandb_init |= {"mode": mode, "resume": "allow" if mode == "online" else None}
            try:
                return self._start()
            except Exception as error:
                _warn(f"logger=wandb: W&B could not start {mode} ({type(error).__name__}: {error}).")
        self._given_up = True
        return None

    def _start(self) -> Any:
        import wandb

        # Another run still open in this process would otherwise be returned in place of a new one.
        # W&B's own lines are many, and coloured under NO_COLOR too; its warnings and errors stay.
        wandb.setup(settings=wandb.Settings(show_info=False))
        run = wandb.init(**self._wandb_init, reinit="finish_previous")
        if self._wandb_init["mode"] != "disabled":
            say(f"W&B: {_whereabouts(run)}")
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
            write_text(self._run_directory.wandb_run_id, f"{run.id}\n")
        return run

    def _give_up(self, error: Exception) -> None:
        super()._give_up(error)
        self._experiment = None


class _Nothing:
    """Takes every call and every assignment, and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


def _typed(run: RunDirectory) -> str:
    """Return what was typed to start a run, in short; "" where nothing was, or no record tells."""
    try:
        settings = override_settings(read_result(run.result).overrides)
    except UserError:
        return ""
    return short_name(settings, [key for key in settings if not key.startswith(NO_NAME)])


def _whereabouts(run: Any) -> str:
    """Return the address of a W&B run; of an offline one the command that sends it."""
    return f"offline; `wandb sync {run.settings.sync_dir}` sends it" if run.offline else str(run.url)


def _kept_run_id(run: RunDirectory) -> str | None:
    try:
        return run.wandb_run_id.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def _warn(text: str) -> None:
    warnings.warn(text, RunWarning, stacklevel=3)

"""What is known of a sweep before its first job: its directory, its launcher, which settings vary, how many jobs."""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from launch.check import one_value
from launch.command_line import CommandLine, parse_overrides
from launch.compose import compose_config
from launch.groups import group_names
from launch.paths import quote_paths
from records.atomic_file import write_json
from records.errors import UserError

SWEEP_FILE = "sweep.json"
STOP_FILE = ".stopped"

# The launchers that run jobs on this machine, as children of this very process.
OWN_LAUNCHERS = ("basic", "slots")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep about to start. Plain values only: launchers carry it to other processes and other machines.

    `overrides` and `flags` are what was typed; `swept` the keys whose values differ between jobs; `expected` the number
    of jobs, None where a sweeper decides as it goes; `started` date and time, UTC; `process` the host and the number of
    the parent process; `is_quiet` says that only warnings, errors and the result are printed; `held_back` are the
    overrides of keys that not every choice of a swept group has.
    """

    directory: Path
    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    swept: tuple[str, ...]
    launcher: str
    slots: int
    fail_fast: bool
    expected: int | None
    started: str
    process: tuple[str, int]
    is_quiet: bool = False
    held_back: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether this process is the parent of the sweep, and not a worker that a cluster's engine started."""
        return self.process == this_process()

    @property
    def shares_screen(self) -> bool:
        """Whether a job prints on the sweep's own screen: only where there is one at a time."""
        return self.launcher == "basic"

    @property
    def stop_file(self) -> Path:
        """Stands here once the sweep has been stopped: workers elsewhere start no further job."""
        return self.directory / STOP_FILE

    @property
    def resume_command(self) -> str:
        """A line for the shell that runs what is missing or failed."""
        return shlex.join(["python", "run.py", *self.flags, f"sweep.resume={self.directory}"])

    @property
    def repeat_command(self) -> str:
        """A line for the shell that runs the whole sweep again, in a directory of its own."""
        return shlex.join(["python", "run.py", "-m", *self.flags, *self.kept_overrides])

    @property
    def kept_overrides(self) -> list[str]:
        """What was typed, without what belongs to one call of it alone: the directory, resuming, quiet."""
        return [text for text in self.overrides if not _names(text, "sweep.resume", "hydra.sweep.dir", "quiet")]

    @property
    def arguments(self) -> list[str]:
        """The command line for Hydra: what was typed, with the directory and the launcher that were decided."""
        pinned = quote_paths([f"hydra.sweep.dir={self.directory}"], multirun=False)
        typed = [self._for_hydra(override) for override in self.overrides if not _names(override, "hydra.sweep.dir")]
        is_typed = any(_names(override, "hydra/launcher") for override in typed)
        launcher = ["hydra/launcher=slots"] if self.launcher == "slots" and not is_typed else []
        return ["--multirun", *self.flags, *typed, *pinned, *launcher]

    def _for_hydra(self, override: str) -> str:
        """Return an override as Hydra gets it; one held back as a sweep over one value, which only jobs are given."""
        key, _, value = override.partition("=")
        return f"{key}=choice({value})" if override in self.held_back else override

    def save(self) -> None:
        """Write what was typed into the directory, for `sweep.resume`."""
        write_json(self.directory / SWEEP_FILE, {"overrides": self.kept_overrides, "flags": list(self.flags)})


def this_process() -> tuple[str, int]:
    """Return what tells this process from those on other machines too."""
    return socket.gethostname(), os.getpid()


def resumed_line(line: CommandLine) -> CommandLine:
    """Return the command line with the stored overrides of the sweep that `sweep.resume` names as its base.

    What is typed wins over what is stored, as it does for `run=DIR`.

    Raises:
        UserError: there is no such sweep.
    """
    resumed = line.value_of("sweep.resume")
    if resumed is None:
        return line
    file = Path(resumed) / SWEEP_FILE
    if not file.is_file():
        raise UserError(
            f"sweep.resume={resumed}: not the directory of a sweep, {SWEEP_FILE} is missing. "
            "Name the folder that holds summary.md; a single run goes on with mode=train run=DIR."
        )
    stored = json.loads(file.read_text(encoding="utf-8"))["overrides"]
    by_key = {_key(text): text for text in [*stored, *line.overrides]}
    return replace(line, overrides=tuple(by_key.values()))


def plan_sweep(line: CommandLine) -> SweepPlan:
    """Compose the sweep's own configuration and decide directory and launcher.

    Raises:
        UserError: settings of the sweep that contradict each other.
    """
    parsed, _ = parse_overrides(line.overrides)
    config = compose_config([one_value(override) for override in parsed], with_hydra=True)
    choice = str(config.hydra.runtime.choices["hydra/launcher"])
    slots = _slots(config)
    directory = line.value_of("sweep.resume") or str(config.hydra.sweep.dir)
    swept = _swept(parsed, config)
    return SweepPlan(
        directory=Path(directory).absolute(),
        overrides=line.overrides,
        flags=tuple(flag for flag in line.flag_arguments if flag not in ("-m", "--multirun")),
        swept=tuple(swept),
        launcher=_launcher(choice, slots, line),
        slots=slots,
        fail_fast=bool(config.sweep.fail_fast),
        expected=_expected(config, swept),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        process=this_process(),
        is_quiet=bool(config.quiet),
        held_back=tuple(_held_back(parsed, swept)),
    )


def _slots(config: DictConfig) -> int:
    slots = config.sweep.slots
    if not isinstance(slots, int) or slots < 1:
        raise UserError(f"sweep.slots={slots}: the number of jobs at a time, 1 or more.")
    return slots


def _launcher(choice: str, slots: int, line: CommandLine) -> str:
    if slots == 1 or choice == "slots":
        return choice
    if choice != "basic" or any(_names(override, "hydra/launcher") for override in line.overrides):
        raise UserError(
            f"sweep.slots={slots} shares out this machine by hydra/launcher=slots, and hydra/launcher={choice} was "
            "asked for. Leave one of the two out; a cluster's launcher has a limit of its own."
        )
    return "slots"


def _swept(parsed: Sequence[Override], config: DictConfig) -> dict[str, int | None]:
    """Return each key that varies between jobs with the number of its values; None where it has no list of them."""
    params = config.hydra.sweeper.get("params") or {}
    from_yaml, _ = parse_overrides(tuple(f"{key}={value}" for key, value in params.items()))
    # the command line replaces the sweeper's own values of the same key
    chosen = {override.key_or_group: override for override in [*from_yaml, *parsed]}
    sweeps = {key: override for key, override in chosen.items() if override.is_sweep_override()}
    return {key: _count(override) for key, override in sweeps.items()}


def _held_back(parsed: Sequence[Override], swept: Iterable[str]) -> Iterator[str]:
    """Yield the overrides that do not fit Hydra's own configuration of the sweep, where swept groups have defaults."""
    groups = group_names()
    if not set(swept).intersection(groups):
        return
    fixed = [override for override in parsed if not override.is_sweep_override()]
    defaults = compose_config([override.input_line or "" for override in fixed if override.key_or_group in groups])
    for override in fixed:
        key, changes = override.key_or_group, override.type == OverrideType.CHANGE
        if changes and key not in groups and not key.startswith("hydra") and not _has(defaults, key):
            yield override.input_line or ""


def _has(config: DictConfig, key: str) -> bool:
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    return isinstance(node, DictConfig) and name in node


def _count(override: Override) -> int | None:
    """Return the number of different values: a job whose settings have been run is not run again."""
    return len(set(override.sweep_string_iterator())) if override.is_discrete_sweep() else None


def _expected(config: DictConfig, swept: dict[str, int | None]) -> int | None:
    sweeper = config.hydra.sweeper
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    counts = [count for count in swept.values() if count is not None]
    is_grid = str(sweeper._target_).endswith(".BasicSweeper") and len(counts) == len(swept)
    return math.prod(counts) if is_grid else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _names(override: str, *keys: str) -> bool:
    return _key(override) in keys

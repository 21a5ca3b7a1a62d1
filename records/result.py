"""result.json: the run record."""

from __future__ import annotations

import json
import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from records import environment
from records.atomic_file import write_json
from records.errors import UserError
from records.notices import RunWarning
from records.override_set import joined

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from records.run_directory import RunDirectory

SCHEMA_VERSION = 1

Status = Literal["running", "completed", "failed", "interrupted"]
STATUSES: tuple[Status, ...] = ("running", "completed", "failed", "interrupted")
PHASES = ("training", "testing", "whole")


@dataclass(frozen=True)
class Result:
    """Everything result.json says; the keys are described in docs/run-directory.md.

    `metrics` are flat (`test/map@all`), fractions, and may hold NaN and infinities here; in the file these
    are null, and `non_finite` says which value stood there. `seconds` are those of the latest attempt;
    earlier attempts are listed in `resumed_from`.
    """

    task: str
    model: str
    data: str
    mode: str
    seed: int
    overrides: list[str]
    command: str
    resume_command: str
    started: str
    status: Status = "running"
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    checkpoint_used: str | None = None
    parameters: dict[str, int] | None = None
    data_sizes: dict[str, int] | None = None
    num_classes: int | None = None
    fingerprint: str | None = None
    protocol: dict[str, str | int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    resumed_from: list[dict[str, Any]] = field(default_factory=list)
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def is_transductive(self) -> bool:
        """Whether the fit saw the unlabelled images of the test part: to be compared with its own kind."""
        return "transductive" in self.protocol

    @property
    def chose_on_test(self) -> bool:
        """Whether settings were chosen on the labels of the test part: no estimate of the accuracy on new images."""
        return "test_leak" in self.protocol

    @property
    def is_trained_in_steps(self) -> bool:
        """Whether optimizer steps changed it: not a head that is fitted at once, nor a network that is only judged."""
        return self.parameters is None or self.parameters["trainable"] > 0


# What may be learnt about a run after it has started.
DETAILS = ("checkpoint_used", "parameters", "data_sizes", "num_classes", "fingerprint", "protocol", "hardware")

_FIRST_KEYS = ("schema_version", "status", "reason", "task", "model", "data", "mode", "metrics")


class RunRecord:
    """The record of one run, on disk at every moment.

    Every change is written at once and atomically, so a run that is killed leaves a record with the status
    `running`, which is what tells it from one that ended. A change that cannot be written, on a full disk for
    instance, is a warning, and is written with the next one. The first process of a distributed run writes; in
    the others the record lives in memory alone.
    """

    def __init__(self, path: str | os.PathLike[str], result: Result) -> None:
        self.path = Path(path)
        self.result = result
        self._begun = time.monotonic()
        self._seconds_before = result.seconds["whole"]

    @classmethod
    def reopen(cls, run: RunDirectory) -> RunRecord:
        """Go on with the record of a finished run, for instance to test it again; its status stays as it was.

        Raises:
            UserError: the directory holds no run record.
        """
        return cls(run.result, read_result(run.result))

    @classmethod
    def start(
        cls,
        run: RunDirectory,
        *,
        task: str,
        model: str,
        data: str,
        mode: str,
        seed: int,
        overrides: Sequence[str],
        command: str,
        resume_command: str,
        monitor: str | None = None,
        direction: Literal["max", "min"] | None = None,
        gpus: Sequence[str] = (),
    ) -> RunRecord:
        """Write a record with the status `running`.

        An earlier record in the same directory becomes one entry of `resumed_from`, with its status, reason,
        start, seconds and warnings; its command stays the one that repeats the run, and its overrides stay, followed by
        those that the resuming command adds.

        Args:
            run: the run directory; it is made when it is missing.
            task: name of the task (`greedyhash`).
            model: name of the model (`tiny`).
            data: name of the data (`digits`).
            mode: name of the mode (`train`).
            seed: the run's seed.
            overrides: what the user wrote on the command line, one entry each.
            command: a line for the shell that repeats the run.
            resume_command: a line for the shell that goes on with it.
            monitor: full name of the metric that chooses the best epoch (`val/map@all`).
            direction: whether a high (`max`) or a low (`min`) value of it is good.
            gpus: names of the GPUs used.

        Raises:
            OSError: the record cannot be written. Later on that is a warning, and the next change writes it all.
        """
        earlier = read_result(run.result) if run.result.exists() else None
        result = Result(
            task=task,
            model=model,
            data=data,
            mode=mode,
            seed=seed,
            overrides=_joined_overrides(earlier, overrides),
            command=command if earlier is None else earlier.command,
            resume_command=resume_command,
            started=_now(),
            monitor=None if monitor is None else {"name": monitor, "direction": direction, "value": None},
            resumed_from=_earlier_attempts(earlier),
            hardware=environment.hardware(gpus),
            versions=environment.versions(),
            git=environment.git_state(),
        )
        if environment.is_first_process():
            write_json(run.result, to_json(result))
        return cls(run.result, result)

    def describe(self, **details: Any) -> None:
        """Add what is known once data and model are built.

        Args:
            details: any of `checkpoint_used` (best or last), `parameters` ({total, trainable}), `data_sizes`
                (split to count), `num_classes`, `fingerprint`, `protocol` (the choices a figure depends on beside
                the data), `hardware`.

        Raises:
            KeyError: a name that is none of these.
        """
        unknown = sorted(set(details) - set(DETAILS))
        if unknown:
            raise KeyError(f"unknown detail {', '.join(unknown)}; choices: {', '.join(DETAILS)}")
        self._write(replace(self.result, **details))

    def warn(self, text: str) -> None:
        """Keep a warning; the same text is kept once."""
        if text not in self.result.warnings:
            self._write(replace(self.result, warnings=[*self.result.warnings, text]))

    @contextmanager
    def measure(self, phase: Literal["training", "testing"]) -> Iterator[None]:
        """Add the time spent inside the block, in seconds, to a phase; also when the block fails."""
        begun = time.monotonic()
        try:
            yield
        finally:
            spent = self.result.seconds[phase] + time.monotonic() - begun
            self._write(replace(self.result, seconds={**self.result.seconds, phase: round(spent, 3)}))

    def finish(self, metrics: Mapping[str, float], monitor_value: float | None = None) -> None:
        """End the record with the status `completed`.

        Args:
            metrics: flat metrics, `val/NAME` and `test/NAME`, fractions; they replace those of the same name.
            monitor_value: the monitored value of the best epoch; None keeps what is there.
        """
        monitor = self.result.monitor
        if monitor is not None and monitor_value is not None:
            monitor = {**monitor, "value": float(monitor_value)}
        numbers = {name: float(value) for name, value in metrics.items()}
        self._end("completed", None, metrics={**self.result.metrics, **numbers}, monitor=monitor)

    def fail(self, reason: str) -> None:
        """End the record with the status `failed`; `reason` is one or a few lines of text."""
        self._end("failed", reason)

    def interrupt(self, reason: str = "stopped by the user (Ctrl-C)") -> None:
        """End the record with the status `interrupted`: the run can be resumed."""
        self._end("interrupted", reason)

    def _end(self, status: Status, reason: str | None, **changes: Any) -> None:
        whole = self._seconds_before + time.monotonic() - self._begun
        seconds = {**self.result.seconds, "whole": round(whole, 3)}
        self._write(replace(self.result, status=status, reason=reason, seconds=seconds, **changes))

    def _write(self, result: Result) -> None:
        self.result = result
        if not environment.is_first_process():
            return
        try:
            write_json(self.path, to_json(result))
        except OSError as error:
            text = f"{self.path} cannot be written ({error.strerror}) and is out of date. Free some space on that disk."
            warnings.warn(text, RunWarning, stacklevel=3)


def to_json(result: Result) -> dict[str, Any]:
    """Return the record as strict JSON can hold it.

    NaN and infinities become null, and `non_finite` maps the place of each (`metrics.test/map@all`) to the
    value that stood there (`nan`, `inf`, `-inf`).
    """
    non_finite: dict[str, str] = {}
    content = _without_non_finite(asdict(result), "", non_finite)
    ordered = {name: content[name] for name in (*_FIRST_KEYS, *content)}
    return {**ordered, "non_finite": non_finite}


def from_json(content: Any, where: str) -> Result:
    """Return the record that `to_json` wrote.

    Raises:
        UserError: another schema version, a missing or an unknown key, or an unknown status.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: not a run record, expected an object with keys. Restore the file or run again.")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema_version={version}, this release reads {SCHEMA_VERSION}. "
            "Read the run with the release that wrote it (versions.hash-tail-shot in the same file)."
        )
    restored = _with_non_finite(content)
    names = {entry.name for entry in fields(Result)}
    missing, unknown = sorted(names - set(restored)), sorted(set(restored) - names)
    if missing or unknown:
        raise UserError(f"{where}: damaged run record, keys missing: {missing}, unknown: {unknown}. Run again.")
    if restored["status"] not in STATUSES:
        raise UserError(f"{where}: status={restored['status']!r}, choices: {', '.join(STATUSES)}.")
    return Result(**restored)


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read the record in a result.json, or in the run directory that holds one.

    Raises:
        UserError: there is no such file, or it is no run record of this schema.
    """
    file = Path(path)
    file = file / "result.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no run record. Name the folder of a run: run=FOLDER.") from None
    except ValueError as error:
        raise UserError(f"{file}: not strict JSON ({error}). Restore the file or run again.") from None
    return from_json(content, str(file))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _joined_overrides(earlier: Result | None, overrides: Sequence[str]) -> list[str]:
    if earlier is None:
        return list(overrides)
    added = [override for override in overrides if override != "mode=train" and not override.startswith("run=")]
    return joined(earlier.overrides, added)


def _earlier_attempts(earlier: Result | None) -> list[dict[str, Any]]:
    if earlier is None:
        return []
    # A record still "running" at this moment belongs to a process that was killed.
    status = "killed" if earlier.status == "running" else earlier.status
    attempt = {
        "status": status,
        "reason": earlier.reason,
        "started": earlier.started,
        "seconds": earlier.seconds,
        "warnings": earlier.warnings,
    }
    return [*earlier.resumed_from, attempt]


def _without_non_finite(value: Any, place: str, found: dict[str, str]) -> Any:
    if isinstance(value, dict):
        prefix = f"{place}." if place else ""
        return {name: _without_non_finite(item, f"{prefix}{name}", found) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_non_finite(item, f"{place}[{number}]", found) for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        found[place] = str(value)
        return None
    return value


def _with_non_finite(content: dict[str, Any]) -> dict[str, Any]:
    restored = {name: value for name, value in content.items() if name != "non_finite"}
    for place, text in content.get("non_finite", {}).items():
        section, _, name = place.partition(".")
        if isinstance(restored.get(section), dict) and name in restored[section]:
            restored[section] = {**restored[section], name: float(text)}
    return restored


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

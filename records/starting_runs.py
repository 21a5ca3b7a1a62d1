"""The runs that a run starts from, told by what they are: where they lie on a disk says nothing in a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from records.errors import UserError
from records.run_directory import RunDirectory
from records.run_settings import flat_settings, names_start, read_configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKPOINT = "checkpoint"


def with_starting_runs(settings: Mapping[str, str], seen: frozenset[Path] = frozenset()) -> dict[str, str]:
    """Return flat settings in which the settings of a run that is started from stand for its place.

    `init_from: outputs/ce/1` becomes `init_from.task.name: ce`, `init_from.seed: 1`, ..., so that runs which start from
    the run of their own seed differ in the seed alone. Files of other code, and runs that are no longer where they
    were, keep their place.

    Args:
        settings: as `flat_settings` gives them.
        seen: folders of the runs that led here, which are not read again.
    """
    told = dict(settings)
    for key in filter(names_start, settings):
        run = _run_of(told[key])
        if run is None or run.path.resolve() in seen:
            continue
        try:
            own = flat_settings(read_configuration(run.config))
        except UserError:
            continue
        place = Path(told.pop(key))
        own = with_starting_runs(own, seen | {run.path.resolve()})
        checkpoint = {} if place == run.path else {CHECKPOINT: place.name}
        told.update({f"{key}.{name}": value for name, value in {**own, **checkpoint}.items()})
    return told


def _run_of(start: str) -> RunDirectory | None:
    """Return the run whose folder, or whose checkpoint, `start` names; None where it is no run of ours."""
    if start == "null":
        return None
    place = Path(start)
    folder = RunDirectory(place.parent.parent)
    run = folder if folder.checkpoints == place.parent else RunDirectory(place)
    return run if run.config.is_file() and run.result.is_file() else None

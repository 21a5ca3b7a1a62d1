"""labels.json: the classes that a run was trained on, so that it can be used without its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from records.atomic_file import write_json
from records.errors import UserError

if TYPE_CHECKING:
    from records.run_directory import RunDirectory


@dataclass(frozen=True)
class KnownLabels:
    """What a task must know of its data's labels.

    Args:
        class_names: C of them.
        class_counts: images trained on, of each class.
        multi_label: whether an image may have several classes.
        sizes: `train` to the number of images trained on.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    multi_label: bool
    sizes: Mapping[str, int]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


def write_labels(run: RunDirectory, labels: KnownLabels) -> None:
    """Write labels.json, atomically."""
    write_json(run.labels, asdict(labels))


def read_labels(run: RunDirectory) -> KnownLabels | None:
    """Read labels.json; None for a run of an earlier version, which has none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(run.labels.read_text(encoding="utf-8"))
        return KnownLabels(
            tuple(map(str, content["class_names"])),
            tuple(map(int, content["class_counts"])),
            bool(content["multi_label"]),
            {"train": int(content["sizes"]["train"])},
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run.labels} is damaged ({error}); remove it: the run's data are read in its place"
        ) from error

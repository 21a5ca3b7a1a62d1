"""What Weights & Biases is told under which name beside metrics: tables, charts, histograms, pictures. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STEP = "trainer/global_step"
"""The optimizer step, over which everything is drawn."""

CLASS_TABLE = "test/classes"
"""Every class with its training images, test images and recall."""

GALLERY_TABLE = "test/gallery_table"
"""Queries with their nearest pictures."""

PRE_SIGN = "test/pre_sign"
"""Histogram of the values before the sign."""


@dataclass(frozen=True)
class Chart:
    """A chart of W&B's own kinds, drawn from a table that is logged with it.

    Attributes:
        name: what it is logged as.
        kind: W&B's name of the kind.
        title: over the chart.
        fields: field of the kind to column of the table.
    """

    name: str
    kind: str
    title: str
    fields: Mapping[str, str]

    @property
    def table(self) -> str:
        """The name that W&B gives the chart's table."""
        return f"{self.name}_table"


CONFUSION = Chart(
    "test/confusion_matrix",
    "wandb/confusion_matrix/v1",
    "Confusion matrix of the test part",
    {name: name for name in ("Actual", "Predicted", "nPredictions")},
)
PRECISION_RECALL = Chart(
    "test/precision_recall",
    "wandb/line/v0",
    "Precision and recall by Hamming radius",
    {"x": "recall", "y": "precision"},
)


def picture_name(stage: Literal["train", "test"], path: Path) -> str:
    """Return what a picture of the run directory is logged as: `test/gallery` of plots/gallery.png."""
    return f"{stage}/{path.stem}"

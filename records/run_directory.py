"""The names of the files of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from records.errors import UserError

MAX_CANDIDATES = 5
STAGE = "stage"
MAX_VISITED_FOLDERS = 2000


@dataclass(frozen=True)
class RunDirectory:
    """One run's folder and the place of everything in it; nothing is created by looking."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def config(self) -> Path:
        """The configuration as it was used: resolved, plain YAML."""
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        """The run record (`records.result`)."""
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """What a process at work in this folder holds (`records.run_lock`)."""
        return self.path / ".lock"

    @property
    def labels(self) -> Path:
        """The classes that the task knows (`records.labels_file`): what it takes to build it without its data."""
        return self.path / "labels.json"

    @property
    def metrics(self) -> Path:
        """The table of everything that was logged (`records.metrics_file`)."""
        return self.path / "metrics.csv"

    @property
    def draws(self) -> Path:
        """The metrics of every draw of a run that judged several (`records.draws`)."""
        return self.path / "draws.csv"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.md"

    @property
    def html_report(self) -> Path:
        """The same page as one HTML file with its pictures in it."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """The folder of pictures; each PNG carries its own title and description."""
        return self.path / "plots"

    @property
    def pr_curve(self) -> Path:
        """Precision and recall within each Hamming radius."""
        return self.plots / "pr_curve.png"

    @property
    def gallery(self) -> Path:
        """Queries and their nearest pictures."""
        return self.plots / "gallery.png"

    @property
    def bits(self) -> Path:
        """Balance and correlation of the bits of the database's codes."""
        return self.plots / "bits.png"

    @property
    def training_curves(self) -> Path:
        """Loss and validation metrics by epoch."""
        return self.plots / "training_curves.png"

    @property
    def class_counts(self) -> Path:
        """Training images of every class."""
        return self.plots / "class_counts.png"

    @property
    def training_images(self) -> Path:
        """Some training images, as they are stored and as they are changed."""
        return self.plots / "training_images.png"

    @property
    def class_recalls(self) -> Path:
        """Recall of every class, the most frequent in training first."""
        return self.plots / "class_recalls.png"

    @property
    def recall_curves(self) -> Path:
        """Accuracy and means of recalls by epoch."""
        return self.plots / "recall_curves.png"

    @property
    def confusion(self) -> Path:
        """Which class is taken for which."""
        return self.plots / "confusion.png"

    @property
    def hardest_pairs(self) -> Path:
        """The pairs of classes that are confused most."""
        return self.plots / "hardest_pairs.png"

    @property
    def guesses(self) -> Path:
        """Some test images with their most probable classes."""
        return self.plots / "guesses.png"

    @property
    def text_cosines(self) -> Path:
        """Cosines between some test images and the descriptions of classes."""
        return self.plots / "text_cosines.png"

    @property
    def reliability(self) -> Path:
        """Accuracy by confidence."""
        return self.plots / "reliability.png"

    @property
    def class_table(self) -> Path:
        """Every class with its training images, test images and recall, as CSV."""
        return self.path / "recognition" / "classes.csv"

    @property
    def confusion_table(self) -> Path:
        """Numbers of samples by true class (row) and predicted class (column), as CSV."""
        return self.path / "recognition" / "confusion.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The end of the latest whole epoch: where a run resumes."""
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The epoch with the best monitored value on the validation part, where there is one."""
        return self.checkpoints / "best.ckpt"

    @property
    def chosen_checkpoint(self) -> Path | None:
        """The best checkpoint where there is one, else the last, else None."""
        return next((file for file in (self.best_checkpoint, self.last_checkpoint) if file.is_file()), None)

    @property
    def codes_folder(self) -> Path:
        """The folder of binary codes."""
        return self.path / "codes"

    @property
    def codes(self) -> Path:
        """Packed codes, labels and positions of queries and database."""
        return self.codes_folder / "codes.npz"

    @property
    def submission(self) -> Path:
        """Folder of a contest's answer: result.txt and result.zip."""
        return self.path / "submission"

    @property
    def wandb_run_id(self) -> Path:
        """The Weights & Biases identity of this run, kept so that a resumed run continues it."""
        return self.path / "wandb" / "run_id.txt"


def stage_directories(path: Path) -> list[Path]:
    """Return the folders `stage1`, `stage2`, ... of a run in stages, in order; none for any other run."""
    numbers = {folder: folder.name.removeprefix(STAGE) for folder in path.glob(f"{STAGE}*") if folder.is_dir()}
    return sorted((one for one in numbers if numbers[one].isdigit()), key=lambda folder: int(numbers[folder]))


def last_stage(path: Path) -> Path:
    """Return the folder of the last stage of a run in stages, and the folder itself for any other run."""
    return [path, *stage_directories(path)][-1]


def open_run(path: str | os.PathLike[str]) -> RunDirectory:
    """Open the run directory at `path`.

    A folder is one when it holds both config.yaml and result.json.

    Raises:
        UserError: there is no such folder, or it is no run directory; the text names what is missing and the
            run directories found nearby.
    """
    run = RunDirectory(Path(path).expanduser().absolute())
    missing = [file.name for file in (run.config, run.result) if not file.is_file()]
    if not missing:
        return run
    if not run.path.exists():
        problem = f"run={run.path}: there is no such folder."
    elif not run.path.is_dir():
        problem = f"run={run.path}: this is a file; name the folder of the run."
    else:
        problem = f"run={run.path}: not a run directory, {' and '.join(missing)} missing."
    raise UserError(f"{problem} {_nearby(run.path)}")


def _nearby(path: Path) -> str:
    folder = next(place for place in (path, *path.parents, Path()) if place.is_dir())
    found = _run_directories_below(folder)
    if not found:
        return "No run directory was found near it; a training run prints its own at the end."
    listed = "".join(f"\n  run={candidate}" for candidate in found)
    return f"Run directories near it, newest first:{listed}"


def _run_directories_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for visited, (place, folders, files) in enumerate(os.walk(folder)):
        if visited >= MAX_VISITED_FOLDERS:
            break
        if "config.yaml" in files and "result.json" in files:
            found.append(Path(place))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    found.sort(key=lambda run: (run / "result.json").stat().st_mtime, reverse=True)
    return found[:MAX_CANDIDATES]

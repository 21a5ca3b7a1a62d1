"""The same run in metrics.csv and in TensorBoard: the same names, steps and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.compose import compose_config
from modes import train
from records.metrics_file import KEY_COLUMNS, read_rows

pytest.importorskip("tensorboard")

Points = dict[str, list[tuple[int, float]]]


def of_table(path: Path) -> Points:
    """Return name to (step, value) of every value of a metrics.csv."""
    points: Points = {}
    for row in read_rows(path):
        for name, value in row.items():
            if name not in KEY_COLUMNS:
                points.setdefault(name, []).append((int(row["step"]), value))
    return points


def of_tensorboard(folder: Path) -> Points:
    """Return the same of the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name != "epoch"
    }


@pytest.mark.parametrize("task", ["greedyhash", "ce"])
def test_names_steps_and_values_agree(tmp_path: Path, task: str) -> None:
    settings = [
        f"task={task}",
        "logger=tensorboard",
        "data.val_fraction=0.2",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=2",
    ]
    assert train.run(compose_config([*settings, f"paths.run_dir='{tmp_path}'"]), settings) == 0
    table, shown = of_table(tmp_path / "metrics.csv"), of_tensorboard(tmp_path / "tensorboard")
    assert set(shown) == set(table)
    assert {name.partition("/")[0] for name in table} == {"train", "val", "test"}
    for name, points in table.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points], name
        # TensorBoard keeps single precision
        assert [value for _, value in shown[name]] == pytest.approx(
            [value for _, value in points], rel=1e-6, nan_ok=True
        )

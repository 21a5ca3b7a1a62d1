"""What an offline run leaves for W&B, read back from its file in W&B's own messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from wandb_file import read_ended_run

from launch.compose import compose_config
from modes import train
from modes.dashboard import map_cuts, planned
from records.metric_names import OPEN_DOMAIN
from records.wandb_names import CONFUSION, PRECISION_RECALL

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))


def trained(folder: Path, *overrides: str) -> Path:
    import wandb

    settings = [
        "logger=wandb",
        "logger.wandb.offline=true",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=2",
        *overrides,
    ]
    assert train.run(compose_config([*settings, f"paths.run_dir='{folder}'"]), settings) == 0
    wandb.finish()
    (run,) = (folder / "wandb").glob("offline-run-*")
    return run


def records(run: Path) -> list[Any]:
    (file,) = run.glob("*.wandb")
    return read_ended_run(file)


def artifacts_of(found: list[Any], kind: str) -> list[Any]:
    """Return the artifacts of one kind; one may be told of as a record, or as what it was asked for."""
    told = [record.artifact for record in found] + [record.request.log_artifact.artifact for record in found]
    return [artifact for artifact in told if artifact.type == kind]


def history(run: Path) -> dict[str, list[Any]]:
    """Return every logged name with its values, in order; W&B writes a value with parts part by part."""
    values: dict[str, list[Any]] = {}
    for record in records(run):
        row: dict[str, Any] = {}
        for item in record.history.item:
            first, *parts = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            if parts:
                row.setdefault(first, {})[parts[-1]] = value
            else:
                row[first] = value
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return values


def table_of(run: Path, value: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "files" / value["path"]).read_text())
    return content


def not_logged(run: Path, pillar: str) -> set[str]:
    """Return the names that the dashboard shows of a pillar and that a run of it did not log."""
    plan = planned({"project": "p", "entity": None, "title": "t", "pillars": [pillar]})
    logged = set(history(run))
    charts = {chart.table: chart.name for chart in (CONFUSION, PRECISION_RECALL)}
    logged |= {charts[name] for name in logged & set(charts)}
    return {name for section in plan.sections for panel in section.panels for name in panel.names} - logged


def test_a_hashing_run(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "task.bits=16", "logger.wandb.artifacts=[checkpoints,codes]")
    kinds = records(run)
    (started,) = [record.run for record in kinds if record.WhichOneof("record_type") == "run"]
    assert (started.project, started.display_name) == ("hash-tail-shot", "max_epochs=2 limit_train_batches=2 bits=16")
    assert (started.run_group, started.job_type) == ("greedyhash_tiny_digits", "greedyhash")
    assert list(started.tags) == ["seed0"]
    config: dict[str, Any] = {}
    for record in kinds:
        for item in record.config.update:
            config[item.key or item.nested_key[0]] = json.loads(item.value_json)
    assert config["task"]["bits"] == 16
    assert config["optim"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    best = {record.metric.name: record.metric.summary.max for record in kinds if record.metric.summary.max}
    assert best["val/map@all"]
    (model,), (codes,) = artifacts_of(kinds, "model"), artifacts_of(kinds, "codes")
    assert {entry.path for entry in model.manifest.contents} == {"best.ckpt", "last.ckpt"}
    assert [entry.path for entry in codes.manifest.contents] == ["codes.npz"]
    logged = history(run)
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert logged["test/map@all"] == [pytest.approx(metrics["test/map@all"])]
    gallery = table_of(run, logged["test/gallery_table"][0])
    assert gallery["columns"][:4] == ["query", "class", "hits", "nearest 1"]
    assert len(gallery["data"]) == 8
    (tables,) = [one for one in artifacts_of(kinds, "run_table") if "gallery" in one.name]
    stored = [Path(entry.local_path) for entry in tables.manifest.contents if entry.path.endswith(".png")]
    assert len({entry.name for entry in stored}) >= 8
    assert all(entry.is_file() for entry in stored)
    curve = next(value for name, (value, *_) in logged.items() if name.startswith("test/precision_recall"))
    assert len(table_of(run, curve)["data"]) == 17
    pre_sign = logged["test/pre_sign"][0]
    assert sum(pre_sign["values"]) == 16 * 256
    assert logged["test/pre_sign"][0]["_type"] == "histogram"
    # digits are judged by the whole ranking
    other_cuts = {f"{part}/map@{cut}" for part in ("val", "test") for cut in map_cuts() if cut != "all"}
    assert not_logged(run, "hashing") == other_cuts


def test_a_recognition_run(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "task=ce")
    logged = history(run)
    classes = table_of(run, logged["test/classes"][0])
    assert classes["columns"] == ["class", "name", "training_images", "test_images", "recall"]
    written = (tmp_path / "run" / "recognition" / "classes.csv").read_text().splitlines()[1:]
    assert [float(row[4]) for row in classes["data"]] == [float(line.split(",")[4]) for line in written]
    name = next(name for name in logged if name.startswith("test/confusion_matrix"))
    cells = table_of(run, logged[name][0])["data"]
    assert len(cells) == 100
    assert sum(cell[2] for cell in cells) == sum(row[3] for row in classes["data"])
    assert artifacts_of(records(run), "model") == []
    # these data have no validation part
    assert {name for name in not_logged(run, "longtail") if not name.startswith("val/")} == set()


def test_a_few_shot_run(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "task=lpp")
    # images are encoded before the run, and no class is without training images
    assert not_logged(run, "fewshot") == {"train/training_images", *(f"test/{name}" for name in OPEN_DOMAIN)}

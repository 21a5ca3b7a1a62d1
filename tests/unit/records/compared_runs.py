"""Run directories to compare: a record and a configuration, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from records.atomic_file import write_json
from records.result import Result, to_json


def write_run(
    folder: Path, score: float | None, *, seed: int = 0, bits: int = 32, row: str | None = None, **changes: Any
) -> Path:
    """Write a completed run of a task `t` at `folder`, called `row` in tables; `changes` are of its record."""
    folder.mkdir(parents=True)
    metrics = {} if score is None else {"test/map@all": score, "test/accuracy": 0.5, "val/map@all": 0.1}
    fields: dict[str, Any] = {
        "task": "t",
        "model": "m",
        "data": "d",
        "mode": "train",
        "seed": seed,
        "overrides": [
            f"task.bits={bits}",
            f"seed={seed}",
            "data.root=/elsewhere/pictures",
            "paths.output_dir=/tmp/x",
        ],
        "command": "c",
        "resume_command": "r",
        "started": f"2026-01-0{seed + 1}T10:00:00+00:00",
        "status": "completed",
        "metrics": metrics,
        "monitor": {"name": "val/map@all", "direction": "max", "value": 0.1},
        "data_sizes": {"train": 1000},
        "num_classes": 10,
        "fingerprint": f"seed{seed}",
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 4, "gpus": []},
        "versions": {"torch": "2.15.0"},
        "git": {"commit": "a" * 40, "dirty": False},
    }
    result = Result(**{**fields, **changes})
    write_json(folder / "result.json", to_json(result))
    config = {
        "seed": seed,
        "row": row,
        "mode": "train",
        "task": {"name": result.task, "bits": bits},
        "model": {"name": result.model},
        "data": {
            "name": result.data,
            "fold": None,
            "split_seed": seed,
            "split_dir": f"{folder}/splits",
            "root": "/data/d",
            "num_workers": seed,
        },
        "paths": {"run_dir": str(folder), "data_dir": "/data", "output_dir": "/tmp"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_seeds(root: Path, scores: dict[int, list[float]]) -> Path:
    """Write a run for every code length and seed: `scores[bits][seed]`."""
    for bits, values in scores.items():
        for seed, score in enumerate(values):
            write_run(root / f"{bits}-{seed}", score, seed=seed, bits=bits)
    return root

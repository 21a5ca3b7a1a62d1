from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from launch.jobs import Job
from launch.sweep_plan import SweepPlan, this_process

FAKE_CHILD = Path(__file__).with_name("fake_child.py")


@pytest.fixture
def make_plan(tmp_path):
    def make(**changes):
        sweep = tmp_path / "sweep"
        sweep.mkdir(exist_ok=True)
        values = {
            "directory": sweep,
            "overrides": ("seed=0,1",),
            "flags": (),
            "swept": ("task.bits", "seed"),
            "launcher": "slots",
            "slots": 1,
            "fail_fast": False,
            "expected": None,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "process": this_process(),
        }
        return SweepPlan(**{**values, **changes})

    return make


@pytest.fixture
def make_job(tmp_path):
    def make(number, *overrides, environment=None):
        identity = {"task": "t", "model": "m", "data": "d", "mode": "train", "seed": 0}
        return Job(tuple(overrides), (), tmp_path / "sweep" / str(number), identity, environment or {})

    return make


@pytest.fixture
def behave(monkeypatch):
    """Replace the children of a sweep by stand-ins: a behaviour for each job by its first override, or one for all."""

    def set_behaviour(behaviours):
        def command(job, place, flags=()):
            chosen = behaviours if isinstance(behaviours, str) else behaviours.get(job.overrides[0], "complete")
            return [sys.executable, str(FAKE_CHILD), str(place.directory), chosen, *job.overrides]

        monkeypatch.setattr("launch.sweep.command_of", command)

    return set_behaviour

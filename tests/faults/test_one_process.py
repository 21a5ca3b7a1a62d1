"""A run directory belongs to one process at a time, and to nobody once that one is dead."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_runs import RUN, record, repeat, start
from test_exact_resume import STEP


@dataclass(frozen=True)
class SecondRun:
    """In the middle of an epoch somebody starts the same run again, twice over; then the first one is killed."""

    directory: str
    place: str = STEP
    epoch: int = 1
    call: int = 1
    after: bool = False

    def strike(self):
        answers = []
        for arguments in (["mode=train", f"run={self.directory}"], [f"hydra.run.dir={self.directory}"]):
            done = subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True, check=False)
            answers.append([done.returncode, done.stderr])
        Path(f"{self.directory}.json").write_text(json.dumps([os.getpid(), answers]))
        os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    directory = tmp_path / "run"
    assert start(directory, fault=SecondRun(str(directory))).code == -9
    pid, ((resumed, why), (restarted, why_not)) = json.loads((tmp_path / "run.json").read_text())
    assert (resumed, restarted) == (2, 2)
    assert f"run={directory}: process {pid} on " in why
    assert "a run lies there already" in why_not
    assert record(directory)["resumed_from"] == []
    again = repeat(record(directory)["resume_command"], directory)
    assert again.code == 0, again.err
    assert len(record(directory)["resumed_from"]) == 1
    assert not (directory / ".lock").exists()

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from records.errors import UserError
from records.run_directory import RunDirectory
from records.run_lock import sole_process

HOLDER = """
import os, sys
from pathlib import Path
from records.run_directory import RunDirectory
from records.run_lock import sole_process
with sole_process(RunDirectory(Path(sys.argv[1]))):
    if sys.argv[2] == "fork" and os.fork() == 0:
        import time
        time.sleep(60)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def holder(run):
    started = []

    def start(how="alone", **variables):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run.path), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        )  # fmt: skip
        started.append(process)
        assert int(process.stdout.readline()) == process.pid
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_process_is_refused_and_told_who_is_there(run, holder):
    process = holder()
    with pytest.raises(UserError, match=f"process {process.pid} on {socket.gethostname()} "), sole_process(run):
        pass
    assert json.loads(run.lock.read_text())["pid"] == process.pid


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_process_gives_it_back_also_where_its_children_live_on(run, holder, how):
    process = holder(how)
    process.kill()
    process.wait()
    assert run.lock.exists()
    with sole_process(run) as obstacle:
        assert obstacle is None
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert not run.lock.exists()


def test_an_ended_process_leaves_nothing(run, holder):
    process = holder()
    process.communicate("", timeout=60)
    assert list(run.path.iterdir()) == []


def test_other_ranks_share_the_lock_of_the_first(run, holder, monkeypatch):
    holder()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with sole_process(run) as obstacle:
        assert obstacle is None


def test_it_is_given_back_after_an_error(run):
    with pytest.raises(ValueError, match="x"), sole_process(run):
        raise ValueError("x")
    assert not run.lock.exists()


def test_a_lock_file_that_vanishes_while_it_is_taken_is_made_anew(run, monkeypatch):
    lockf, removed = fcntl.lockf, []

    def lock_and_lose(descriptor, how):
        lockf(descriptor, how)
        if not removed:
            removed.append(run.lock.unlink())

    monkeypatch.setattr(fcntl, "lockf", lock_and_lose)
    with sole_process(run):
        assert run.lock.exists()


def test_a_filesystem_without_locks_is_an_obstacle_and_no_error(run, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with sole_process(run) as obstacle:
        assert "has no locks" in obstacle
    assert list(run.path.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"hydra\.run\.dir=.*cannot be written.*paths\.output_dir"),
        sole_process(RunDirectory(tmp_path / "file" / "run")),
    ):
        pass


def _take_in_turn(path, count):
    taken = 0
    while taken < count:
        try:
            with sole_process(RunDirectory(path)):
                mine = path / "inside"
                mine.touch(exist_ok=False)
                mine.unlink()
                taken += 1
        except UserError:
            continue


def test_no_two_processes_are_ever_inside(run):
    processes = [multiprocessing.get_context("fork").Process(target=_take_in_turn, args=(run.path, 60)) for _ in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]

"""Saving a checkpoint is struck at every moment there is: a good checkpoint always lies there, and nothing else."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faulty_runs import RUN, Fault, record, repeat, start
from test_exact_resume import assert_bit_equal

from callbacks.checkpoint_io import AtomicCheckpointIO, sound_checkpoint
from records.errors import UserError
from records.notices import RunWarning

SCRIPT = Path(__file__).with_name("saving_faults.py")


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving")
    variables = {**os.environ, "PYTHONPATH": str(RUN.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_moment_is_struck(struck):
    moments = struck["moments"]
    assert (moments[0], moments[-3:]) == ("open", ["fsync", "replace", "fsync"])
    assert moments.count("write") >= 30
    assert len(struck["kills"]) == len(moments)


def test_a_kill_leaves_the_old_checkpoint_or_the_new_one(struck):
    for moment, kill in enumerate(struck["kills"]):
        epoch = 2 if moment == len(struck["moments"]) - 1 else 1
        assert (kill["code"], kill["checked"], kill["epoch"]) == (-9, True, epoch), moment


def test_the_next_save_removes_what_a_kill_left(struck):
    # before the file is opened nothing is left, and nothing after it has been renamed
    assert [kill["leftovers"] for kill in struck["kills"]] == [0, *[1] * (len(struck["kills"]) - 2), 0]
    assert all(kill["cleaned"] for kill in struck["kills"])


@pytest.mark.parametrize(("which", "said"), [(0, "no space left"), (1, "cannot be written")])
def test_a_failing_disk_is_reported_and_keeps_the_old_checkpoint(struck, which, said):
    *before, flush_folder = struck["failures"][which]
    for moment, failure in enumerate(before):
        assert (failure["epoch"], failure["files"]) == (1, ["last.ckpt"]), moment
        for expected in ("last.ckpt: ", said, "previous checkpoint is untouched", "paths.output_dir", "resume"):
            assert expected in failure["said"], moment
    # the folder's own entry is flushed when the new file is in place
    assert (flush_folder["epoch"], flush_folder["files"]) == (2, ["last.ckpt"])
    assert said in flush_folder["said"]


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints of one run, best of epoch 1 and last of epoch 2."""
    files = [tmp_path / "last.ckpt", tmp_path / "best.ckpt"]
    for epoch, file in zip((2, 1), files, strict=True):
        AtomicCheckpointIO().save_checkpoint({"weight": torch.arange(3000.0), "epoch": epoch}, file)
    return files


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    file.write_bytes({"flipped": content, "cut": content[: len(content) // 2], "empty": b""}[how])


def test_the_first_sound_checkpoint_is_taken(pair, tmp_path):
    assert sound_checkpoint(pair) == pair[0]
    assert sound_checkpoint([tmp_path / "absent.ckpt", pair[1]]) == pair[1]
    assert sound_checkpoint([tmp_path / "absent.ckpt"]) is None


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(pair, how):
    damage(pair[0], how)
    with pytest.warns(RunWarning, match=r"last\.ckpt.*goes on from .*best\.ckpt"):
        assert sound_checkpoint(pair) == pair[1]
    damage(pair[1], how)
    with pytest.raises(UserError, match=r"(?s)last\.ckpt.*best\.ckpt.*start the run again"):
        sound_checkpoint(pair)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A straight run, and one that was stopped before its last epoch."""
    folder = tmp_path_factory.mktemp("runs")
    assert start(folder / "straight").code == 0
    fault = Fault("exception", "callbacks.epoch_seed.EpochSeed.on_train_epoch_start", 2)
    assert start(folder / "struck", fault=fault).code == 1
    return folder


@pytest.mark.slow
def test_a_run_resumes_exactly_from_the_best_checkpoint_where_the_last_is_damaged(interrupted):
    struck = interrupted / "struck"
    line = record(struck)["resume_command"]
    damage(struck / "checkpoints" / "last.ckpt", "flipped")
    again = repeat(line, struck)
    assert again.code == 0, again.err
    assert any("last.ckpt: the content does not fit the checksum" in text for text in record(struck)["warnings"])
    assert_bit_equal(interrupted / "straight", struck)


@dataclass(frozen=True)
class FullDisk:
    """From one epoch's checkpoint on the disk is full: for large files, by the system's limit, or for every file."""

    every_file: bool
    place: str = "callbacks.checkpoints.LastCheckpoint.on_train_epoch_end"
    epoch: int = 1
    call: int = 0
    after: bool = False

    def strike(self):
        if self.every_file:
            Path.open = refuse_new_files
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def refuse_new_files(path, mode="r", *arguments, **named):
    if mode != "r":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return open(path, mode, *arguments, **named)  # noqa: PTH123 it takes the place of Path.open


@pytest.mark.slow
@pytest.mark.parametrize("every_file", [False, True])
def test_a_run_on_a_full_disk_reports_it_and_resumes_exactly_when_there_is_room(tmp_path, every_file):
    assert start(tmp_path / "straight").code == 0
    full = start(tmp_path / "full", fault=FullDisk(every_file))
    assert full.code == 1
    for expected in ("last.ckpt: no space left", "previous checkpoint is untouched", "goes on from there:\npython"):
        assert expected in full.err
    assert ("result.json cannot be written" in full.err.replace("\n", " ")) == every_file
    assert "Traceback" not in full.err
    assert record(tmp_path / "full")["status"] == ("running" if every_file else "failed")
    again = repeat(record(tmp_path / "full")["resume_command"], tmp_path / "full")
    assert again.code == 0, again.err
    assert_bit_equal(tmp_path / "straight", tmp_path / "full")
    assert not list((tmp_path / "full").rglob("*.tmp"))

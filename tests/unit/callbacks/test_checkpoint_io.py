import errno
import io
import os
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO, _HashingStream, verify_checkpoint
from records.errors import UserError

CONTENT = {"state_dict": {"weight": torch.arange(5000.0)}, "epoch": 3, "names": ["a", "b"]}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    return path


def same(loaded):
    return torch.equal(loaded["state_dict"]["weight"], CONTENT["state_dict"]["weight"]) and loaded["epoch"] == 3


def test_round_trip(checkpoint):
    assert verify_checkpoint(checkpoint) is True
    assert same(AtomicCheckpointIO().load_checkpoint(checkpoint))
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("options", [{}, {"mmap": True}])
def test_torch_itself_reads_it(checkpoint, options):
    assert same(torch.load(checkpoint, weights_only=True, **options))


def test_it_is_a_sound_zip_archive(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [7], [2, 5], [3, 0, 1, 3], [6, 1]])
def test_stream_passes_every_byte_in_any_blocks(sizes):
    data = b"abcde\0\0"
    file, position = io.BytesIO(), 0
    stream = _HashingStream(file)
    for size in [*sizes, len(data) - sum(sizes)]:
        assert stream.write(data[position : position + size]) == size
        position += size
    stream.close_with_comment()
    written = file.getvalue()
    assert written[:5] == b"abcde"
    assert int.from_bytes(written[5:7], "little") == len(written) - 7


@pytest.mark.parametrize("place", [0.01, 0.5, 0.9])
def test_changed_byte_is_refused(checkpoint, place):
    content = bytearray(checkpoint.read_bytes())
    content[int(place * len(content))] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="does not fit the checksum"):
        AtomicCheckpointIO().load_checkpoint(checkpoint)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_cut_file_is_refused(checkpoint, kept):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"last\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(checkpoint)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_checkpoint_of_another_program_is_loaded(tmp_path):
    torch.save(CONTENT, tmp_path / "foreign.ckpt")
    assert verify_checkpoint(tmp_path / "foreign.ckpt") is False
    assert same(AtomicCheckpointIO().load_checkpoint(tmp_path / "foreign.ckpt"))


def test_copy_and_rename_keep_the_checksum(checkpoint, tmp_path):
    copy = tmp_path / "elsewhere.ckpt"
    copy.write_bytes(checkpoint.read_bytes())
    assert verify_checkpoint(copy) is True


def test_code_in_a_checkpoint_is_refused(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"module": torch.nn.Linear(1, 1)}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="tensors and plain containers"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="weights_only=False"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt", weights_only=False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_told_and_keeps_the_previous_checkpoint(checkpoint, monkeypatch, number):
    monkeypatch.setattr(_FullFile, "error", number)
    monkeypatch.setattr("callbacks.checkpoint_io._HashingStream", _FullStream)
    with pytest.raises(UserError, match=r"no space left.*previous checkpoint is untouched"):
        AtomicCheckpointIO().save_checkpoint({"other": torch.zeros(9)}, checkpoint)
    monkeypatch.undo()
    assert same(AtomicCheckpointIO().load_checkpoint(checkpoint))
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["last.ckpt"]


class _FullFile:
    """A file on a disk with room for 1000 bytes."""

    error = errno.ENOSPC

    def __init__(self, file):
        self.file, self.room = file, 1000

    def write(self, block):
        self.room -= len(block)
        if self.room < 0:
            raise OSError(self.error, os.strerror(self.error))
        return self.file.write(block)

    def flush(self):
        self.file.flush()


class _FullStream(_HashingStream):
    def __init__(self, file):
        super().__init__(_FullFile(file))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_device_of_the_system(checkpoint, monkeypatch):
    def to_full_device(file):
        return _HashingStream(Path("/dev/full").open("wb", buffering=0))

    monkeypatch.setattr("callbacks.checkpoint_io._HashingStream", to_full_device)
    with pytest.raises(UserError, match="No space left on device"):
        AtomicCheckpointIO().save_checkpoint({"other": torch.zeros(9)}, checkpoint)
    monkeypatch.undo()
    assert same(AtomicCheckpointIO().load_checkpoint(checkpoint))


def test_other_errors_of_the_system_name_the_file(checkpoint, monkeypatch):
    monkeypatch.setattr(_FullFile, "error", errno.EIO)
    monkeypatch.setattr("callbacks.checkpoint_io._HashingStream", _FullStream)
    with pytest.raises(UserError, match=rf"last\.ckpt: the checkpoint cannot be written \({os.strerror(errno.EIO)}"):
        AtomicCheckpointIO().save_checkpoint({"other": torch.zeros(9)}, checkpoint)


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "x.ckpt", storage_options={"a": 1})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
def test_kill_at_any_moment_leaves_a_good_checkpoint(checkpoint):
    for delay in (0.001, 0.004, 0.009, 0.017, 0.03, 0.05):
        child = os.fork()
        if child == 0:
            while True:
                AtomicCheckpointIO().save_checkpoint(CONTENT, checkpoint)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert verify_checkpoint(checkpoint) is True
        assert same(AtomicCheckpointIO().load_checkpoint(checkpoint))
    (checkpoint.parent / ".last.ckpt.0123456789ab.tmp").write_bytes(b"of a killed run")
    AtomicCheckpointIO().save_checkpoint(CONTENT, checkpoint)
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["last.ckpt"]

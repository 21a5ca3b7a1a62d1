"""Strike a process at every moment of saving a checkpoint, and look at what is left: run as a script, prints JSON.

A process of its own, which starts no threads, so that it may fork.
"""

import errno
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from callbacks.checkpoint_io import AtomicCheckpointIO, verify_checkpoint
from records.errors import UserError

OLD, NEW = ({"state_dict": {"weight": torch.full((3000,), value)}, "epoch": int(value)} for value in (1.0, 2.0))


class Moments:
    """Every call of the system that saving makes, by name; `strike` is called before one of them."""

    def __init__(self, at=None, strike=None):
        self.at, self.strike, self.names = at, strike, []

    def pass_through(self, name, call):
        self.names.append(name)
        if len(self.names) - 1 == self.at:
            self.strike()
        return call()


class File:
    """A file without a buffer, so that what is written before a kill is in the file; a large write is two moments."""

    def __init__(self, file, moments):
        self.file, self.moments = file, moments

    def write(self, block):
        block = bytes(block)
        middle = len(block) // 2 if len(block) > 1000 else 0
        for part in (block[:middle], block[middle:]):
            if not part:
                continue
            self.moments.pass_through("write", lambda part=part: self.file.write(part))
        return len(block)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.file.close()


@contextmanager
def watched(moments):
    """Let every call of the system that saving makes pass through `moments`."""
    plain_open, plain_replace, plain_fsync = Path.open, Path.replace, os.fsync

    def open_file(self, mode="r", *arguments, **named):
        if "x" not in mode:
            return plain_open(self, mode, *arguments, **named)
        return File(moments.pass_through("open", lambda: plain_open(self, mode, buffering=0)), moments)

    Path.open = open_file
    Path.replace = lambda self, target: moments.pass_through("replace", lambda: plain_replace(self, target))
    os.fsync = lambda descriptor: moments.pass_through("fsync", lambda: plain_fsync(descriptor))
    try:
        yield
    finally:
        Path.open, Path.replace, os.fsync = plain_open, plain_replace, plain_fsync


def killed(action):
    """Run `action` in a forked process; return how it ended: exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_moments(folder):
    moments = Moments()
    with watched(moments):
        AtomicCheckpointIO().save_checkpoint(NEW, folder / "counted.ckpt")
    return moments.names


def kill_at(folder, at):
    """Kill a process at one moment; return what lies there then and after the next save."""
    path = folder / f"kill{at}" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def action():
        with watched(Moments(at, lambda: os.kill(os.getpid(), signal.SIGKILL))):
            AtomicCheckpointIO().save_checkpoint(NEW, path)

    code = killed(action)
    checked = verify_checkpoint(path)
    epoch = AtomicCheckpointIO().load_checkpoint(path)["epoch"]
    leftovers = len(list(path.parent.iterdir())) - 1
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    cleaned = [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    return {"code": code, "checked": checked, "epoch": epoch, "leftovers": leftovers, "cleaned": cleaned}


def fail_at(folder, at, number):
    """Let one call of the system fail; return the message and what lies there then."""
    path = folder / f"fail{at}-{number}" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def fail():
        raise OSError(number, os.strerror(number))

    said = ""
    with watched(Moments(at, fail)):
        try:
            AtomicCheckpointIO().save_checkpoint(NEW, path)
        except UserError as error:
            said = str(error)
    files = sorted(file.name for file in path.parent.iterdir())
    return {"said": said, "files": files, "epoch": AtomicCheckpointIO().load_checkpoint(path)["epoch"]}


def main(folder):
    moments = count_moments(folder)
    numbers = range(len(moments))
    return {
        "moments": moments,
        "kills": [kill_at(folder, at) for at in numbers],
        "failures": [[fail_at(folder, at, number) for at in numbers] for number in (errno.ENOSPC, errno.EIO)],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))

"""Whole runs with one fault each, in processes of their own, forked from a server that has imported everything once."""

import json
import multiprocessing
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

RUN = Path(__file__).resolve().parents[2] / "run.py"
SHORT = [
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "data.augment={crop_padding: 2, horizontal_flip: true}",
    "callbacks.pictures=null",
]

# The first of these imports takes seconds, which every run of a test would spend.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["modes.train", "modes.test", "faulty_runs"])


@dataclass(frozen=True)
class Fault:
    """What strikes (`exception`, or a signal's name), and before which call of which method in which epoch.

    `place` is a class and a method, `lit_modules.base.TaskModule.training_step`; `call` counts its calls in the epoch.
    """

    kind: str
    place: str
    epoch: int
    call: int = 0
    after: bool = False

    def strike(self):
        """Do it, in the process of the run."""
        if self.kind == "exception":
            raise RuntimeError("a fault")
        os.kill(os.getpid(), getattr(signal, self.kind))


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative for a signal) and what it printed."""

    code: int
    out: str
    err: str


def start(directory, *overrides, fault=None):
    """Run `python run.py OVERRIDES` in `directory`, with a fault or without one."""
    return run([*SHORT, *overrides, f"hydra.run.dir={directory}"], directory, fault)


def repeat(line, directory):
    """Run the very line that a run has printed or recorded."""
    program, script, *arguments = shlex.split(line)
    assert (program, Path(script)) == ("python", RUN)
    return run(arguments, directory)


def record(directory):
    return json.loads((directory / "result.json").read_text())


def run(arguments, beside, fault=None, environment=None):
    """Run `python run.py ARGUMENTS` with more environment variables; what it prints is kept beside a path."""
    streams = [beside.with_name(f"{beside.name}.{name}") for name in ("out", "err")]
    process = _SERVER.Process(target=_live, args=(arguments, streams, fault, environment or {}))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return Ended(process.exitcode, *(stream.read_text() for stream in streams))


def _live(arguments, streams, fault, environment):
    os.environ |= {"COLUMNS": "400", **environment}
    sys.stdout, sys.stderr = (stream.open("w", buffering=1) for stream in streams)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        os.dup2(stream.fileno(), number)
    # a server started in the background ignores Ctrl-C, and its children would
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if fault is not None:
        _arm(fault)
    sys.argv = [str(RUN)]
    sys.exit(import_module("run").main(arguments))


def _arm(fault):
    module, owner, name = fault.place.rsplit(".", 2)
    owner = getattr(import_module(module), owner)
    method = getattr(owner, name)
    calls = []

    def struck(self, *arguments, **named):
        trainer = next((one for one in (getattr(self, "_trainer", None), *arguments) if hasattr(one, "fit_loop")), None)
        due = trainer is None or trainer.current_epoch == fault.epoch
        calls.extend([None] if due else [])
        due = due and len(calls) == fault.call + 1
        if due and not fault.after:
            fault.strike()
        result = method(self, *arguments, **named)
        if due and fault.after:
            fault.strike()
        return result

    setattr(owner, name, struck)

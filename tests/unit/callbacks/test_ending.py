import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from training_runs import Regression, loader, trainer

from callbacks.ending import EndTogether


@pytest.fixture
def rank():
    started = []

    def start(seconds):
        started.append(subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def end(error, ranks, grace):
    launcher = _SubprocessScriptLauncher.__new__(_SubprocessScriptLauncher)
    launcher.procs = watched = list(ranks)
    begun = time.monotonic()
    EndTogether(grace).on_exception(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)), None, error)
    assert watched == []
    return time.monotonic() - begun


def test_a_stopped_run_ends_its_ranks_at_once(rank):
    other = rank(60)
    assert end(SystemExit(), [other], grace=30) < 10
    assert other.wait(10) == -signal.SIGKILL


def test_ranks_of_a_failed_run_may_end_by_themselves_for_a_while(rank):
    soon = rank(0.1)
    assert end(RuntimeError(), [soon], grace=30) < 30
    assert soon.wait(10) == 0


def test_ranks_of_a_failed_run_that_do_not_end_are_killed(rank):
    never = rank(60)
    assert end(RuntimeError(), [never], grace=0.2) >= 0.2
    assert never.wait(10) == -signal.SIGKILL


def test_a_run_without_ranks_of_its_own_is_left_alone():
    EndTogether().on_exception(SimpleNamespace(strategy=SimpleNamespace(launcher=None)), None, RuntimeError())


def test_signals_stay_with_the_run():
    seen = []

    class Look(EndTogether):
        def on_train_start(self, trainer, pl_module):
            seen.append(signal.getsignal(signal.SIGTERM))

    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        ours = signal.getsignal(signal.SIGTERM)
        trainer(1, [Look()], enable_checkpointing=False).fit(Regression(), loader())
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert seen == [ours]

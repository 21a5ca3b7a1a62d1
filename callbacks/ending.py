"""How a run that is stopped, or fails, ends on all of its ranks."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

GRACE_SECONDS = 10.0


class EndTogether(L.Callback):
    """End the ranks that this process has started when it is stopped or fails, so that none lives on and waits.

    A rank that is stopped has nothing to save: the first one writes all files. After an error the others get a moment
    to say what befell them, since the one that failed first may not be the first rank.

    Lightning's own handler of SIGTERM is left out. It broadcasts from inside the handler, which waits for ever where
    another rank is in another collective call (seen with two ranks and gloo); the signal reaches the run through the
    handler of `modes/life.py` alone.

    Args:
        grace: seconds that other ranks have to end by themselves after an error.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.grace = grace

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave signals to the run."""
        trainer._signal_connector.register_signal_handlers = _leave_signals  # type: ignore[method-assign]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the other ranks; Ctrl-C is seen to by Lightning."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return
        ranks = list(launcher.procs)
        # In place: a thread of Lightning's watches this very list, and kills this process soon after a rank has ended.
        launcher.procs.clear()
        deadline = time.monotonic() + (self.grace if isinstance(exception, Exception) else 0.0)
        for rank in ranks:
            with suppress(subprocess.TimeoutExpired):
                rank.wait(max(deadline - time.monotonic(), 0.0))
            rank.kill()


def _leave_signals() -> None:
    """Take the place of Lightning's registration."""

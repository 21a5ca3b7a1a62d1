"""`hydra/launcher=slots`: the jobs of a sweep side by side, each in a slot with its share of the machine.

Hydra finds launchers in packages below `hydra_plugins` only. It reads this file at every start, so it imports nothing
that takes time.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

TARGET = "hydra_plugins.slots_launcher.slots_launcher.SlotsLauncher"

# The launcher has no settings of its own: `sweep.slots` says how many jobs run at a time.
ConfigStore.instance().store(group="hydra/launcher", name="slots", node={"_target_": TARGET}, provider="slots_launcher")


class SlotsLauncher(Launcher):
    """Starts each job of a batch as a child process as soon as a slot is free."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the task function is not called, since it would start one child and wait."""
        self._context = hydra_context
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs; return their monitored values in the order of `job_overrides`."""
        from launch.sweep import run_batch

        return run_batch(self._context.config_loader, self._config, job_overrides, initial_job_idx)

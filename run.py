"""The one door: `python run.py task=greedyhash model=beit2` reads the command line, checks it, and acts.

Nothing here imports torch: help, completion, --cfg, the checker and the parent of a sweep answer at once.
`python run.py --help` lists what can be done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from launch.check import check_overrides
from launch.command_line import CommandLine, read_command_line
from launch.compose import HYDRA_VERSION_BASE
from launch.groups import CONF, CONFIG_NAME
from launch.help import help_page
from launch.problems import Problem, as_text
from launch.stages import is_in_stages, run_stages, stage_settings
from launch.stored import stored_config
from launch.sweep_plan import resumed_line
from records.console import be_quiet
from records.errors import UserError
from records.run_directory import last_stage, open_run

EXIT_FAILED = 1
EXIT_WRONG_COMMAND = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 a wrong command, 130 interrupted."""
    line = read_command_line(arguments)
    if line.flags.help:
        print(help_page())
        return 0
    if line.problems:
        return refuse(line.problems)
    try:
        run = line.value_of("run")
        if line.asks_hydra and (run is None or not line.flags.cfg):
            return hand_to_hydra(line)
        line = resumed_line(line)
        if run is not None and not line.multirun:
            return act_on_run(line, run)
        problems = check_overrides(line.overrides)
        if problems:
            return refuse(problems)
        if line.multirun:
            return sweep(line)
        return hand_to_hydra(line, stage_settings(line.overrides))
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_COMMAND
    except KeyboardInterrupt:
        print("Stopped before the run began.", file=sys.stderr)
        return EXIT_INTERRUPTED


def refuse(problems: list[Problem]) -> int:
    """Print every problem; return the exit code of a wrong command."""
    print(as_text(problems), file=sys.stderr)
    return EXIT_WRONG_COMMAND


def act_on_run(line: CommandLine, run: str) -> int:
    """Do a later action on a run directory: its stored configuration is the base."""
    is_training = line.value_of("mode") in (None, "train")
    directory = Path(run) if is_training else last_stage(Path(run).expanduser())
    config, problems = stored_config(open_run(directory), line.overrides)
    if config is None:
        return refuse(problems)
    if line.flags.cfg:
        print(OmegaConf.to_yaml(config))
        return 0
    be_quiet(bool(config.quiet))
    if is_in_stages(config):
        return run_stages(config, list(line.overrides), is_resumed=True)
    return int(import_module(f"modes.{config.mode}").run(config, overrides=list(line.overrides)))


def hand_to_hydra(line: CommandLine, added: Sequence[str] = ()) -> int:
    """Let Hydra compose and start: one run in this process, or each job of a sweep in a child process.

    `added` is what stands in front of the overrides without having been typed, and in no record.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    exit_codes: list[int] = []

    @hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(CONF), config_name=CONFIG_NAME)
    def task(config: DictConfig) -> None:
        settings = HydraConfig.get()
        for key in ("data_dir", "output_dir"):
            config.paths[key] = str(Path(config.paths[key]).absolute())
        if config.get("init_from") is not None:
            config.init_from = str(Path(config.init_from).absolute())
        config.paths.run_dir = settings.runtime.output_dir
        be_quiet(bool(config.quiet))
        overrides = [text for text in settings.overrides.task if text not in added]
        try:
            if is_in_stages(config):
                exit_codes.append(run_stages(config, overrides))
            else:
                exit_codes.append(int(import_module(f"modes.{config.mode}").run(config, overrides=overrides)))
        except UserError as error:
            # Hydra would show a traceback of it
            print(error, file=sys.stderr)
            exit_codes.append(EXIT_WRONG_COMMAND)

    sys.argv[1:] = [*line.flag_arguments, *added, *line.overrides]
    task()
    return max(exit_codes, default=0)


def sweep(line: CommandLine) -> int:
    """Let Hydra choose the jobs and where they run; each is a child process, and this one never trains."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from launch.sweep import run_sweep
    from launch.sweep_plan import plan_sweep

    plan = plan_sweep(line)

    # launchers carry this function to other processes: it holds nothing but the plan
    @hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(CONF), config_name=CONFIG_NAME)
    def task(config: DictConfig) -> float | None:
        from launch.jobs import job_of
        from launch.sweep import run_job

        settings = HydraConfig.get()
        return run_job(plan, job_of(config, settings, Path(settings.runtime.output_dir)))

    sys.argv[1:] = plan.arguments
    return run_sweep(plan, task)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

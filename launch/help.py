"""The help page, generated from the YAML tree: what can be done, and which choices there are."""

from __future__ import annotations

from launch.groups import choices

SHOWN_GROUPS = (
    "mode",
    "task",
    "model",
    "data",
    "optim",
    "schedule",
    "trainer",
    "logger",
    "experiment",
    "sweep",
    "debug",
)

HEAD = """\
usage: python run.py [GROUP=CHOICE ...] [KEY=VALUE ...] [-m]

  python run.py                                  train and test GreedyHash on handwritten digits
  python run.py task=greedyhash model=beit2      another method, another backbone
  python run.py task.bits=64 trainer.max_epochs=5 seed=1
  python run.py -m seed=0,1,2 task.bits=16,32    a sweep: one run for each combination
  python run.py sweep=seeds sweep.slots=4        five seeds, four at a time, with mean and interval
  python run.py sweep.resume=DIR                 run what is missing or failed in a sweep
  python run.py mode=train run=DIR               go on with an interrupted run
  python run.py mode=test run=DIR                test a finished run again
  python run.py mode=predict run=DIR image=FILE  what a trained run makes of an image; mode=search: its neighbours
  python run.py mode=encode run=DIR images=DIR   codes of a folder or table of images
  python run.py mode=report runs=DIR             compare the runs and sweeps below a folder
  python run.py mode=dashboard project=NAME      a W&B workspace with panels for each pillar
  python run.py task=ldam mode=inspect           look before a run: images, classes, parameters, time, memory
"""

FOOT = """\
With quiet=true warnings, errors and the result alone are printed.

Look before you run:
  python run.py task=greedyhash --cfg job        the whole configuration (add --resolve for final values)
  python run.py --info defaults                  which file each part comes from
  python run.py --hydra-help                     Hydra's own flags (multirun, completion, ...)
"""


def help_page() -> str:
    """Return the whole help page as text."""
    return "\n".join([HEAD, *(_section(group) for group in SHOWN_GROUPS), FOOT])


def _section(group: str) -> str:
    known = choices(group)
    if not known:
        return ""
    width = max(len(choice.name) for choice in known)
    lines = [f"  {choice.name:<{width}}  {choice.description}" for choice in known]
    return "\n".join([f"{group}=", *lines, ""])

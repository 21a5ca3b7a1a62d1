"""mode=prepare data=NAME: look at every file of an archive once, and write what training and submission rely on."""

from __future__ import annotations

import inspect
import sys
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from datamodules.files.ibiohash_archive import BROKEN_FILE, LEFT_OUT_FILE
from datamodules.ibiohash import Preparation
from launch.problems import Problem, as_text
from modes.binding import check_arguments, locate
from modes.build import METADATA, PARTS, build
from modes.life import EXIT_DONE, EXIT_INTERRUPTED, command_line
from records.console import console, progress, tell
from records.errors import UserError
from records.notices import collect_run_warnings

SHOWN = 10


def run(config: DictConfig, overrides: list[str]) -> int:
    """Prepare the data that `config.data` describes; return the exit code."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    _check(settings)
    with collect_run_warnings():
        try:
            preparation = prepare(settings)
        except KeyboardInterrupt:
            print(
                f"\nStopped. What was looked at is noted; this goes on from there:\n{command_line(overrides)}",
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED
    show(preparation)
    return EXIT_DONE


def prepare(settings: dict[str, Any]) -> Preparation:
    """Build the data, without a network, and let them prepare themselves under a progress bar."""
    node = {**settings["data"], "split_dir": None}
    data = build(node, METADATA["data"], image_size=node["image_size"] or 224)
    with progress("looking at files") as advance:
        result: Preparation = data.prepare_archive(advance, settings["class_folders"])
    return result


def show(preparation: Preparation) -> None:
    """Print what was found and written."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    for part, count in preparation.counts.items():
        table.add_row(
            part, f"{count:,} images" + (f" in {preparation.classes:,} classes" if part == "labelled" else "")
        )
    table.add_row("splits", ", ".join(f"{name} {size:,}" for name, size in preparation.sizes.items()))
    for title, reasons in (("left out", preparation.left_out), ("unreadable", preparation.broken)):
        table.add_row(title, f"{len(reasons):,} images")
        for name, reason in list(reasons.items())[:SHOWN]:
            table.add_row("", f"{name}: {reason}")
    for pair, count in preparation.copies.items():
        table.add_row("same content", f"{count:,} images are in {pair}")
    if preparation.class_folders is not None:
        made = preparation.class_folders
        table.add_row("class folders", f"{made.made:,} images put below {made.folder}, {made.found:,} were there")
    console(soft_wrap=True, highlight=False, markup=False).print(table)
    tell(f"Written to {preparation.folder}: {LEFT_OUT_FILE}, {BROKEN_FILE}, query.txt, gallery.txt, the split")


def _check(settings: dict[str, Any]) -> None:
    """Bind the arguments of the data, and make sure that these can be prepared.

    Raises:
        UserError: an argument does not fit, or there is nothing to prepare.
    """
    problems: list[Problem] = check_arguments({"data": settings["data"]}, {"data": PARTS["data"]})
    if problems:
        raise UserError(as_text(problems))
    target = locate(settings["data"]["_target_"])
    if not inspect.isclass(target) or not hasattr(target, "prepare_archive"):
        raise UserError(f"data={settings['data']['name']} needs no preparing; mode=prepare is for data=ibiohash")

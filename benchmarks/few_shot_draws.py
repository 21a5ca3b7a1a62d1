"""Ten draws of a few-shot head: `mode=draws`, its draws solved as one stack, against ten runs one after another.

    python benchmarks/few_shot_draws.py DATA --protocol flowers --tasks gda,tip_adapter --rounds 3

DATA is the folder that benchmarks/fewshot_table.py reads. Protocols: `imagenet` draws 2 shots and 2 validation images
of each class from the 4-shot draw, and judges the two smaller draws; `classes374` is the same on 374 of the classes;
`flowers` draws 4 and 4 of 16, without text, and judges the official test part.

Ways take turns: `draws` (mode=draws as it comes), `stack` (all draws at once, whatever memory it takes), `in_turn`
(none at once, in one process), and `runs`, a run for each draw. Printed are medians of the rounds: seconds of the whole
command, its CPU seconds, seconds of the fits alone, and how many times longer the runs take than mode=draws, by the
clock and by CPU seconds. The accuracies of all ways must agree.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

HOUSE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HOUSE), str(HOUSE / "benchmarks")]

from fewshot_table import CLASSES, Part, of_classes, read_part, read_text, together, unique_rows  # noqa: E402

from records.draws import read_draws  # noqa: E402
from records.result import read_result  # noqa: E402
from records.run_directory import RunDirectory  # noqa: E402

AGREEMENT = 1e-6


@dataclass(frozen=True)
class Turn:
    """One way in one round: seconds of the commands, by the clock and of the CPU, of their fits; accuracies by draw."""

    seconds: float
    cpu: float
    fits: float
    accuracies: tuple[float, ...]


def write_material(folder: Path, protocol: str, file: Path) -> int:
    """Write the features of a protocol as `data=features` reads them; return its shots."""
    if protocol == "flowers":
        source = folder / "oxford_flowers.npz"
        _write(file, read_part(source, "train16"), read_part(source, "test"), None)
        return 4
    source, text = folder / "imagenet.npz", read_text(folder)
    pool, smaller = read_part(source, "train4"), together(read_part(source, "train1"), read_part(source, "train2"))
    test = smaller.take(unique_rows(smaller, pool))
    if protocol == "classes374":
        chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:CLASSES]
        pool, test, text = of_classes(pool, chosen), of_classes(test, chosen), text[chosen]
    _write(file, pool, test, text)
    return 2


def _write(file: Path, pool: Part, test: Part, text: torch.Tensor | None) -> None:
    described = {} if text is None else {"text_features": text.numpy()}
    np.savez(
        file,
        train_features=pool.features.numpy(),
        train_labels=pool.labels.numpy(),
        test_features=test.features.numpy(),
        test_labels=test.labels.numpy(),
        **described,
    )


def take_turn(way: str, overrides: list[str], draws: int, folder: Path) -> Turn:
    """Run one way."""
    start, cpu = time.perf_counter(), _cpu_seconds()
    if way == "runs":
        runs = [_run([*overrides, f"seed={seed}"], folder / f"{way}{seed}") for seed in range(draws)]
        results = [read_result(run.result) for run in runs]
        accuracies = [result.metrics["test/accuracy"] for result in results]
    else:
        bound = {"draws": [], "stack": ["stack_gib=1000"], "in_turn": ["stack_gib=1e-9"]}[way]
        runs = [_run([*overrides, "mode=draws", f"draws={draws}", *bound], folder / way)]
        results = [read_result(run.result) for run in runs]
        accuracies = [draw.metrics["test/accuracy"] for draw in read_draws(runs[0].draws)]
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    return Turn(seconds, cpu, sum(result.seconds["training"] for result in results), tuple(accuracies))


def _cpu_seconds() -> float:
    """Return what all processes that ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(overrides: list[str], folder: Path) -> RunDirectory:
    command = [sys.executable, str(HOUSE / "run.py"), *overrides, f"hydra.run.dir={folder}", "trainer=cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"})
    return RunDirectory(folder)


def compare(task: str, ways: list[str], overrides: list[str], draws: int, rounds: int) -> str:
    """Let the ways take turns; return a line of the table.

    Raises:
        SystemExit: the ways disagree.
    """
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            with tempfile.TemporaryDirectory() as folder:
                turns[way].append(take_turn(way, [f"task={task}", *overrides], draws, Path(folder)))
    found = [turn.accuracies for each in turns.values() for turn in each]
    difference = max(float(np.abs(np.subtract(one, found[0])).max()) for one in found)
    if difference > AGREEMENT:
        raise SystemExit(f"{task}: the ways disagree by {difference:.2g} in accuracy")
    whole = {way: statistics.median(turn.seconds for turn in each) for way, each in turns.items()}
    cpu = {way: statistics.median(turn.cpu for turn in each) for way, each in turns.items()}
    fits = {way: statistics.median(turn.fits for turn in each) for way, each in turns.items()}
    ratios = [f"{each['runs'] / each['draws']:.1f}" if {"runs", "draws"} <= set(ways) else "" for each in (whole, cpu)]
    cells = [f"{whole[way]:.1f} ({cpu[way]:.1f}, {fits[way]:.2f})" for way in ways]
    return f"| {task} | {' | '.join([*cells, *ratios])} | {100 * statistics.fmean(found[0]):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the archives")
    parser.add_argument("--protocol", choices=("imagenet", "classes374", "flowers"), default="flowers")
    parser.add_argument("--tasks", default="gda,tip_adapter,prototype", help="heads, by commas")
    parser.add_argument("--ways", default="draws,runs", help="of draws, stack, in_turn, runs")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ways = arguments.ways.split(",")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npz"
        shots = write_material(arguments.data, arguments.protocol, file)
        overrides = ["data=features", f"data.file={file}", f"data.shots={shots}", "data.validation=shots"]
        print(f"{arguments.protocol}, {arguments.draws} draws, {arguments.rounds} rounds: seconds (CPU, fits)")
        print(f"| task | {' | '.join(ways)} | runs / draws | by CPU | accuracy |")
        print(f"|{' --- |' * (len(ways) + 4)}")
        for task in arguments.tasks.split(","):
            print(compare(task, ways, overrides, arguments.draws, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()

"""Training speed on a CPU with freed memory kept and with it returned to the system, in processes in turn.

    python benchmarks/kept_memory.py --rounds 5 --batches 40
    python benchmarks/kept_memory.py --compile

Trains ResNet-32 as benchmarks/training_speed.py does. Prints images per second, pages faulted in per step and the
memory at its highest (medians over rounds), and the ratio of the speeds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings

from training_speed import RandomImages, framework, settings_for

from modes.kept_memory import keep_freed_memory
from modes.train import quieten_lightning

WAYS = ("kept", "returned")


def measure(way: str, batches: int, is_compiled: bool) -> dict[str, float]:
    """Train in this process and return images per second, page faults per step and MiB at the highest."""
    quieten_lightning()
    warnings.filterwarnings("ignore")
    if way == "kept" and not keep_freed_memory():
        raise SystemExit("freed memory cannot be kept here: not glibc, or malloc is set by the environment")
    data = RandomImages(image_size=32, seed=0, batch_size=128, augment={"crop_padding": 4, "horizontal_flip": True})
    data.setup()
    with tempfile.TemporaryDirectory() as directory:
        settings = settings_for(batches, directory)
        settings["trainer"]["compile"] = is_compiled
        # once to warm up: the first steps compile, and find the memory that later ones use again
        framework(settings_for(3, directory) | {"trainer": {**settings["trainer"], "limit_train_batches": 3}}, data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        speed = framework(settings, data)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"speed": speed, "faults": (usage.ru_minflt - before) / batches, "mib": usage.ru_maxrss / 1024}


def in_a_process(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--batches", str(arguments.batches)]
    command += ["--compile"] if arguments.compile else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure both ways in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn (default 5)")
    parser.add_argument("--batches", type=int, default=40, help="batches per measurement (default 40)")
    parser.add_argument("--compile", action="store_true", help="train the compiled network")
    parser.add_argument("--way", choices=WAYS, help="measure this way alone, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.batches, arguments.compile)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in WAYS:
            found[way].append(in_a_process(way, arguments))
        last = ", ".join(f"{way} {found[way][-1]['speed']:,.0f} images/s" for way in WAYS)
        print(f"round {number + 1}: {last}", flush=True)
    for way in WAYS:
        speed, faults, mib = (statistics.median(one[name] for one in found[way]) for name in ("speed", "faults", "mib"))
        print(
            f"{way}: {speed:,.0f} images/s, {faults:,.0f} page faults a step, {mib:,.0f} MiB at the highest (medians)"
        )
    ratios = [kept["speed"] / returned["speed"] for kept, returned in zip(*found.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} (median; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

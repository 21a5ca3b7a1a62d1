"""Seconds of InMaP on 10,000 images and 400 classes: stopping when it has converged, against all of its steps.

    python benchmarks/inmap_speed.py --threads 2

Features are made up, 512 wide: classes around a common mean, and text off the classes' means, as CLIP's lie. The two
ways take turns; printed are medians of seconds by the clock and of the CPU, the steps, and the accuracies beside that
of zero-shot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lit_modules.fewshot.episode import accuracy
from lit_modules.fewshot.inmap import InMaP

WIDTH = 512
NOISE, TEXT_ERROR = 1.6, 1.0


def features(images: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make images (N, D), their classes (N,), and text (C, D)."""
    generator = torch.Generator().manual_seed(0)

    def directions(number: int) -> Tensor:
        return F.normalize(torch.randn(number, WIDTH, generator=generator), dim=1)

    centres = F.normalize(1.2 * directions(1) + directions(classes), dim=1)
    labels = torch.randint(classes, (images,), generator=generator)
    text = F.normalize(centres + directions(1) + TEXT_ERROR * directions(classes), dim=1)
    return F.normalize(centres[labels] + NOISE * directions(images), dim=1), labels, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=200, help="of the way that does not stop; the task's are 2,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, labels, text = features(arguments.images, arguments.classes)
    ways = {"stops": InMaP(), "goes on": InMaP(iterations=arguments.steps, tolerance=0.0)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, head in ways.items():
            start, computed = time.perf_counter(), time.process_time()
            head.fit(None, None, text, images)
            seconds[way].append(time.perf_counter() - start)
            cpu[way].append(time.process_time() - computed)
    print(f"{arguments.images:,} images, {arguments.classes} classes, {torch.get_num_threads()} threads")
    print(f"zero-shot: accuracy {accuracy(images @ text.T, labels).item():.4f}")
    for way, head in ways.items():
        reached = accuracy(head.predict(images), labels).item()
        taken = f"{statistics.median(seconds[way]):.1f} s, {statistics.median(cpu[way]):.1f} s of the CPU"
        print(f"{way}: {taken}, {head.facts['steps']:.0f} steps, accuracy {reached:.4f}")


if __name__ == "__main__":
    main()

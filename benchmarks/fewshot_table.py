"""Few-shot heads on real CLIP ViT-B/32 features: the tables of docs/results/fewshot_clip.md.

    python benchmarks/fewshot_table.py DATA --output docs/results/fewshot_clip.md

DATA is a folder with `imagenet.npz` (train1_x, train1_y: unit features of a draw of one image per ImageNet class and
their classes; train2 and train4 likewise), `imagenet_text.npz` (text: one embedding per class) and
`oxford_flowers.npz` (train16 and test). Three protocols:

1. ImageNet, 1,000 classes: the 4-shot draw is the support, the two smaller draws are judged. Near-duplicates of the
   support or of each other are left out; a half drawn at random chooses settings, the other half is the test part.
   Transductive zero-shot methods choose nothing and judge both halves.
2. 374 random ImageNet classes, three draws of classes solved as one stack of problems.
3. Flowers-102, images alone: ten draws of each number of shots from the 16, solved as one stack.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lit_modules.fewshot.ape import APE
from lit_modules.fewshot.clap import CLAP
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.head import FewShotHead
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.lpp import LPP
from lit_modules.fewshot.prototype import Prototype
from lit_modules.fewshot.tip_adapter import TipAdapter
from lit_modules.fewshot.tip_adapter_f import TipAdapterF
from lit_modules.fewshot.transclip import TransCLIP
from lit_modules.fewshot.zeroshot import ZeroShot
from records.environment import hardware
from records.statistic import statistic

NEAR_DUPLICATE = 0.98
CLASSES, DRAWS = 374, 3
SHOTS, SEEDS = (2, 4, 8, 16), 10
CLAP_EPOCHS = 60


@dataclass(frozen=True)
class Part:
    """Features (N, D) and labels (N,), or a stack of such parts."""

    features: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Part:
        return Part(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    accuracies: tuple[float, ...]
    settings: str
    seconds: float


def read_part(path: Path, name: str) -> Part:
    arrays = np.load(path)
    features = torch.from_numpy(arrays[f"{name}_x"].astype(np.float32))
    return Part(F.normalize(features, dim=-1), torch.from_numpy(arrays[f"{name}_y"].astype(np.int64)))


def together(*parts: Part) -> Part:
    return Part(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


def unique_rows(part: Part, support: Part) -> Tensor:
    """Return which images of a part are no near-duplicate of the support or of an earlier image, bool (N,)."""
    of_support = (part.features @ support.features.T).amax(dim=1)
    of_earlier = (part.features @ part.features.T).tril(-1).amax(dim=1)
    return torch.maximum(of_support, of_earlier) <= NEAR_DUPLICATE


def judge(
    name: str,
    head: FewShotHead,
    test: Part,
    support: Part | None,
    text: Tensor | None,
    validation: Part | None,
    counted: Tensor | None = None,
) -> Row:
    """Fit a head and return its accuracy, one for each problem of a stack; `counted` says which images count."""
    start = time.perf_counter()
    head.fit(
        None if support is None else support.features,
        None if support is None else support.labels,
        text,
        test.features,
        None if validation is None else (validation.features, validation.labels),
    )
    right = head.predict(test.features).argmax(dim=-1) == test.labels
    counted = torch.ones_like(right) if counted is None else counted
    shares = (right & counted).sum(dim=-1).double() / counted.sum(dim=-1).double()
    shown = ", ".join(f"{key} {value:.3g}" for key, value in head.facts.items() if key in SHOWN_SETTINGS)
    row = Row(name, tuple(shares.flatten().tolist()), shown, time.perf_counter() - start)
    print(row, flush=True)
    return row


SHOWN_SETTINGS = ("alpha", "beta", "gamma", "text_weight", "initial_alpha", "steps")


def imagenet(folder: Path) -> tuple[list[Row], list[Row], dict[str, int | float]]:
    """Judge every method on ImageNet; return the rows with validation, the zero-shot rows, and the sizes."""
    file = folder / "imagenet.npz"
    support, smaller = read_part(file, "train4"), together(read_part(file, "train1"), read_part(file, "train2"))
    text = read_text(folder)
    images = together(support, smaller)
    everything = judge("zero-shot, all images", ZeroShot(), images, None, text, None)
    kept = smaller.take(unique_rows(smaller, support))
    order = torch.randperm(len(kept.labels), generator=torch.Generator().manual_seed(0))
    half = len(order) // 2
    validation, test = kept.take(order[:half]), kept.take(order[half:])
    heads: dict[str, FewShotHead] = {
        "zero-shot": ZeroShot(),
        "prototype + text": Prototype(text_weight="search"),
        "Tip-Adapter": TipAdapter(),
        "APE": APE(),
        "Tip-Adapter-F": TipAdapterF(),
        "GDA": GDA(),
        "LP++": LPP(),
        f"CLAP, {CLAP_EPOCHS} epochs": CLAP(epochs=CLAP_EPOCHS),
        "TransCLIP, few-shot (transductive)": TransCLIP(),
    }
    rows = [judge(name, head, test, support, text, validation) for name, head in heads.items()]
    transductive: dict[str, FewShotHead] = {
        "zero-shot": ZeroShot(),
        "InMaP without Sinkhorn (transductive)": InMaP(sinkhorn_rounds=0, iterations=50, tolerance=0),
        "InMaP, uniform prior (transductive)": InMaP(),
        "TransCLIP, zero-shot (transductive)": TransCLIP(),
    }
    without = [judge(name, head, kept, None, text, None) for name, head in transductive.items()]
    sizes: dict[str, int | float] = {
        "images": len(images.labels),
        "zero-shot": everything.accuracies[0],
        "duplicates": len(smaller.labels) - len(kept.labels),
        "validation": len(validation.labels),
        "test": len(test.labels),
        "kept": len(kept.labels),
    }
    return rows, without, sizes


def random_classes(folder: Path) -> list[Row]:
    """Judge on draws of classes, all draws as one stack."""
    file = folder / "imagenet.npz"
    draws = {shots: read_part(file, f"train{shots}") for shots in (1, 2, 4)}
    text = read_text(folder)
    chosen = [torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:CLASSES] for seed in range(DRAWS)]

    def stack(part: Part) -> Part:
        return stacked([of_classes(part, classes) for classes in chosen])

    support, test, validation = stack(draws[4]), stack(draws[2]), stack(draws[1])
    texts = torch.stack([text[classes] for classes in chosen])
    counted = torch.stack(
        [
            unique_rows(Part(images, labels), Part(keys, key_labels))
            for images, labels, keys, key_labels in zip(
                test.features, test.labels, support.features, support.labels, strict=True
            )
        ]
    )
    heads: dict[str, FewShotHead] = {
        "zero-shot": ZeroShot(),
        "prototype": Prototype(),
        "prototype + text": Prototype(text_weight="search"),
        "Tip-Adapter": TipAdapter(),
        "GDA": GDA(),
        "LP++": LPP(),
        "LP++, alpha fixed": LPP(alpha="fixed"),
        "InMaP, uniform prior (transductive)": InMaP(),
    }
    rows = [judge(name, head, test, support, texts, validation, counted) for name, head in heads.items()]
    rows.append(judge("GDA, images alone", GDA(), test, support, None, None, counted))
    return rows


def flowers(folder: Path) -> dict[int, tuple[float, ...]]:
    """Return the accuracies of image-only GDA on Flowers-102 for each number of shots, one per draw."""
    file = folder / "oxford_flowers.npz"
    pool, test = read_part(file, "train16"), read_part(file, "test")
    found = {}
    for shots in SHOTS:
        seeds = SEEDS if shots < 16 else 1
        draws = stacked([few_of_each(pool, shots, seed) for seed in range(seeds)])
        tests = Part(test.features.expand(seeds, -1, -1), test.labels.expand(seeds, -1))
        found[shots] = judge(f"GDA, {shots} shots", GDA(), tests, draws, None, None).accuracies
    return found


def read_text(folder: Path) -> Tensor:
    return torch.from_numpy(np.load(folder / "imagenet_text.npz")["text"].astype(np.float32))


def of_classes(part: Part, classes: Tensor) -> Part:
    """Return the images of some classes, renumbered in their order."""
    number = torch.full((1000,), -1).scatter(0, classes, torch.arange(len(classes)))
    labels = number[part.labels]
    return Part(part.features[labels >= 0], labels[labels >= 0])


def few_of_each(part: Part, shots: int, seed: int) -> Part:
    """Draw `shots` images of each class."""
    order = torch.randperm(len(part.labels), generator=torch.Generator().manual_seed(seed))
    rows = [order[part.labels[order] == label][:shots] for label in part.labels.unique()]
    return part.take(torch.cat(rows))


def stacked(parts: Sequence[Part]) -> Part:
    return Part(torch.stack([part.features for part in parts]), torch.stack([part.labels for part in parts]))


def table(rows: Sequence[Row], baseline: Row) -> str:
    """Return the rows as Markdown, with their gain over the baseline in points."""
    count = len(baseline.accuracies)
    head = ["method", *(f"draw {place}" for place in range(count) if count > 1), "accuracy", "gain", "settings", "s"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        mean = sum(row.accuracies) / count
        gain = 100 * (mean - sum(baseline.accuracies) / count)
        draws = [f"{100 * value:.1f}" for value in row.accuracies] if count > 1 else []
        shown = "" if row is baseline else f"{gain:+.1f}"
        lines.append([row.name, *draws, f"{100 * mean:.1f}", shown, row.settings, f"{row.seconds:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shots_table(found: dict[int, tuple[float, ...]]) -> str:
    lines = ["| shots | draws | accuracy | 95 % interval |", "|---|---|---|---|"]
    for shots, accuracies in found.items():
        summary = statistic(accuracies)
        spread = "" if summary.count == 1 else f"± {100 * summary.half_width:.1f}"
        lines.append(f"| {shots} | {summary.count} | {100 * summary.mean:.1f} | {spread} |")
    return "\n".join(lines)


PAGE = """# Few-shot heads on CLIP ViT-B/32 features

Generated by

<!-- not run: needs the files of features, and hours -->
```bash
python benchmarks/fewshot_table.py DATA --output docs/results/fewshot_clip.md
```

on {date}; {threads} thread(s) of a CPU ({cpu}), torch {torch}.

Accuracies in percent, gains in points over zero-shot on the same images; s are the seconds of fit and prediction, on a
machine that was busy with other work: upper bounds. Settings are those that the validation part chose. A transductive
method saw the unlabelled test images: compare it with its own kind.

## ImageNet, 1,000 classes

Zero-shot on all {images:,} images of the three draws: {zero_shot:.1f}. Below, the 4-shot draw (4,000 images) is the
support, and the 1- and 2-shot draws are judged; {duplicates} images that are near-duplicates (cosine above {near}) were
left out, {validation:,} images drawn at random chose settings, {test:,} are the test part.

{imagenet}

Without support and without validation, on all {kept:,} images:

{transductive}

The uniform prior is nearly true here, which is to InMaP's advantage: but for the near-duplicates, every class has three
images.

## {classes} random classes of ImageNet

Support: 4-shot draw; validation: 1-shot draw; test: 2-shot draw without near-duplicates. The three draws of classes are
one stack of problems; seconds are of all three.

{random}

## Flowers-102, images alone

GDA without text on the official test part (2,463 images). Draws are from the 16-shot set, all of one number of shots
solved as one stack; 16 shots are that set itself. Mean and Student's t interval.

{flowers}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the three archives")
    parser.add_argument("--output", type=Path, default=Path("docs/results/fewshot_clip.md"))
    arguments = parser.parse_args()
    warnings.simplefilter("default")
    rows, without, sizes = imagenet(arguments.data)
    random = random_classes(arguments.data)
    page = PAGE.format(
        date=datetime.now(UTC).date().isoformat(),
        threads=torch.get_num_threads(),
        cpu=hardware()["cpu"],
        torch=torch.__version__.partition("+")[0],
        images=sizes["images"],
        zero_shot=100 * sizes["zero-shot"],
        duplicates=sizes["duplicates"],
        near=NEAR_DUPLICATE,
        validation=sizes["validation"],
        test=sizes["test"],
        kept=sizes["kept"],
        classes=CLASSES,
        imagenet=table(rows, rows[0]),
        transductive=table(without, without[0]),
        random=table(random, random[0]),
        flowers=shots_table(flowers(arguments.data)),
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

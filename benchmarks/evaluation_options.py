"""CPU seconds of each part of the retrieval evaluation, after compilation, on synthetic codes.

One thread, so that seconds add up; wall time on an idle machine is the same, and falls with the number of threads.

    python benchmarks/evaluation_options.py
    python benchmarks/evaluation_options.py --case cifar10_1
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from retrieval.asymmetric import asymmetric_average_precision
from retrieval.average_precision import average_precision
from retrieval.bootstrap import mean_interval
from retrieval.codes import pack
from retrieval.counting import count_distances
from retrieval.cumulative_gain import count_gains, normalized_gain_at
from retrieval.reranking import reranked_average_precision

CANDIDATES, WIDTH, CLASSES = 1000, 128, 10


@dataclass(frozen=True)
class Case:
    """Sizes of a synthetic evaluation; ``labels`` above 0 makes it multi-hot over that many labels."""

    queries: int
    items: int
    bits: int
    labels: int = 0


CASES = {
    "cifar10_1": Case(1_000, 59_000, 48),
    "cifar10_2": Case(10_000, 50_000, 64),
    "nuswide_81": Case(2_100, 193_734, 64, labels=81),
}
SMALL = (Case(20, 1_500, 64), Case(20, 1_500, 64, labels=81))


@dataclass(frozen=True)
class Part:
    """Drawn queries, or a drawn database."""

    values: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    features: np.ndarray


def draw(rows: int, case: Case, rng: np.random.Generator, centres: np.ndarray) -> Part:
    classes = rng.integers(0, CLASSES, rows)
    values = (centres[classes] + 0.75 * rng.normal(size=(rows, case.bits))).astype(np.float32)
    features = (centres[classes, :1] + rng.normal(size=(rows, WIDTH))).astype(np.float32)
    labels = classes
    if case.labels:
        labels = (rng.random((rows, case.labels)) < 3 / case.labels) | (np.arange(case.labels) == classes[:, None])
    return Part(values, pack(values > 0), labels, features)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    answer = work()
    return time.process_time() - begun, answer


def measure(case: Case) -> dict[str, float]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, case.bits))
    query, items = draw(case.queries, case, rng, centres), draw(case.items, case, rng, centres)
    codes, labels = (query.codes, items.codes), (query.labels, items.labels)
    counting, counts = seconds(lambda: count_distances(*codes, case.bits, *labels))
    precision, values = seconds(lambda: average_precision(counts))
    gain, _ = seconds(lambda: normalized_gain_at(counts, count_gains(counts, *codes, *labels), 100))
    bootstrap, _ = seconds(lambda: mean_interval(values))
    asymmetric, _ = seconds(lambda: asymmetric_average_precision(query.values, items.codes, case.bits, *labels))
    features = query.features, items.features
    rerank, _ = seconds(lambda: reranked_average_precision(*codes, counts, *features, *labels, CANDIDATES))
    return {
        "counting and mAP": counting + precision,
        "`ndcg_at`": gain,
        "`bootstrap`": bootstrap,
        "`asymmetric`": asymmetric,
        f"`rerank={CANDIDATES}`": rerank,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    chosen = parser.parse_args().case
    numba.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    for small in SMALL:
        measure(small)
    measured = {name: measure(CASES[name]) for name in chosen}
    names = list(next(iter(measured.values())))
    print(f"| queries x database x bits | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for name, found in measured.items():
        case = CASES[name]
        kind = f", {case.labels} labels" if case.labels else ""
        cells = " | ".join(f"{found[each]:.2f} s" for each in names)
        print(f"| {case.queries:,} x {case.items:,} x {case.bits}{kind} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

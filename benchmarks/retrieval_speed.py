"""Time and memory of the retrieval metric, beside the field's plain way and beside counting with torch.

Ours is the whole ``HammingRetrieval.compute()`` from filled states, after compilation: gathering, ordering,
counting, mean average precision, precision and recall at 10 and within radius 2, the curve and the statistics
of the codes. The other two compute mean average precision alone, on their first queries, scaled up:

argsort    per query a product with all codes, numpy's argsort, and the precision at every relevant rank
bincount   products in blocks, torch.bincount per query, and the expectation over ties from the two histograms

The ways take turns in one process; medians are printed. Peak memory is of a second process that runs ours
alone, above its imports. Values are checked: bincount's against ours, argsort's (with kind="stable") against
ties="stable".

    python benchmarks/retrieval_speed.py
    python benchmarks/retrieval_speed.py --case cifar10_2 --rounds 9
"""

import argparse
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lit_modules.metrics.hamming import HammingRetrieval, RetrievalResult
from retrieval.average_precision import average_precision, stable_average_precision
from retrieval.codes import unpack
from retrieval.counting import count_distances


@dataclass(frozen=True)
class Case:
    """Sizes of a synthetic evaluation; ``labels`` above 0 makes it multi-hot over that many labels."""

    queries: int
    items: int
    bits: int
    labels: int = 0
    argsort_queries: int = 100
    bincount_queries: int = 500


CASES = {
    "cifar10_1": Case(1_000, 59_000, 48),
    "cifar10_2": Case(10_000, 50_000, 64),
    "multi_21": Case(10_000, 50_000, 64, labels=21, argsort_queries=50, bincount_queries=200),
    "multi_81": Case(10_000, 50_000, 64, labels=81, argsort_queries=50, bincount_queries=200),
    "small": Case(50, 2_000, 32, argsort_queries=50, bincount_queries=50),
}
CLUSTERS = 10
BATCH = 1_000


def filled_metric(case: Case) -> HammingRetrieval:
    """Fill a metric with codes around ten centres, batch by batch as an evaluation would."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, case.bits, generator=generator)
    metric = HammingRetrieval(case.bits)
    for part, rows in (("query", case.queries), ("database", case.items)):
        for index in torch.arange(rows).split(BATCH):
            cluster = torch.randint(0, CLUSTERS, (len(index),), generator=generator)
            values = centres[cluster] + 0.75 * torch.randn(len(index), case.bits, generator=generator)
            metric.update(values, labels_of(cluster, case, generator), index, part)
    return metric


def labels_of(cluster: torch.Tensor, case: Case, generator: torch.Generator) -> torch.Tensor:
    if not case.labels:
        return cluster
    own = torch.nn.functional.one_hot(cluster, case.labels)
    others = torch.rand(len(cluster), case.labels, generator=generator) < 1.5 / case.labels
    return torch.maximum(own, others.long()).float()


def compute_anew(metric: HammingRetrieval) -> RetrievalResult:
    metric._computed = None
    return metric.compute()


def signs_of(codes: np.ndarray, bits: int) -> np.ndarray:
    return unpack(codes, bits).astype(np.float32) * 2 - 1


def argsort_average_precisions(result: RetrievalResult, queries: int, kind: str | None = None) -> np.ndarray:
    """Rank the database by argsort for each query: the field's plain way."""
    bits = result.query.bits
    query, database = signs_of(result.query.codes[:queries], bits), signs_of(result.database.codes, bits)
    values = np.zeros(queries)
    for q in range(queries):
        relevant = relevant_to(result, q)
        distances = 0.5 * (bits - query[q] @ database.T)
        ranked = relevant[np.argsort(distances, kind=kind)]
        ranks = np.flatnonzero(ranked) + 1
        values[q] = np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0
    return values


def relevant_to(result: RetrievalResult, q: int) -> np.ndarray:
    own, labels = result.query.labels[q], result.database.labels
    return labels == own if labels.ndim == 1 else labels.astype(np.float32) @ own.astype(np.float32) > 0


def bincount_average_precisions(result: RetrievalResult, queries: int, block: int = 64) -> np.ndarray:
    """Count distances with torch.bincount per query, and take the expectation over ties."""
    bits, items = result.query.bits, result.num_database
    query = torch.from_numpy(signs_of(result.query.codes[:queries], bits))
    database = torch.from_numpy(signs_of(result.database.codes, bits)).T
    query_labels, labels = (torch.from_numpy(part.labels) for part in (result.query, result.database))
    reciprocals = torch.arange(1, items + 1, dtype=torch.float64).reciprocal().cumsum(0)
    harmonic = torch.cat([torch.zeros(1, dtype=torch.float64), reciprocals])
    values = []
    for start in range(0, queries, block):
        distances = ((bits - query[start : start + block] @ database) / 2).long()
        own = query_labels[start : start + block][: len(distances)]
        single = labels.ndim == 1
        relevant = own[:, None] == labels if single else own.float() @ labels.float().T > 0
        for row, hits in zip(distances, relevant, strict=True):
            every = torch.bincount(row, minlength=bits + 1)
            found = torch.bincount(row[hits], minlength=bits + 1)
            values.append(expectation(every, found, harmonic))
    return np.array(values)


def expectation(every: torch.Tensor, found: torch.Tensor, harmonic: torch.Tensor) -> float:
    every, found = every.double(), found.double()
    after = every.cumsum(0)
    before, hits = after - every, found.cumsum(0) - found
    step = harmonic[after.long()] - harmonic[before.long()]
    first = found / every.clamp(min=1) * (hits + 1) * step
    pairs = found * (found - 1) / (every * (every - 1)).clamp(min=1) * (every - (before + 1) * step)
    return float((first + pairs).sum() / found.sum().clamp(min=1))


def check_values(result: RetrievalResult, case: Case) -> None:
    """Compare the ways on the same queries.

    Raises:
        SystemExit: if they differ.
    """
    first = case.argsort_queries
    arguments = (
        result.query.codes[:first],
        result.database.codes,
        case.bits,
        result.query.labels[:first],
        result.database.labels,
    )
    stable = stable_average_precision(*arguments)
    expected = average_precision(count_distances(*arguments))
    for name, ours, theirs in (
        ("argsort", stable, argsort_average_precisions(result, first, "stable")),
        ("bincount", expected, bincount_average_precisions(result, first)),
    ):
        difference = float(np.abs(ours - theirs).max())
        if difference > 1e-9:
            raise SystemExit(f"{name} and ours differ by {difference:.3g}")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_case(name: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of each way for the whole case, after a check of the values."""
    case = CASES[name]
    metric = filled_metric(case)
    result = compute_anew(metric)
    check_values(result, case)
    ways: dict[str, tuple[Callable[[], object], float]] = {
        "ours": (lambda: compute_anew(metric), 1),
        "argsort": (
            lambda: argsort_average_precisions(result, case.argsort_queries),
            case.queries / case.argsort_queries,
        ),
        "bincount": (
            lambda: bincount_average_precisions(result, case.bincount_queries),
            case.queries / case.bincount_queries,
        ),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (work, scale) in ways.items():
            taken[way].append(seconds(work) * scale)
    medians = {way: statistics.median(times) for way, times in taken.items()}
    return medians | {"map@all": result.metrics["map@all"]}


def peak_megabytes() -> float:
    """Return the peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # on Linux ru_maxrss goes on from the parent's peak, VmHWM starts anew
        return float(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def print_memory(name: str) -> None:
    """Print how far ours raises the peak above the imports, compiling or loading the kernels included."""
    imported = peak_megabytes()
    compute_anew(filled_metric(CASES[name]))
    print(peak_megabytes() - imported)


def memory_of(name: str) -> float:
    command = [sys.executable, __file__, "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(name: str, rounds: int) -> str:
    case = CASES[name]
    size = f"{case.queries} x {case.items} x {case.bits}" + (f", {case.labels} labels" if case.labels else "")
    taken = time_case(name, rounds)
    ratios = [taken[way] / taken["ours"] for way in ("argsort", "bincount")]
    subset = f"{case.argsort_queries}/{case.bincount_queries}"
    return (
        f"{name:<10} {size:<30} {taken['map@all']:>8.5f} {taken['ours']:>8.3f} {taken['argsort']:>9.2f} "
        f"{taken['bincount']:>10.2f} {subset:>9} {ratios[0]:>8.1f} {ratios[1]:>9.1f} {memory_of(name):>8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    default = [name for name in CASES if name != "small"]
    parser.add_argument("--case", nargs="+", choices=CASES, default=default, help="which sizes to run")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over the ways; the median is printed")
    parser.add_argument("--memory-of", choices=CASES, help="run ours once and print its peak memory alone")
    options = parser.parse_args()
    if options.memory_of:
        print_memory(options.memory_of)
        return
    print(f"{torch.get_num_threads()} threads, seconds are medians of {options.rounds} rounds")
    print("argsort and bincount ran the number of queries under 'subset' and are scaled up to all of them")
    print(
        f"{'case':<10} {'queries x items x bits':<30} {'map@all':>8} {'ours s':>8} {'argsort s':>9} "
        f"{'bincount s':>10} {'subset':>9} {'argsort/':>8} {'bincount/':>9} {'peak MB':>8}"
    )
    for name in options.case:
        print(row(name, options.rounds), flush=True)


if __name__ == "__main__":
    main()

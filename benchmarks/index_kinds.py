"""The kinds of an index side by side: time to build, time of a query, and how many of the nearest are found.

    OMP_NUM_THREADS=1 python benchmarks/index_kinds.py --images 200000 1000000

Codes of 64 bits around 1,000 random centres, each bit flipped with probability 0.12; 200 queries made the same way, one
at a time. Times are of the processor, which other programs disturb less than the clock. Recall counts, of the ten
images found, those no farther than the tenth of the exhaustive search.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from retrieval.codes import pack
from retrieval.index import CodeIndex, IndexSettings

BITS, CENTRES, FLIPPED, QUERIES, NEAREST = 64, 1000, 0.12, 200, 10
AT_ONCE = 100_000


def clustered_codes(size: int, seed: int) -> np.ndarray:
    """Return codes (size, 1) uint64 around centres that do not depend on the seed."""
    centres = np.random.default_rng(9).random((CENTRES, BITS)) > 0.5
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, size, AT_ONCE):
        rows = min(AT_ONCE, size - start)
        parts.append(pack(centres[rng.integers(0, CENTRES, rows)] ^ (rng.random((rows, BITS)) < FLIPPED)))
    return np.concatenate(parts)


def seconds(action: Callable[[], object]) -> float:
    """Return the processor seconds that a call takes."""
    start = time.process_time()
    action()
    return time.process_time() - start


def recall(distances: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of found images that are no farther than the last of the exact search, from (Q, k) each."""
    return float(((distances >= 0) & (distances <= exact[:, -1:])).mean())


def measure(size: int) -> None:
    """Print one line for each kind."""
    codes, queries = clustered_codes(size, seed=0), clustered_codes(QUERIES, seed=1)
    names = tuple(map(str, range(size)))
    exact = CodeIndex(names, codes, BITS, {}).search(queries, NEAREST)[0]
    for kind in ("flat", "ivf", "hnsw"):
        index = CodeIndex(names, codes, BITS, {}, IndexSettings(kind))  # type: ignore[arg-type]
        building = seconds(lambda index=index: index.searcher)  # type: ignore[misc]
        found: list[np.ndarray] = []
        searching = seconds(
            lambda index=index, found=found: found.extend(  # type: ignore[misc]
                index.search(query[None], NEAREST, threads=1)[0] for query in queries
            )
        )
        score = recall(np.concatenate(found), exact)
        print(
            f"| {size:,} | `{kind}` | {building:.1f} s | {1000 * searching / QUERIES:.2f} ms | {score:.3f} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200_000, 1_000_000])
    for size in parser.parse_args().images:
        measure(size)
    return 0


if __name__ == "__main__":
    sys.exit(main())

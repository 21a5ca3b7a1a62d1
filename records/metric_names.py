"""Names of metrics: which come first, which are counts, which are no scores, and how people write them. Torch-free.

A full name is `val/NAME` or `test/NAME`; every function here takes full names and bare ones alike.
"""

from __future__ import annotations

from collections.abc import Mapping

HEADLINE = (
    "map@all",
    "precision@10",
    "precision@radius2",
    "accuracy",
    "hm",
    "gm",
    "lowest_recall",
    "harmonic",
)
"""What a table of results begins with, in this order, after the metric that chose the epoch."""

NEAREST = ("precision@10", "precision@100", "recall@10", "recall@100", "ndcg@100")
"""Scores of the nearest items of a query."""

WITHIN_RADIUS = ("precision@radius2", "recall@radius2")
"""Scores of a look-up by Hamming radius."""

SHOT_GROUPS = ("many", "medium", "few")
"""Mean recalls of the classes with many, medium and few training images."""

CLASS_MEANS = ("gm", "hm", "lowest_recall")
"""Geometric mean, harmonic mean and the lowest of the classes' recalls."""

OPEN_DOMAIN = ("seen", "unseen", "harmonic")
"""Accuracy on classes with training images, on those without, and the harmonic mean of both."""

CODE_STATISTICS = ("bit_balance", "bit_correlation", "distinct_codes", "quantization_error")
"""Statistics of codes: fractions too, but no scores, so they would flatten the curves that matter."""

COUNTS = ("empty_queries", "empty_balls", "zero_recall_classes", "reached_", "answered_")
"""Beginnings of the names of those metrics that count something and are no fractions."""

BEFORE = "before_"
"""Beginning of the names of what a classifier scored before it was trained anew."""

SETTINGS = ("tau", "t1", "t2")
"""Numbers that a method chose on the validation part, told beside its metrics; no scores, and no fractions."""

SHARES = ("experts_share", "weight_forward", "weight_uniform", "weight_backward")
"""Shares of the work done, and of experts: fractions whose smaller value is as good as a larger one, so no scores."""

LOW, HIGH = "_low", "_high"
"""Endings of the two bounds of a metric's 95 % interval."""

_AS_WRITTEN = {
    "map": "mAP",
    "ndcg": "NDCG",
    "precision": "P",
    "recall": "R",
    "reranked": "re-ranked",
    "ece": "ECE",
    "hm": "HM",
    "gm": "GM",
}
_WORDS_IN_FULL = ("precision", "recall")


def bare(name: str) -> str:
    """Return the name without its stage: `map@all` of `test/map@all`."""
    return name.rpartition("/")[2]


def is_count(name: str) -> bool:
    """Say whether a metric is a count and no fraction."""
    return bare(name).removeprefix(BEFORE).startswith(COUNTS)


def is_score(name: str) -> bool:
    """Say whether a metric is a score that a curve over epochs shows: no count, statistic, setting, share or bound."""
    others = (*CODE_STATISTICS, *SETTINGS, *SHARES)
    return not is_count(name) and bare(name) not in others and not name.endswith((LOW, HIGH))


def bounds_of(name: str) -> tuple[str, str]:
    """Return the names of the lower and the upper bound of a metric's interval."""
    return name + LOW, name + HIGH


def interval_of(name: str, metrics: Mapping[str, float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric among `metrics`; None where it has none."""
    low, high = bounds_of(name)
    return (metrics[low], metrics[high]) if low in metrics and high in metrics else None


def is_bound(name: str, metrics: Mapping[str, float]) -> bool:
    """Say whether a name is a bound of another one of `metrics`, beside which it is told."""
    return any(name.endswith(ending) and name.removesuffix(ending) in metrics for ending in (LOW, HIGH))


def title_of(name: str) -> str:
    """Return a metric's name as people write it: `map@all` is mAP@all, `precision@10` is P@10."""
    words, _, rank = bare(name).partition("@")
    if rank.startswith("radius"):
        return f"{words.replace('_', ' ')} within Hamming radius {rank.removeprefix('radius')}"
    if not rank:
        return " ".join(word if word in _WORDS_IN_FULL else _AS_WRITTEN.get(word, word) for word in words.split("_"))
    return f"{' '.join(_AS_WRITTEN.get(word, word) for word in words.split('_'))}@{rank}"

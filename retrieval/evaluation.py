"""The evaluation of codes: from two tables of codes and labels to every metric of retrieval."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from retrieval.asymmetric import asymmetric_average_precision
from retrieval.average_precision import (
    Denominator,
    Ties,
    average_precision,
    check_choices,
    stable_average_precision,
)
from retrieval.averaging import EmptyQueries, check_empty_queries, kept_queries, mean_over_queries, without_relevant
from retrieval.bootstrap import check_bootstrap, mean_interval
from retrieval.codes import num_words
from retrieval.counting import DistanceCounts, count_distances
from retrieval.cumulative_gain import Gain, check_gain, count_gains, normalized_gain_at
from retrieval.curves import (
    PrecisionRecallCurve,
    check_radius,
    empty_balls,
    precision_at,
    precision_recall_curve,
    precision_within,
    recall_at,
    recall_within,
)
from retrieval.reranking import reranked_average_precision
from retrieval.statistics import bit_balance, bit_correlation, count_bits, distinct_codes

Cut = int | Literal["all"]


@dataclass(frozen=True)
class CodeTable:
    """Codes of one part of a retrieval data set, ordered by sample index, each sample once.

    Attributes:
        bits: length of a code, K.
        codes: (N, ceil(K / 64)) uint64, packed as in ``retrieval.codes``.
        labels: (N,) int64, or (N, C) bool multi-hot.
        index: (N,) int64, rising: the sample's position in its split.
        errors: (N,) float64, quantization error of each sample.
        duplicates: how many repeated samples were left out.
        values: (N, K) float32, the codes before the sign; None where asymmetric search does not ask for them.
        features: (N, D) float32; None where re-ranking does not ask for them.
    """

    bits: int
    codes: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    errors: np.ndarray
    duplicates: int = 0
    values: np.ndarray | None = None
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Measures:
    """What is measured, and how. Every argument is a choice of ``conf/metric/hamming.yaml``.

    Attributes:
        cuts: ranks at which mean average precision is cut; ``all`` for the whole database.
        precision_at: ranks for precision and recall, expected over ties.
        ndcg_at: ranks for the normalised discounted cumulative gain, expected over ties; ``all`` for the whole.
        ndcg_gain: ``exponential`` (2^g - 1 for g shared labels) or ``linear`` (g).
        radius: Hamming radius for precision and recall, 0 .. K.
        ties: ``expected``, ``optimistic``, ``pessimistic`` or ``stable`` (order of the database index), for
            the mean average precisions; see ``retrieval.average_precision``.
        denominator: ``found``, ``min(R,k)`` or ``R``.
        empty_queries: queries without relevant items count 0 (``zero``) or are left out of every mean (``drop``).
        asymmetric: rank by real-valued queries against binary codes as well.
        rerank: re-rank this many of the nearest items by the cosine of their features as well; None for not at all.
        bootstrap: drawn sets of queries for the 95 % intervals of the mean average precisions; 0 for none.
        seed: of the bootstrap.
    """

    cuts: tuple[Cut, ...] = ("all",)
    precision_at: tuple[int, ...] = (10,)
    ndcg_at: tuple[Cut, ...] = ()
    ndcg_gain: Gain = "exponential"
    radius: int = 2
    ties: Ties = "expected"
    denominator: Denominator = "found"
    empty_queries: EmptyQueries = "zero"
    asymmetric: bool = False
    rerank: int | None = None
    bootstrap: int = 0
    seed: int = 0

    def check(self, bits: int) -> None:
        """Make sure that every choice exists, for codes of ``bits`` bits.

        Raises:
            ValueError: if one does not.
        """
        num_words(bits)
        check_radius(self.radius, bits)
        check_empty_queries(self.empty_queries)
        check_gain(self.ndcg_gain)
        check_bootstrap(self.bootstrap)
        ranks = [rank_of(cut, name) for name in ("cuts", "ndcg_at") for cut in getattr(self, name)]
        for rank in (None, *ranks, *self.precision_at):
            check_choices(rank, self.ties, self.denominator)
        if self.rerank is not None and self.rerank < 1:
            raise ValueError(f"rerank={self.rerank}: it is the number of nearest items to re-rank, or null for none")


@dataclass(frozen=True)
class RetrievalResult:
    """What an evaluation by Hamming distance found.

    Attributes:
        metrics: name to value, fractions in [0, 1]: ``map@K`` with the bounds of its interval ``map@K_low`` and
            ``map@K_high``, likewise ``asymmetric_map@K`` and ``reranked_map@K`` where asked for; ``precision@K``,
            ``recall@K``, ``ndcg@K``, ``precision@radiusR``, ``recall@radiusR``, and of the database's codes
            ``bit_balance``, ``bit_correlation``, ``distinct_codes`` (distinct by all); ``quantization_error``, at
            least 0; and the counts ``empty_queries`` and ``empty_balls@radiusR``, below. K may be ``all``.
        average_precisions: name of each mean average precision to its values (Q,), one per query.
        curve: mean precision and recall within every radius.
        empty_queries: queries without a relevant item in the database.
        empty_balls: queries without any item within the radius.
        num_distinct_codes: different codes in the database.
        query: the queries' codes.
        database: the database's codes.
    """

    metrics: dict[str, float]
    average_precisions: dict[str, np.ndarray]
    curve: PrecisionRecallCurve
    empty_queries: int
    empty_balls: int
    num_distinct_codes: int
    query: CodeTable
    database: CodeTable

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.query)

    @property
    def num_database(self) -> int:
        """Number of database items."""
        return len(self.database)


def evaluate(
    query: CodeTable, database: CodeTable, measures: Measures | None = None, device: torch.device | None = None
) -> RetrievalResult:
    """Rank the database for every query, and measure.

    Args:
        query: the queries.
        database: what is searched.
        measures: what is measured; None for the defaults.
        device: where distances are counted; None for the compiled loop on the CPU. The values are the same.

    Raises:
        ValueError: if a part is empty, the parts' codes or labels do not go together, a choice does not exist, what a
            measure reads is missing, or ``empty_queries='drop'`` leaves no query.
    """
    measures = measures or Measures()
    measures.check(query.bits)
    check_parts(query, database)
    counts = count_distances(query.codes, database.codes, query.bits, query.labels, database.labels, device)
    distinct = distinct_codes(database.codes)
    no_relevant, no_neighbour = int(without_relevant(counts).sum()), empty_balls(counts, measures.radius)
    precisions = _average_precisions(query, database, counts, measures)
    return RetrievalResult(
        metrics={
            **_means_with_intervals(precisions, counts, measures),
            **_means(_ranked(query, database, counts, measures), counts, measures),
            "empty_queries": float(no_relevant),
            f"empty_balls@radius{measures.radius}": float(no_neighbour),
            **_code_statistics(database, distinct),
        },
        average_precisions=precisions,
        curve=precision_recall_curve(counts, measures.empty_queries),
        empty_queries=no_relevant,
        empty_balls=no_neighbour,
        num_distinct_codes=distinct,
        query=query,
        database=database,
    )


def check_parts(query: CodeTable, database: CodeTable) -> None:
    """Make sure that queries and database can be compared.

    Raises:
        ValueError: if a part is empty, or codes or labels differ in width.
    """
    for name, part in (("query", query), ("database", database)):
        if len(part) == 0:
            raise ValueError(f"the {name} part holds no sample; an evaluation takes queries and a database")
    if query.bits != database.bits:
        raise ValueError(
            f"query codes have {query.bits} bits and database codes {database.bits}: both come from one hash layer"
        )
    if query.labels.shape[1:] != database.labels.shape[1:]:
        raise ValueError(
            f"query labels {query.labels.shape} and database labels {database.labels.shape} do not go together: both "
            "are single labels (N,), or both are multi-hot (N, C) over the same classes"
        )


def rank_of(cut: int | str, name: str = "cuts") -> int | None:
    """Return the rank of a cut, None for ``all``.

    Raises:
        ValueError: if it is neither a whole number nor ``all``.
    """
    if cut == "all":
        return None
    if not isinstance(cut, int) or isinstance(cut, bool):
        raise ValueError(f"{name} holds {cut!r}: choices are 'all' and whole numbers from 1")
    return cut


def _average_precisions(
    query: CodeTable, database: CodeTable, counts: DistanceCounts, measures: Measures
) -> dict[str, np.ndarray]:
    values = {f"map@{cut}": _symmetric(query, database, counts, rank_of(cut), measures) for cut in measures.cuts}
    if measures.asymmetric:
        values |= {
            f"asymmetric_map@{cut}": _asymmetric(query, database, rank_of(cut), measures) for cut in measures.cuts
        }
    if measures.rerank is not None:
        values |= {
            f"reranked_map@{cut}": _reranked(query, database, counts, rank_of(cut), measures) for cut in measures.cuts
        }
    return values


def _symmetric(
    query: CodeTable, database: CodeTable, counts: DistanceCounts, rank: int | None, measures: Measures
) -> np.ndarray:
    if measures.ties != "stable":
        return average_precision(counts, rank, measures.ties, measures.denominator)
    return stable_average_precision(
        query.codes, database.codes, query.bits, query.labels, database.labels, rank, measures.denominator
    )


def _asymmetric(query: CodeTable, database: CodeTable, rank: int | None, measures: Measures) -> np.ndarray:
    if query.values is None:
        raise ValueError("asymmetric=true needs the queries' real values, and their table has none")
    return asymmetric_average_precision(
        query.values,
        database.codes,
        query.bits,
        query.labels,
        database.labels,
        rank,
        measures.ties,
        measures.denominator,
    )


def _reranked(
    query: CodeTable, database: CodeTable, counts: DistanceCounts, rank: int | None, measures: Measures
) -> np.ndarray:
    if query.features is None or database.features is None or measures.rerank is None:
        raise ValueError(f"rerank={measures.rerank} needs the features of both parts, and a table has none")
    return reranked_average_precision(
        query.codes,
        database.codes,
        counts,
        query.features,
        database.features,
        query.labels,
        database.labels,
        measures.rerank,
        rank,
        measures.ties,
        measures.denominator,
    )


def _ranked(query: CodeTable, database: CodeTable, counts: DistanceCounts, measures: Measures) -> dict[str, np.ndarray]:
    """Return precision, recall and gain of every query."""
    values = {f"precision@{k}": precision_at(counts, k) for k in measures.precision_at}
    values |= {f"recall@{k}": recall_at(counts, k) for k in measures.precision_at}
    if measures.ndcg_at:
        graded = count_gains(counts, query.codes, database.codes, query.labels, database.labels, measures.ndcg_gain)
        values |= {f"ndcg@{cut}": normalized_gain_at(counts, graded, rank_of(cut)) for cut in measures.ndcg_at}
    values[f"precision@radius{measures.radius}"] = precision_within(counts, measures.radius)
    values[f"recall@radius{measures.radius}"] = recall_within(counts, measures.radius)
    return values


def _means(values: dict[str, np.ndarray], counts: DistanceCounts, measures: Measures) -> dict[str, float]:
    return {name: mean_over_queries(each, counts, measures.empty_queries) for name, each in values.items()}


def _means_with_intervals(
    values: dict[str, np.ndarray], counts: DistanceCounts, measures: Measures
) -> dict[str, float]:
    metrics = {}
    kept = kept_queries(counts, measures.empty_queries)
    for name, mean in _means(values, counts, measures).items():
        metrics[name] = mean
        if measures.bootstrap:
            interval = mean_interval(values[name][kept], measures.bootstrap, measures.seed)
            metrics |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return metrics


def _code_statistics(database: CodeTable, distinct: int) -> dict[str, float]:
    counts = count_bits(database.codes, database.bits)
    return {
        "bit_balance": bit_balance(counts),
        "bit_correlation": bit_correlation(counts),
        "distinct_codes": distinct / len(database),
        "quantization_error": float(database.errors.mean()),
    }

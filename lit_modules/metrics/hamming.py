"""Retrieval by Hamming distance as a metric: a torchmetrics class over the functions of ``retrieval``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from retrieval.average_precision import (
    Denominator,
    Ties,
    average_precision,
    check_choices,
    stable_average_precision,
)
from retrieval.averaging import EmptyQueries, check_empty_queries, mean_over_queries, without_relevant
from retrieval.codes import bytes_to_words, num_words, pack_bytes, to_bits
from retrieval.counting import DistanceCounts, count_distances
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
from retrieval.statistics import bit_balance, bit_correlation, count_bits, distinct_codes, quantization_errors

Part = Literal["query", "database"]
DeviceCounting = Literal["auto", "never", "always"]

_UNKNOWN, _SINGLE = -1, 0
_STATES = {"codes": torch.uint8, "labels": torch.uint8, "index": torch.int64, "errors": torch.float64}


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
    """

    bits: int
    codes: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    errors: np.ndarray
    duplicates: int

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class RetrievalResult:
    """What an evaluation by Hamming distance found.

    Attributes:
        metrics: name to value, fractions in [0, 1]: ``map@all``, ``map@K``, ``precision@K``, ``recall@K``,
            ``precision@radiusR``, ``recall@radiusR``, and of the database's codes ``bit_balance``,
            ``bit_correlation``, ``distinct_codes`` (distinct by all); ``quantization_error``, at least 0; and the
            counts ``empty_queries`` and ``empty_balls@radiusR``, below.
        curve: mean precision and recall within every radius.
        empty_queries: queries without a relevant item in the database.
        empty_balls: queries without any item within the radius.
        num_distinct_codes: different codes in the database.
        query: the queries' codes.
        database: the database's codes.
    """

    metrics: dict[str, float]
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


class _Sealed:
    """A result that is handed on as it is."""

    def __init__(self, result: RetrievalResult) -> None:
        self.result = result


class HammingRetrieval(Metric):
    """Exact retrieval metrics by Hamming distance between the bits of queries and of a database.

    The states are codes and labels, a few bytes a sample, never pairs. Ranks gather them; samples that came
    twice (a padded batch) are dropped by index and all are ordered by index, so any number of ranks and any
    batches give the same digits.

    Args:
        bits: length of a code, K.
        cuts: ranks at which mean average precision is cut; ``all`` for the whole database.
        precision_at: ranks for precision and recall, expected over ties.
        radius: Hamming radius for precision and recall, 0 .. K.
        ties: ``expected``, ``optimistic``, ``pessimistic`` or ``stable`` (order of the database index), for
            the mean average precision; see ``retrieval.average_precision``.
        denominator: ``found``, ``min(R,k)`` or ``R``.
        empty_queries: queries without relevant items count 0 (``zero``) or are left out of every mean
            (``drop``).
        device_counting: count on the device of the metric if it is a GPU (``auto``), with the compiled loop on the
            CPU (``never``), or by products on whatever device it is (``always``). The values are the same.

    Raises:
        ValueError: if an argument is not among its choices.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    label_columns: Tensor

    def __init__(
        self,
        bits: int,
        cuts: Sequence[int | Literal["all"]] = ("all",),
        precision_at: Sequence[int] = (10,),
        radius: int = 2,
        ties: Ties = "expected",
        denominator: Denominator = "found",
        empty_queries: EmptyQueries = "zero",
        device_counting: DeviceCounting = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_words(bits)
        check_radius(radius, bits)
        check_empty_queries(empty_queries)
        for cut in (None, *map(_rank, cuts), *precision_at):
            check_choices(cut, ties, denominator)
        _check_choice("device_counting", device_counting, get_args(DeviceCounting))
        self.bits = bits
        self.cuts = tuple(cuts)
        self.precision_at = tuple(precision_at)
        self.radius = radius
        self.ties: Ties = ties
        self.denominator: Denominator = denominator
        self.empty_queries: EmptyQueries = empty_queries
        self.device_counting = device_counting
        for part in get_args(Part):
            for name in _STATES:
                self.add_state(f"{part}_{name}", default=[], dist_reduce_fx="cat")
        self.add_state("label_columns", default=torch.tensor(_UNKNOWN), dist_reduce_fx="max")

    def update(self, values: Tensor, labels: Tensor, index: Tensor, part: Part) -> None:
        """Take in a batch of one part.

        Args:
            values: (B, K) real-valued codes, before the sign.
            labels: (B,) integers, or (B, C) multi-hot, where an entry above 0 means the label is there.
            index: (B,) integers, the samples' positions in their split; a position that came before is dropped.
            part: ``query`` or ``database``.

        Raises:
            ValueError: if the shapes do not go together, or the labels are of another kind than those before.
            TypeError: if single labels or the index are not integers.
        """
        _check_choice("part", part, get_args(Part))
        self._check_batch(values, labels, index)
        self._note_label_columns(labels)
        multi_hot = labels.ndim == 2
        label_bytes = (
            pack_bytes(to_bits(labels)) if multi_hot else labels.to(torch.int64).contiguous().view(torch.uint8)
        )
        self._state(part, "codes").append(pack_bytes(to_bits(values.detach())))
        self._state(part, "labels").append(label_bytes.flatten())
        self._state(part, "index").append(index.to(torch.int64))
        self._state(part, "errors").append(quantization_errors(values))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks; one without items of a part gives nothing, of the right type."""
        for part in get_args(Part):
            for name, dtype in _STATES.items():
                state = self._state(part, name)
                if isinstance(state, list) and not state:
                    state.append(self._nothing(name, dtype))
        super().sync(*args, **kwargs)

    def compute(self) -> RetrievalResult:
        """Compute all metrics from what was taken in.

        Raises:
            ValueError: if a part is empty, a value was NaN or infinite, or ``empty_queries='drop'`` leaves no
                query.
        """
        query, database = self._table("query"), self._table("database")
        counts = count_distances(
            query.codes, database.codes, self.bits, query.labels, database.labels, self._counting_device()
        )
        distinct = distinct_codes(database.codes)
        no_relevant, no_neighbour = int(without_relevant(counts).sum()), empty_balls(counts, self.radius)
        return RetrievalResult(
            metrics={
                **self._mean_average_precisions(query, database, counts),
                **self._precisions_and_recalls(counts),
                "empty_queries": float(no_relevant),
                f"empty_balls@radius{self.radius}": float(no_neighbour),
                **_code_statistics(database, distinct),
            },
            curve=precision_recall_curve(counts, self.empty_queries),
            empty_queries=no_relevant,
            empty_balls=no_neighbour,
            num_distinct_codes=distinct,
            query=query,
            database=database,
        )

    def _wrap_compute(self, compute: Callable[[], RetrievalResult]) -> Callable[[], RetrievalResult]:
        # torchmetrics walks through what compute returns to squeeze tensors and refuses frozen dataclasses
        def seal() -> _Sealed:
            with _torch_threads_kept():
                return _Sealed(compute())

        wrapped = super()._wrap_compute(seal)
        return wraps(compute)(lambda: wrapped().result)

    def _mean_average_precisions(
        self, query: CodeTable, database: CodeTable, counts: DistanceCounts
    ) -> dict[str, float]:
        means = {}
        for cut in self.cuts:
            if self.ties == "stable":
                values = stable_average_precision(
                    query.codes,
                    database.codes,
                    self.bits,
                    query.labels,
                    database.labels,
                    _rank(cut),
                    self.denominator,
                )
            else:
                values = average_precision(counts, _rank(cut), self.ties, self.denominator)
            means[f"map@{cut}"] = mean_over_queries(values, counts, self.empty_queries)
        return means

    def _precisions_and_recalls(self, counts: DistanceCounts) -> dict[str, float]:
        values = {f"precision@{k}": precision_at(counts, k) for k in self.precision_at}
        values |= {f"recall@{k}": recall_at(counts, k) for k in self.precision_at}
        values[f"precision@radius{self.radius}"] = precision_within(counts, self.radius)
        values[f"recall@radius{self.radius}"] = recall_within(counts, self.radius)
        return {name: mean_over_queries(each, counts, self.empty_queries) for name, each in values.items()}

    def _table(self, part: Part) -> CodeTable:
        index = self._gathered(part, "index")
        if len(index) == 0:
            raise ValueError(
                f"no {part} sample was taken in: call update(..., part='{part}') before compute(), and give "
                "both loaders (query and database) to the evaluation"
            )
        unique, first = np.unique(index, return_index=True)
        codes = bytes_to_words(self._gathered(part, "codes"))
        errors = self._gathered(part, "errors")[first]
        _check_finite(errors, unique, part)
        return CodeTable(
            bits=self.bits,
            codes=codes[first],
            labels=self._decode_labels(self._gathered(part, "labels"))[first],
            index=unique,
            errors=errors,
            duplicates=len(index) - len(unique),
        )

    def _decode_labels(self, label_bytes: np.ndarray) -> np.ndarray:
        columns = int(self.label_columns)
        if columns == _SINGLE:
            return label_bytes.view(np.int64)
        rows = label_bytes.reshape(-1, -(-columns // 8))
        return np.unpackbits(rows, axis=1, count=columns, bitorder="little").view(np.bool_)

    def _gathered(self, part: Part, name: str) -> np.ndarray:
        state = self._state(part, name)
        if isinstance(state, list) and not state:
            return self._nothing(name, _STATES[name]).cpu().numpy()
        return dim_zero_cat(state).cpu().numpy()

    def _state(self, part: Part, name: str) -> list[Tensor]:
        return getattr(self, f"{part}_{name}")

    def _nothing(self, name: str, dtype: torch.dtype) -> Tensor:
        shape = (0, -(-self.bits // 8)) if name == "codes" else (0,)
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _counting_device(self) -> torch.device | None:
        device = torch.device(self.device)
        on_device = self.device_counting == "always" or (self.device_counting == "auto" and device.type == "cuda")
        return device if on_device else None

    def _check_batch(self, values: Tensor, labels: Tensor, index: Tensor) -> None:
        if values.ndim != 2 or values.shape[1] != self.bits:
            raise ValueError(f"values have shape {tuple(values.shape)}: codes of bits={self.bits} are (B, {self.bits})")
        if labels.ndim not in (1, 2) or len(labels) != len(values) or index.shape != values.shape[:1]:
            raise ValueError(
                f"labels {tuple(labels.shape)} and index {tuple(index.shape)} do not go with values "
                f"{tuple(values.shape)}: labels are (B,) or (B, C), index is (B,)"
            )
        for name, tensor in (("labels", labels), ("index", index)):
            if tensor.ndim == 1 and (tensor.is_floating_point() or tensor.dtype == torch.bool):
                raise TypeError(
                    f"{name} (B,) have dtype {tensor.dtype}: they are integers; multi-hot labels are (B, C)"
                )

    def _note_label_columns(self, labels: Tensor) -> None:
        columns = labels.shape[1] if labels.ndim == 2 else _SINGLE
        known = int(self.label_columns)
        if known not in (_UNKNOWN, columns):
            kinds = {_SINGLE: "single labels"}
            raise ValueError(
                f"labels are {kinds.get(columns, f'multi-hot over {columns} classes')}, those before were "
                f"{kinds.get(known, f'multi-hot over {known} classes')}: one evaluation has one kind"
            )
        self.label_columns = torch.full_like(self.label_columns, columns)


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    # numba's parallel loops set the number of OpenMP threads for the whole process; with another number torch rounds
    # otherwise, and a run that has validated would go on differently from one that was resumed
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _code_statistics(database: CodeTable, distinct: int) -> dict[str, float]:
    counts = count_bits(database.codes, database.bits)
    return {
        "bit_balance": bit_balance(counts),
        "bit_correlation": bit_correlation(counts),
        "distinct_codes": distinct / len(database),
        "quantization_error": float(database.errors.mean()),
    }


def _rank(cut: int | str) -> int | None:
    if cut == "all":
        return None
    if not isinstance(cut, int) or isinstance(cut, bool):
        raise ValueError(f"cuts holds {cut!r}: choices are 'all' and whole numbers from 1")
    return cut


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choices are {', '.join(choices)}")


def _check_finite(errors: np.ndarray, index: np.ndarray, part: Part) -> None:
    bad = index[~np.isfinite(errors)]
    if len(bad):
        raise ValueError(
            f"{len(bad)} {part} samples have codes with NaN or infinite values, the first at index {bad[0]}: "
            "the network diverged (lower optim.lr), or an image is broken"
        )

"""Retrieval by Hamming distance as a metric: a torchmetrics class over ``retrieval.evaluation``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from retrieval.average_precision import Denominator, Ties
from retrieval.averaging import EmptyQueries
from retrieval.codes import bytes_to_words, pack_bytes, to_bits
from retrieval.cumulative_gain import Gain
from retrieval.evaluation import CodeTable, Cut, Measures, RetrievalResult, evaluate
from retrieval.statistics import quantization_errors

RetrievalPart = Literal["query", "database"]
DeviceCounting = Literal["auto", "never", "always"]

_UNKNOWN, _SINGLE = -1, 0
_STATES = {"codes": torch.uint8, "labels": torch.uint8, "index": torch.int64, "errors": torch.float64}


class _Sealed:
    """A result that is handed on as it is."""

    def __init__(self, result: RetrievalResult) -> None:
        self.result = result


class HammingRetrieval(Metric):
    """Exact retrieval metrics by Hamming distance between the bits of queries and of a database.

    The states are codes and labels, a few bytes a sample, never pairs; asymmetric search keeps the queries' real
    values besides, and re-ranking the features of both parts. Ranks gather them; samples that came twice (a padded
    batch) are dropped by index and all are ordered by index, so any number of ranks and any batches give the same
    digits.

    Args:
        bits: length of a code, K.
        cuts: see ``retrieval.evaluation.Measures``, as the arguments that follow.
        precision_at: ranks for precision and recall.
        ndcg_at: ranks for the normalised discounted cumulative gain.
        ndcg_gain: ``exponential`` or ``linear``.
        radius: Hamming radius for precision and recall, 0 .. K.
        ties: ``expected``, ``optimistic``, ``pessimistic`` or ``stable``.
        denominator: ``found``, ``min(R,k)`` or ``R``.
        empty_queries: ``zero`` or ``drop``.
        asymmetric: measure with real-valued queries as well.
        rerank: measure with this many of the nearest items re-ranked by features as well; None for not at all.
        bootstrap: drawn sets of queries for the 95 % intervals; 0 for none.
        seed: of the bootstrap.
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
        cuts: Sequence[Cut] = ("all",),
        precision_at: Sequence[int] = (10,),
        ndcg_at: Sequence[Cut] = (),
        ndcg_gain: Gain = "exponential",
        radius: int = 2,
        ties: Ties = "expected",
        denominator: Denominator = "found",
        empty_queries: EmptyQueries = "zero",
        asymmetric: bool = False,
        rerank: int | None = None,
        bootstrap: int = 0,
        seed: int = 0,
        device_counting: DeviceCounting = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = bits
        self.measures = Measures(
            cuts=tuple(cuts),
            precision_at=tuple(precision_at),
            ndcg_at=tuple(ndcg_at),
            ndcg_gain=ndcg_gain,
            radius=radius,
            ties=ties,
            denominator=denominator,
            empty_queries=empty_queries,
            asymmetric=asymmetric,
            rerank=rerank,
            bootstrap=bootstrap,
            seed=seed,
        )
        self.measures.check(bits)
        _check_choice("device_counting", device_counting, get_args(DeviceCounting))
        self.device_counting = device_counting
        for part in get_args(RetrievalPart):
            for name in self._states(part):
                self.add_state(f"{part}_{name}", default=[], dist_reduce_fx="cat")
        # no reduction: the ranks' kinds of labels are compared with each other
        self.add_state("label_columns", default=torch.tensor(_UNKNOWN), dist_reduce_fx=None)

    @property
    def needs_features(self) -> bool:
        """Whether ``update`` must be given features."""
        return self.measures.rerank is not None

    def update(
        self, values: Tensor, labels: Tensor, index: Tensor, part: RetrievalPart, features: Tensor | None = None
    ) -> None:
        """Take in a batch of one part.

        Args:
            values: (B, K) real-valued codes, before the sign.
            labels: (B,) integers, or (B, C) multi-hot, where an entry above 0 means the label is there.
            index: (B,) integers, the samples' positions in their split; a position that came before is dropped.
            part: ``query`` or ``database``.
            features: (B, D) real, which re-ranking compares; not kept unless it is asked for.

        Raises:
            ValueError: if the shapes do not go together, the labels are of another kind than those before, or
                features that are needed are missing.
            TypeError: if single labels or the index are not integers.
        """
        _check_choice("part", part, get_args(RetrievalPart))
        self._check_batch(values, labels, index)
        self._note_label_columns(labels)
        multi_hot = labels.ndim == 2
        label_bytes = (
            pack_bytes(to_bits(labels)) if multi_hot else labels.to(torch.int64).contiguous().view(torch.uint8)
        )
        taken = {
            "codes": pack_bytes(to_bits(values.detach())),
            "labels": label_bytes.flatten(),
            "index": index.to(torch.int64),
            "errors": quantization_errors(values),
            "values": values.detach().float().flatten(),
        }
        if self.needs_features:
            taken["features"] = _checked_features(features, len(values)).detach().float().flatten()
        for name in self._states(part):
            self._state(part, name).append(taken[name])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks; one without items of a part gives nothing, of the right type."""
        for part in get_args(RetrievalPart):
            for name, dtype in self._states(part).items():
                state = self._state(part, name)
                if isinstance(state, list) and not state:
                    state.append(self._nothing(name, dtype))
        super().sync(*args, **kwargs)

    def compute(self) -> RetrievalResult:
        """Compute all metrics from what was taken in.

        Raises:
            ValueError: if a part is empty, a value was NaN or infinite, the labels of several ranks are of several
                kinds, or ``empty_queries='drop'`` leaves no query.
        """
        self._single_kind_of_labels()
        query, database = self._table("query"), self._table("database")
        return evaluate(query, database, self.measures, self._counting_device())

    def _wrap_compute(self, compute: Callable[[], RetrievalResult]) -> Callable[[], RetrievalResult]:
        # torchmetrics walks through what compute returns to squeeze tensors and refuses frozen dataclasses
        def seal() -> _Sealed:
            with _torch_threads_kept():
                return _Sealed(compute())

        wrapped = super()._wrap_compute(seal)
        return wraps(compute)(lambda: wrapped().result)

    def _table(self, part: RetrievalPart) -> CodeTable:
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
            values=self._rows(part, "values", first, len(index)),
            features=self._rows(part, "features", first, len(index)),
        )

    def _rows(self, part: RetrievalPart, name: str, chosen: np.ndarray, rows: int) -> np.ndarray | None:
        """Return the chosen ones of ``rows`` rows of a state that is optional, None where it is not kept."""
        if name not in self._states(part):
            return None
        return self._gathered(part, name).reshape(rows, -1)[chosen]

    def _decode_labels(self, label_bytes: np.ndarray) -> np.ndarray:
        columns = self._single_kind_of_labels()
        if columns == _SINGLE:
            return label_bytes.view(np.int64)
        rows = label_bytes.reshape(-1, -(-columns // 8))
        return np.unpackbits(rows, axis=1, count=columns, bitorder="little").view(np.bool_)

    def _gathered(self, part: RetrievalPart, name: str) -> np.ndarray:
        state = self._state(part, name)
        if isinstance(state, list) and not state:
            return self._nothing(name, self._states(part)[name]).cpu().numpy()
        return dim_zero_cat(state).cpu().numpy()

    def _states(self, part: RetrievalPart) -> dict[str, torch.dtype]:
        """Return name and type of each state of a part."""
        values = {"values": torch.float32} if self.measures.asymmetric and part == "query" else {}
        features = {"features": torch.float32} if self.needs_features else {}
        return {**_STATES, **values, **features}

    def _state(self, part: RetrievalPart, name: str) -> list[Tensor]:
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
            raise ValueError(
                f"labels are {_kind(columns)}, those before were {_kind(known)}: one evaluation has one kind"
            )
        self.label_columns = torch.full_like(self.label_columns, columns)

    def _single_kind_of_labels(self) -> int:
        """Return the number of label columns that all ranks agree on, 0 for single labels."""
        kinds = sorted({*self.label_columns.flatten().tolist()} - {_UNKNOWN})
        if len(kinds) > 1:
            raise ValueError(
                f"labels are {' on one rank and '.join(map(_kind, kinds))} on another: one evaluation has one kind"
            )
        return kinds[0] if kinds else _SINGLE


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    # numba's parallel loops set the number of OpenMP threads for the whole process; with another number torch rounds
    # otherwise, and a run that has validated would go on differently from one that was resumed
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _kind(columns: int) -> str:
    return "single labels" if columns == _SINGLE else f"multi-hot over {columns} classes"


def _checked_features(features: Tensor | None, rows: int) -> Tensor:
    if features is None:
        raise ValueError("metric.rerank needs features: give update(..., features=...), or set metric.rerank=null")
    if features.ndim != 2 or len(features) != rows:
        raise ValueError(f"features have shape {tuple(features.shape)}: those of {rows} codes are ({rows}, D)")
    return features


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choices are {', '.join(choices)}")


def _check_finite(errors: np.ndarray, index: np.ndarray, part: RetrievalPart) -> None:
    bad = index[~np.isfinite(errors)]
    if len(bad):
        raise ValueError(
            f"{len(bad)} {part} samples have codes with NaN or infinite values, the first at index {bad[0]}: "
            "the network diverged (lower optim.lr), or an image is broken"
        )

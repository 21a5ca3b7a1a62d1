"""What the hashing methods share: the hash layer, kept in float32, and the evaluation by retrieval."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace, Outputs, TaskModule
from lit_modules.metrics.accuracy import Accuracy
from lit_modules.metrics.hamming import HammingRetrieval, RetrievalPart
from lit_modules.optimization import Optimization
from lit_modules.precision import PreciseLinear
from lit_modules.precision import full_precision as full_precision
from records.notices import RunWarning
from retrieval.codes import to_bits
from retrieval.evaluation import RetrievalResult

PARTS: tuple[RetrievalPart, RetrievalPart] = ("query", "database")


def code_of(h: Tensor) -> Tensor:
    """Return the code of h (any shape, real) as -1 and 1 in its dtype, without gradient; a zero is -1."""
    return to_bits(h).to(h.dtype) * 2 - 1


class HashingModule(TaskModule):
    """A backbone and a hash layer of `bits` outputs, judged by Hamming ranking of the database for each query.

    A method computes `outputs["h"]`, the real value (B, bits) whose signs are the code: bit = (h > 0).
    """

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: HammingRetrieval,
        bits: int,
        init_std: float | None = None,
        gather_batch: bool = False,
    ) -> None:
        super().__init__(backbone, labels, optimization, gather_batch)
        if bits < 1:
            raise ValueError(f"task.bits must be at least 1, not {bits}")
        self.bits = bits
        self.hash_layer = PreciseLinear(backbone.num_features, bits)
        if init_std is not None:
            nn.init.normal_(self.hash_layer.weight, std=init_std)
            nn.init.zeros_(self.hash_layer.bias)
        self.metric = metric
        self.accuracy = None if labels.multi_label else Accuracy()
        self.retrieval_result: RetrievalResult | None = None

    def hash_values(self, features: Tensor) -> Tensor:
        """Return the hash layer's output (B, bits), in float32: half precision makes exact zeros, and flips bits."""
        values: Tensor = self.hash_layer(features)
        return values

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K), the hash layer's output as it is; a method that bounds or classifies it says so."""
        return {"h": self.hash_values(features)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the codes of one batch: loader 0 holds the queries, loader 1 the database."""
        self._collect(batch, PARTS[dataloader_idx])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the codes of one batch: loader 0 holds the queries, loader 1 the database."""
        self._collect(batch, PARTS[dataloader_idx])

    def on_validation_epoch_end(self) -> None:
        """Log the retrieval metrics of the validation part as `val/NAME`."""
        self._judge("val")

    def on_test_epoch_end(self) -> None:
        """Log the retrieval metrics of the test part as `test/NAME`, and keep the result for pictures and files."""
        self.retrieval_result = self._judge("test")

    def _collect(self, batch: Batch, part: RetrievalPart) -> None:
        features = self.encode(batch)
        outputs = self.head(features)
        self.metric.update(outputs["h"], batch["label"], batch["index"], part, features)
        if part == "query" and "logits" in outputs and self.accuracy is not None:
            self.accuracy.update(outputs["logits"], batch["label"])

    def _judge(self, stage: str) -> RetrievalResult:
        result = self.metric.compute()
        _warn_of_duplicates(result, stage)
        metrics = dict(result.metrics)
        if self.accuracy is not None and self.accuracy.update_called:
            metrics["accuracy"] = float(self.accuracy.compute())
            self.accuracy.reset()
        self.metric.reset()
        self.log_metrics(stage, metrics)
        return result


def _warn_of_duplicates(result: RetrievalResult, stage: str) -> None:
    counts = {"query": result.query.duplicates, "database": result.database.duplicates}
    for part, count in counts.items():
        if count:
            warnings.warn(
                f"{count} samples of the {stage} {part} were evaluated more than once and are counted once: "
                "the loaders hand out samples twice, as a sampler that pads for several ranks does",
                RunWarning,
                stacklevel=3,
            )

"""Hash layers computed from features in one pass, without a gradient: what the post-hoc baselines share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import code_of
from lit_modules.hashing.frozen_features import FrozenFeatures
from records.notices import RunWarning

NOTEWORTHY_BYTES = 4 * 10**9


@dataclass(frozen=True)
class Projection:
    """An affine map of features to hash values: h = weight x + bias, float (K, D) and (K,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the hash values (N, K) of features (N, D)."""
        return features @ self.weight.T + self.bias


def around_mean(weight: np.ndarray, mean: np.ndarray) -> Projection:
    """Return the projection weight (x - mean) for weight (K, D) and mean (D,)."""
    return Projection(weight, -weight @ mean)


def scaled_to_codes(projection: Projection, features: np.ndarray) -> Projection:
    """Return the projection times the one positive number that brings h nearest to its signs over features (N, D).

    No bit changes; it makes the quantization error, mean((|h| - 1)^2), a figure that can be compared.
    """
    h = projection(features)
    square = np.square(h, dtype=np.float64).sum()
    factor = np.abs(h).sum(dtype=np.float64) / square if square > 0 else 1.0
    return Projection(projection.weight * factor, projection.bias * factor)


def enough_for_components(num_samples: int, width: int, bits: int) -> None:
    """Make sure that num_samples features of a width have `bits` principal components.

    Raises:
        ValueError: fewer features or samples than bits.
    """
    if bits > width:
        raise ValueError(
            f"task.bits={bits}: features of width {width} have only {width} principal components; "
            f"choose task.bits={width} or fewer, task=lsh, or a wider model"
        )
    if bits > num_samples:
        raise ValueError(
            f"task.bits={bits}: {num_samples} images have fewer principal components than that; "
            "raise task.fit_samples, or choose fewer bits"
        )


def drawn_images(size: int, number: int, seed: int) -> Tensor:
    """Return which of `size` images are drawn, bool (size,), `number` of them."""
    drawn = torch.zeros(size, dtype=torch.bool)
    drawn[torch.from_numpy(np.random.default_rng(seed).permutation(size)[:number])] = True
    return drawn


class PostHoc(FrozenFeatures):
    """A hash layer that is computed once from the features of the training images, by `fit`.

    The features of an epoch are collected, those of all ranks together, and at its last batch, before validation, the
    hash layer's weight and bias are set. One epoch is all it takes (`trainer.max_epochs: 1` in the task's YAML); more
    compute the same again. Images are taken as they are: augmentation is switched off. No label is used. What an epoch
    leaves out is left out: images that the ranks cannot share evenly, and a last batch of one.

    Args:
        seed: of every random choice.
        fit_samples: fit on this many training images, drawn at random; None for all.
        shared: arguments of `FrozenFeatures`.
    """

    fits_at_once: ClassVar[bool] = True

    def __init__(self, *, seed: int = 0, fit_samples: int | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        if fit_samples is not None and fit_samples < 1:
            raise ValueError(f"task.fit_samples is {fit_samples}; it must be at least 1, or null for all images")
        self.seed = seed
        self.fit_samples = min(fit_samples or self.labels.train_size, self.labels.train_size)
        self._drawn = drawn_images(self.labels.train_size, self.fit_samples, seed)
        self._collected: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def fit_features(self, features: np.ndarray) -> Projection:
        """Return the hash layer for features (N, D) float32; called on one rank."""

    def configure_optimizers(self) -> Any:
        """Return an optimizer whose steps have length zero: a run without steps would be left without checkpoints."""
        return torch.optim.SGD(self.hash_layer.parameters(), lr=0.0)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared distance of h to its signs; a figure, nothing is trained by it."""
        h = outputs["h"]
        return {"loss": (h - code_of(h)).square().mean()}

    def on_fit_start(self) -> None:
        """Say what the features take where that is much, and have the images as they are."""
        super().on_fit_start()
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "augmentation", None) is not None:
            data.augmentation = None
        size = 4 * self.fit_samples * self.backbone.num_features
        if size > NOTEWORTHY_BYTES:
            rank_zero_only(warnings.warn)(
                f"the features of {self.fit_samples:,} training images take {size / 1e9:.1f} GB on every rank; "
                "task.fit_samples=N fits on fewer",
                RunWarning,
                stacklevel=2,
            )

    def on_train_epoch_start(self) -> None:
        """Begin with no features."""
        self._collected = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Collect the features of one batch; return a zero whose gradient is zero."""
        chosen = self._drawn.to(self.device)[batch["index"]]
        if chosen.any():
            features = self.encode(batch).float()
            self._collected.append((features[chosen], batch["index"][chosen]))
        return 0 * (self.hash_layer.weight.sum() + self.hash_layer.bias.sum())

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Fit after the last batch, before the validation that belongs to this epoch."""
        if self.trainer.is_last_batch:
            self._fit()

    def _fit(self) -> None:
        features = self._all_features()
        projection = None
        if self.trainer.is_global_zero:
            projection = scaled_to_codes(self.fit_features(features), features)
        projection = self.trainer.strategy.broadcast(projection)
        assert projection is not None
        with torch.no_grad():
            self.hash_layer.weight.copy_(torch.from_numpy(projection.weight))
            self.hash_layer.bias.copy_(torch.from_numpy(projection.bias))

    def _all_features(self) -> np.ndarray:
        """Return the features (N, D) float32 of all ranks, ordered by index, each image once."""
        width = self.backbone.num_features
        features = torch.cat([rows for rows, _ in self._collected] or [torch.zeros(0, width, device=self.device)])
        index = torch.cat(
            [rows for _, rows in self._collected] or [torch.zeros(0, dtype=torch.int64, device=self.device)]
        )
        self._collected = []
        if self.trainer.world_size > 1:
            features, index = torch.cat(gather_all_tensors(features)), torch.cat(gather_all_tensors(index))
        _, first = np.unique(index.cpu().numpy(), return_index=True)
        return features.cpu().numpy()[first]

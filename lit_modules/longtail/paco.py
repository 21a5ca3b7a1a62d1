"""PaCo: supervised contrast with learnable class centres, a momentum encoder and a queue of its keys.

Loss: -Σ w_j log p_j / Σ w_j over [z + log π, f·k/T]: weight β for the own centre, α for keys of the class

Cui, Zhong, Liu, Yu and Jia, "Parametric Contrastive Learning", ICCV 2021. https://arxiv.org/abs/2107.12028. What gets a
gradient, which columns count, and the projections: github.com/dvlab-research/Parametric-Contrastive-Learning
PaCo/LT/losses.py and moco/builder.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.projection import Projection, views_of
from lit_modules.precision import HALF

NO_LABEL = -1
VIEWS = 2


def paco_loss(
    logits: Tensor,
    queries: Tensor,
    contrast: Tensor,
    label: Tensor,
    contrast_label: Tensor,
    class_counts: Tensor,
    temperature: float = 0.05,
    alpha: float = 0.01,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Return the mean over anchors of -(sum_j w_j log p_j) / (sum_j w_j).

    The columns j of an anchor are the class centres, with logits z + log pi, then all other queries and `contrast`,
    with logits q . k / temperature; the softmax p runs over all columns, the samples' weighted by gamma. Positives are
    the own class's centre with weight beta and samples of the own class with weight alpha; the anchor itself is none.

    Args:
        logits: (B, C), of the classifier.
        queries: (B, D), of unit length; anchors and columns both, with gradient.
        contrast: (M, D), keys of unit length, without gradient.
        label: (B,).
        contrast_label: (M,).
        class_counts: (C,), above 0.
        temperature: of the samples' columns.
        alpha: weight of a sample as positive.
        beta: weight of the centre.
        gamma: weight of the samples in the softmax, above 0.
    """
    size, classes = logits.shape
    similarity = queries @ torch.cat([queries, contrast]).T / temperature
    is_self = torch.eye(size, similarity.shape[1], dtype=torch.bool, device=logits.device)
    centres = logits + log_prior(class_counts, logits)
    columns = torch.cat([centres, similarity.masked_fill(is_self, -math.inf)], dim=1)
    weighted = torch.cat([centres, similarity.masked_fill(is_self, -math.inf) + math.log(gamma)], dim=1)
    log_p = columns - torch.logsumexp(weighted, dim=1, keepdim=True)
    is_same = (label.unsqueeze(1) == torch.cat([label, contrast_label])) & ~is_self
    is_own = F.one_hot(label, classes).to(logits.dtype)
    weights = torch.cat([beta * is_own, alpha * is_same.to(logits.dtype)], dim=1)
    # the anchor's own column is -inf with weight 0
    log_p = torch.where(weights > 0, log_p, 0.0)
    return -((weights * log_p).sum(dim=1) / weights.sum(dim=1)).mean()


class KeyQueue(nn.Module):
    """The latest `size` keys and their labels, as buffers; rows not written yet have the label -1 and do not count."""

    keys: Tensor
    labels: Tensor
    written: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, width))
        self.register_buffer("labels", torch.full((size,), NO_LABEL))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def read(self) -> tuple[Tensor, Tensor]:
        """Return copies of the keys (M, D) and labels (M,) that have been written, M <= size."""
        filled = self.labels != NO_LABEL
        return self.keys[filled], self.labels[filled]

    def write(self, keys: Tensor, labels: Tensor) -> None:
        """Replace the oldest rows by keys (B, D) with labels (B,), without gradient; of more than fit the last stay."""
        size = len(self.keys)
        keys, labels = keys.detach()[-size:], labels[-size:]
        rows = (self.written + torch.arange(len(keys), device=self.keys.device)) % size
        self.keys[rows] = keys.to(self.keys.dtype)
        self.labels[rows] = labels
        self.written += len(keys)


class PaCo(LongTailModule):
    """PaCo with a linear classifier as centres, which evaluation takes alone.

    The key encoder, a copy of backbone and projection whose weights follow them by `momentum` at every step, is saved
    with them; its batch norms normalise by the batch of keys and have running statistics of their own. On several ranks
    all see the queries, keys and queue of all, and the projections' batch norms the batch of all; the batches are not
    shuffled among them, for which the backbones' batch norms, each rank's own, would be the reason.

    Args:
        width: of queries and keys.
        queue_size: number of earlier keys.
        momentum: share of its own weights that the key encoder keeps at a step, in [0, 1].
        temperature: see `paco_loss`, like alpha, beta and gamma.
        alpha: weight of a sample as positive.
        beta: weight of the centre.
        gamma: weight of the samples in the softmax.

    Raises:
        ValueError: a value is out of range.
        UserError: mixup, class weights, or too few views.
    """

    takes_weights: ClassVar[bool] = False
    takes_mixup: ClassVar[bool] = False
    memories: ClassVar[tuple[str, ...]] = ("queue.",)

    def __init__(
        self,
        *,
        width: int = 32,
        queue_size: int = 1024,
        momentum: float = 0.999,
        temperature: float = 0.05,
        alpha: float = 0.01,
        beta: float = 1.0,
        gamma: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value in (("queue_size", queue_size), ("temperature", temperature), ("gamma", gamma)):
            if not value > 0:
                raise ValueError(f"task.{name} must be above 0, not {value}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"task.momentum must lie in [0, 1], not {momentum}")
        self.momentum = momentum
        self.weighting = {"temperature": temperature, "alpha": alpha, "beta": beta, "gamma": gamma}
        self.projection = Projection(self.backbone.num_features, width, batch_norm=True)
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.queue = KeyQueue(queue_size, width)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PaCo:
        super()._apply(fn, recurse)
        for follower in (self.key_backbone, self.key_projection):
            if any(parameter.dtype in HALF for parameter in follower.parameters()):
                # a thousandth of a step would be rounded away in half precision, and the keys would never move
                follower.float()
        return self

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Give the key encoder the weights just loaded, where the file had none for it."""
        if not any(name.startswith("key_backbone.") for name in loaded):
            self.key_backbone.load_state_dict(self.backbone.state_dict())
            self.key_projection.load_state_dict(self.projection.state_dict())

    def forward(self, batch: Batch) -> Outputs:
        """Return `features` (B, D) and `logits` (B, C); in training the key encoder's `key_features` (B, D) besides."""
        if not self.training:
            return super().forward(batch)
        views = views_of(batch, VIEWS, "PaCo")
        features = self.encode({**batch, "image": views[0]})
        return {**self.head(features), "key_features": self._key_features(views[1])}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss against the batch's keys and the queue, then put the keys into the queue."""
        logits, label = outputs["logits"], batch["label"]
        queries = self.projection(outputs["features"])
        with torch.no_grad():
            keys: Tensor = self.key_projection(outputs["key_features"])
        queued, queued_label = self.queue.read()
        loss = paco_loss(
            logits,
            queries,
            torch.cat([keys, queued.to(keys)]),
            label,
            torch.cat([label, queued_label]),
            self.counts(logits),
            **self.weighting,
        )
        self.queue.write(keys, label)
        return {"loss": loss}

    @torch.no_grad()
    def _key_features(self, images: Tensor) -> Tensor:
        self._follow(self.key_backbone, self.backbone)
        self._follow(self.key_projection, self.projection)
        features: Tensor = self.key_backbone(images)
        return features

    def _follow(self, key: nn.Module, query: nn.Module) -> None:
        for follower, leader in zip(key.parameters(), query.parameters(), strict=True):
            follower.lerp_(leader.to(follower.dtype), 1 - self.momentum)

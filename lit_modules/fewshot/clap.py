"""CLAP: a linear probe that starts at the text embeddings and is held near them, class by class, without validation.

Loss: -log softmax(100 f·w)_y + mean over classes of λ_k |w_k - t_k|²

Silva-Rodriguez, Hajimiri, Ben Ayed and Dolz, "A Closer Look at the Few-Shot Adaptation of Large Vision-Language
Models", CVPR 2024, equations 5 to 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, class_counts, epoch_order, rows_of
from lit_modules.fewshot.head import LOGIT_SCALE, FewShotHead, State, count, positive, text_logits
from records.console import told

Constraint = Literal["l2", "l2-corrected", "l2-constant", "l2-balanced", "none"]
MOMENTUM = 0.9
WARM_UP_LR = 1e-5


def constraint_weights(on_text: Tensor, labels: Tensor, constraint: Constraint) -> Tensor:
    """Return the weight of each class's distance to its text, (..., C), from logits (..., N, C) of the support.

    `l2`: the mean probability that zero-shot CLIP gives to the class's own images, 0 for a class without images;
    `l2-corrected`: the same scaled to mean 1; `l2-constant`: its mean for every class; `l2-balanced`: 1.
    """
    place = labels.unsqueeze(-1)
    own = on_text.softmax(dim=-1).gather(-1, place).squeeze(-1)
    counts = class_counts(labels, on_text.shape[-1])
    performance = own.new_zeros(counts.shape).scatter_add(-1, labels, own) / counts.clamp(min=1)
    if constraint == "l2-corrected":
        return performance / performance.mean(dim=-1, keepdim=True)
    if constraint == "l2-constant":
        return performance.mean(dim=-1, keepdim=True).expand_as(performance)
    if constraint == "l2-balanced":
        return torch.ones_like(performance)
    return performance if constraint == "l2" else torch.zeros_like(performance)


def clap_loss(weight: Tensor, text: Tensor, multipliers: Tensor, batch: Labelled, scale: float) -> Tensor:
    """Return cross-entropy of scale * cosine with the weights + mean_k multiplier_k |w_k - t_k|^2, one per problem.

    Args:
        weight: (..., C, D), brought to unit length for the logits, not for the distance.
        text: (..., C, D), where the weights started.
        multipliers: (..., C).
        batch: N images.
        scale: factor on the cosines.

    Returns:
        (...).
    """
    logits = text_logits(batch.features, F.normalize(weight, dim=-1), scale)
    entropy = logits.logsumexp(dim=-1) - logits.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    distance = (weight - text).square().sum(dim=-1)
    return entropy.mean(dim=-1) + (multipliers * distance).mean(dim=-1)


class CLAP(FewShotHead):
    """CLAP, trained by SGD with momentum 0.9; every view of a support image is a sample.

    An epoch has as many batches as the images fill, whatever the number of views: with several of each, another part of
    them in every epoch, as in the authors' code (jusiro/CLAP @ dbdf409, trainers/adapters.py, run_epoch; there a last
    batch that is not full is left out).

    The first epoch has a learning rate of 1e-5, then it falls from `lr` by a cosine over the epochs.

    Args:
        epochs: number of them.
        lr: learning rate.
        batch_size: images per step.
        constraint: what holds a class to its text; see `constraint_weights`. `none`: a plain probe from the text.
        text_norm: length of the text embeddings that the probe starts from. The authors start from embeddings as the
            encoder gives them; here they come at unit length, and this restores a length.
        seed: of the order of the images; several are those of a stack of problems. None takes that of the cascade
            which the head stands in, and 0 outside of one.
        scale: factor on the cosines.
    """

    uses_validation: ClassVar[bool] = False

    def __init__(
        self,
        *,
        epochs: int = 300,
        lr: float = 0.1,
        batch_size: int = 256,
        constraint: Constraint = "l2",
        text_norm: float = 10.0,
        seed: int | Sequence[int] | None = None,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        self.epochs = count("epochs", epochs)
        self.lr = positive("lr", lr)
        self.batch_size = count("batch_size", batch_size)
        self.constraint: Constraint = constraint
        self.text_norm = positive("text_norm", text_norm)
        self.seed = seed
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Train the weights."""
        assert episode.text is not None
        assert episode.labels is not None
        support = episode.support_views
        text = (self.text_norm * episode.text).expand(*support.labels.shape[:-1], *episode.text.shape[-2:])
        zero_shot = text_logits(support.features, episode.text, self.scale)
        multipliers = constraint_weights(zero_shot, support.labels, self.constraint)
        weight = text.clone().requires_grad_()
        batches = math.ceil(episode.labels.shape[-1] / self.batch_size)
        optimizer = torch.optim.SGD([weight], lr=WARM_UP_LR, momentum=MOMENTUM)
        for epoch in told("fitting CLAP, epochs", range(self.epochs)):
            optimizer.param_groups[0]["lr"] = self.learning_rate(epoch)
            order = epoch_order(0 if self.seed is None else self.seed, epoch, self.epochs, support.labels)
            for rows in order.split(self.batch_size, dim=-1)[:batches]:
                batch = rows_of(support, rows)
                with torch.enable_grad():
                    # problems are independent: the gradient of their sum is each one's own
                    loss = clap_loss(weight, text, multipliers, batch, self.scale).sum()
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()
        return {"weight": F.normalize(weight.detach(), dim=-1)}

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return WARM_UP_LR if epoch == 0 else self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return scale * cosine with the weights."""
        return text_logits(features, state["weight"], self.scale)

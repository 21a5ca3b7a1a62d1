"""Tip-Adapter-F: Tip-Adapter whose keys are trained.

Loss: -log softmax of Tip-Adapter's logits, the keys trained

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode, Labelled, accuracy, epoch_order, rows_of
from lit_modules.fewshot.head import State, count, one_number, positive, warn_of_no_validation
from lit_modules.fewshot.tip_adapter import TipAdapter, cache_logits
from records.console import told

Selection = Literal["validation", "last", "test_leak"]
ADAM_EPSILON = 1e-4


class TipAdapterF(TipAdapter):
    """Keys trained by cross-entropy with AdamW, then alpha and beta searched as for Tip-Adapter.

    Where support images have several views, epoch e learns from view e modulo V.

    Args:
        epochs: passes over the support.
        lr: learning rate, falling to 0 by a cosine over the steps.
        batch_size: support images per step.
        weight_decay: AdamW's.
        selection: which epoch's keys are kept. `validation`: the first with the best accuracy there (without validation
            images the last, and the run warns); `last`; `test_leak`: the first with the best accuracy ON THE TEST PART,
            as the published code selects. Its figure is no estimate of anything, and the run warns.
        seed: of the order of the support; several are those of a stack of problems. None takes that of the cascade
            which the head stands in, and 0 outside of one.
        shared: arguments of `TipAdapter`.
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        lr: float = 1e-3,
        batch_size: int = 256,
        weight_decay: float = 0.01,
        selection: Selection = "validation",
        seed: int | Sequence[int] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.epochs = count("epochs", epochs)
        self.lr = positive("lr", lr)
        self.batch_size = count("batch_size", batch_size)
        self.weight_decay = weight_decay
        self.selection = selection
        self.seed = seed

    @property
    def selects_on_test(self) -> bool:
        """Whether the labels of the test part choose the epoch and the settings, as `test_leak` asks for."""
        return self.selection == "test_leak"

    def solve(self, episode: Episode) -> State:
        """Train the keys; choose alpha and beta."""
        keys, found = self._trained_keys(episode)
        return {**self.with_settings(Labelled(keys, episode.support.labels), episode), **found}

    def _trained_keys(self, episode: Episode) -> tuple[Tensor, State]:
        support = episode.support
        keys = support.features.clone().requires_grad_()
        best_keys, best = support.features, one_number(-1.0, support.features)
        optimizer = torch.optim.AdamW([keys], lr=self.lr, eps=ADAM_EPSILON, weight_decay=self.weight_decay)
        batches = -(-support.labels.shape[-1] // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * batches)
        watch = episode.validation if self.selection != "last" else None
        if watch is None and self.selection != "last":
            warn_of_no_validation("the last epoch")
        watched_base = None if watch is None else self._text_base(watch.features, episode)
        for epoch in told("fitting Tip-Adapter-F, epochs", range(self.epochs)):
            self._train_epoch(keys, support.labels, episode, epoch, optimizer, schedule)
            if watch is not None and watched_base is not None:
                logits = self._logits(watch.features, keys.detach(), episode, watched_base)
                reached = accuracy(logits, watch.labels)
                better = reached > best
                best = torch.where(better, reached, best)
                best_keys = torch.where(better[..., None, None], keys.detach(), best_keys)
        if watch is None:
            return keys.detach(), {}
        return best_keys, {"epoch_validation_accuracy": best, "last_epoch_validation_accuracy": reached}

    def _train_epoch(
        self,
        keys: Tensor,
        labels: Tensor,
        episode: Episode,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        assert episode.views is not None
        features = episode.views[..., epoch % episode.views.shape[-2], :]
        order = epoch_order(0 if self.seed is None else self.seed, epoch, self.epochs, labels)
        for rows in order.split(self.batch_size, dim=-1):
            batch = rows_of(Labelled(features, labels), rows)
            with torch.enable_grad():
                base = self._text_base(batch.features, episode)
                logits = self._logits(batch.features, keys, episode, base)
                # problems are independent: the mean over images of each, summed over problems
                total = F.cross_entropy(logits.flatten(0, -2), batch.labels.flatten(), reduction="sum")
                loss = total / rows.shape[-1]
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            schedule.step()

    def _logits(self, features: Tensor, keys: Tensor, episode: Episode, base: Tensor) -> Tensor:
        """Return the logits (..., N, C) with the settings `alpha` and `beta`, for training and for the epoch.

        `base` (..., N, C): the text's logits of the same features, which do not change while the keys are trained.
        """
        assert episode.labels is not None
        beta = one_number(self.beta, keys)
        cache = cache_logits(features @ keys.mT, episode.labels, episode.num_classes, beta)
        return base + self.alpha * cache

    def _text_base(self, features: Tensor, episode: Episode) -> Tensor:
        state = {"num_classes": torch.tensor(episode.num_classes)}
        if episode.text is not None:
            state["text"] = episode.text
        return self._base(features, state)

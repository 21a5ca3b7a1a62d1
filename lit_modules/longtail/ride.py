"""RIDE: experts over a shared stem, each trained by LDAM and pushed away from their mean; optionally routed.

Loss: Σ over experts of LDAM(z_e) - λ T̄² KL(mean softmax ‖ softmax(z_e / T)), the mean without gradient

Wang, Lian, Miao, Liu and Yu, "Long-Tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR 2021.
https://arxiv.org/abs/2010.01809. What is summed and detached: github.com/frank-xwang/RIDE-LongTailRecognition.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.class_weights import has_begun
from lit_modules.longtail.classifier import CosineClassifier
from lit_modules.longtail.experts import ExpertClassifiers, ExpertModule
from lit_modules.longtail.ldam import class_margins, ldam_loss
from lit_modules.longtail.routing import ExpertRouters, experts_asked, routed_logits, routing_loss
from lit_modules.longtail.teacher import Teacher, distillation_loss, load_teacher
from lit_modules.metrics.share import Share
from records.errors import UserError


def class_temperatures(class_counts: Tensor, ratio: float = 0.05) -> Tensor:
    """Return a temperature (C,) in (0, 1] for each class: C pi_c ratio + 1 - ratio over its largest value.

    `class_counts` (C,) is of a floating type; rare classes get a lower one, and so more diversity.
    """
    raw = len(class_counts) * class_counts / class_counts.sum() * ratio + 1 - ratio
    return raw / raw.max()


def diversity(expert_logits: Tensor, temperatures: Tensor) -> Tensor:
    """Return sum_e Tbar^2 KL(mean || expert e) of logits (B, E, C) over class temperatures (C,), Tbar their mean.

    The mean of the experts' logits gets no gradient; the divergence sums over classes and averages over images.
    """
    mean = F.log_softmax(expert_logits.detach().mean(dim=1) / temperatures, dim=1)
    parts = [
        F.kl_div(F.log_softmax(logits / temperatures, dim=1), mean, reduction="batchmean", log_target=True)
        for logits in expert_logits.unbind(1)
    ]
    return temperatures.mean() ** 2 * torch.stack(parts).sum()


def ride_loss(
    expert_logits: Tensor,
    label: Tensor,
    margins: Tensor,
    scale: float,
    temperatures: Tensor,
    diversity_weight: float = -0.45,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return sum_e LDAM(expert e) + diversity_weight * diversity as `loss`, and its two parts.

    Args:
        expert_logits: (B, E, C), cosines times `scale`.
        label: (B,).
        margins: (C,).
        scale: of the cosine classifiers.
        temperatures: (C,) of the diversity.
        diversity_weight: below 0, for the divergence is to grow.
        weights: (C,) of LDAM, or None.
    """
    parts = [ldam_loss(logits, label, margins, scale, weights) for logits in expert_logits.unbind(1)]
    classification = torch.stack(parts).sum()
    divergence = diversity(expert_logits, temperatures)
    return {
        "loss": classification + diversity_weight * divergence,
        "classification": classification,
        "diversity": divergence,
    }


class RIDE(ExpertModule):
    """RIDE on cosine logits; the rule `drw` re-weights the last fifth of the epochs, where temperatures begin too.

    In stage 2 everything but the routers is frozen, and evaluation asks the experts one after the other until the
    router of the last one is content, which saves experts and not errors; `init_from` names the trained experts.

    With a teacher the authors' code adds all of the loss once for each of the E experts (RIDELossWithDistill), a factor
    that is left out here; SGD with E times the learning rate and an E-th of the weight decay takes the same steps.
    Their runs with a teacher warm up for 20 of 200 epochs (`schedule.warmup=0.1`), those without for 5.

    Args:
        max_margin: of LDAM.
        diversity_weight: of the divergence between experts, negative.
        temperature_ratio: how far the class temperatures depart from 1.
        temperature_from: share of the epochs after which they do.
        teacher: run directory of a RIDE run to learn from, with more experts; None for none.
        distillation_weight: of KL(teacher || mean of the experts).
        distillation_temperature: of both.
        stage: 1, the experts; 2, the routers; None is 1.
        routing_positive_weight: of the images that another expert would help.

    Raises:
        UserError: another classifier than `cosine`, or stage 2 with blended images, a single expert, or experts that
            are not trained.
    """

    def __init__(
        self,
        *,
        max_margin: float = 0.5,
        diversity_weight: float = -0.45,
        temperature_ratio: float = 0.05,
        temperature_from: float = 0.8,
        teacher: str | None = None,
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.5,
        stage: int | None = None,
        routing_positive_weight: float = 100.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.scale = self._cosine_scale()
        self.max_margin = max_margin
        self.diversity_weight = diversity_weight
        self.temperature_ratio = temperature_ratio
        self.temperature_from = temperature_from
        self.teacher = teacher
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.routing_positive_weight = routing_positive_weight
        # in a list, so that the teacher is no part of this module: it is neither trained nor saved
        self._loaded_teacher: list[Teacher] = []
        if stage not in (None, 1, 2):
            raise UserError(f"task.stage={stage}: choose 1 (the experts) or 2 (the routers)")
        self.routers = self._build_routers() if stage == 2 else None
        self.share_asked = Share()
        self._has_trained_experts = False
        if self.routers is not None:
            self.freeze_backbone()
            self.classifier.requires_grad_(False)

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Note whether all experts' classifiers were loaded."""
        wanted = {f"classifier.{name}" for name, _ in self.classifier.named_parameters()}
        self._has_trained_experts = wanted <= set(loaded)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note that a checkpoint of this run, which is resumed, holds the experts."""
        self._has_trained_experts = True

    def on_fit_start(self) -> None:
        """Load the teacher; check that routers have trained experts to choose among.

        Raises:
            UserError: stage 2 on experts with random weights.
        """
        if self.routers is not None and not self._has_trained_experts and not self.is_tried_out:
            raise UserError(
                "task.stage=2 trains routers between trained experts, and these have random weights: name the run of "
                "stage 1 (init_from=RUN init_parts=all, with the same task.experts), or train both stages by "
                "task=ride_routed"
            )
        if self.teacher is not None and self.routers is None:
            self._loaded_teacher = [load_teacher(self.teacher, self.labels.class_names).to(self.device)]

    def forward(self, batch: Batch) -> Outputs:
        """Return the experts' outputs, and in training `teacher_logits` (B, C) where there is a teacher."""
        outputs = super().forward(batch)
        if self.training and self._loaded_teacher:
            if "image" not in batch:
                raise UserError(
                    f"task.teacher={self.teacher}: the teacher looks at images, and cached features have none; set "
                    "cache_features=false, or task.teacher=null"
                )
            outputs["teacher_logits"] = self._loaded_teacher[0](batch["image"])
        return outputs

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the experts, with a teacher's; or that of the routers."""
        logits, label = outputs["expert_logits"], batch["label"]
        if self.routers is not None:
            return {"loss": routing_loss(self._calls(outputs), logits, label, self.routing_positive_weight)}
        margins = class_margins(self.counts(logits).to(logits), self.max_margin)
        temperatures = self._temperatures(logits)
        losses = ride_loss(
            logits, label, margins, self.scale, temperatures, self.diversity_weight, self.weights(logits)
        )
        if "teacher_logits" in outputs:
            distillation = distillation_loss(
                outputs["logits"], outputs["teacher_logits"].to(logits), self.distillation_temperature
            )
            losses["distillation"] = distillation
            losses["loss"] = losses["loss"] + self.distillation_weight * distillation
        return losses

    def scores(self, outputs: Outputs) -> Tensor:
        """Return the mean of the experts' logits (B, C), of those asked where there are routers."""
        if self.routers is None:
            return outputs["logits"]
        return routed_logits(self._calls(outputs), outputs["expert_logits"])

    def collect(self, outputs: Outputs, batch: Batch) -> None:
        """Take in the predictions of one batch, and the share of the experts that its images ask."""
        super().collect(outputs, batch)
        if self.routers is not None:
            asked = experts_asked(self._calls(outputs))
            self.share_asked.update(asked.sum(), asked.numel() * self.experts)

    def further_metrics(self, stage: str) -> dict[str, float]:
        """Return `experts_share`, the share in (0, 1] of the experts that images ask, where there are routers."""
        if self.routers is None:
            return {}
        share = float(self.share_asked.compute())
        self.share_asked.reset()
        return {"experts_share": share}

    def _calls(self, outputs: Outputs) -> Tensor:
        """Return the routers' logits (B, E - 1) that one more expert would help."""
        assert self.routers is not None
        calls: Tensor = self.routers(outputs["features"].unflatten(1, (self.experts, -1)), outputs["expert_logits"])
        return calls

    def _temperatures(self, like: Tensor) -> Tensor:
        if not has_begun(self.progress, self.temperature_from):
            return torch.ones(self.labels.num_classes, dtype=like.dtype, device=like.device)
        return class_temperatures(self.counts(like).to(like), self.temperature_ratio)

    def _build_routers(self) -> ExpertRouters:
        if self.experts < 2 or self.blending.is_on:
            raise UserError(
                "task.stage=2 trains routers, and needs task.experts of 2 or more, task.mixup_alpha=0 and "
                "task.cutmix_alpha=0"
            )
        width = self.backbone.num_features // self.experts
        return ExpertRouters(self.experts, width, self.labels.num_classes)

    def _cosine_scale(self) -> float:
        expert = cast(ExpertClassifiers, self.classifier).experts[0]
        if not isinstance(expert, CosineClassifier):
            raise UserError(f"task.classifier={self.classifier_kind}: RIDE's margins are cosines; choose cosine")
        return expert.scale

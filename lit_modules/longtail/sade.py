"""SADE: three experts, trained for a long-tailed, a uniform and an inversely long-tailed test distribution.

Loss: cross-entropy of three experts: of z, of z + log π, of z + log π - τ log π̄ with the prior reversed

Zhang, Hooi, Hong and Feng, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition",
NeurIPS 2022. https://arxiv.org/abs/2107.09249

The prediction is the mean of the experts, or with `test_time=aggregate` their sum by the weights that the paper learns
on the unlabelled test images (`lit_modules/longtail/aggregation.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.longtail.aggregation import Views, aggregated_logits, stable_weights
from lit_modules.longtail.class_weights import log_prior
from lit_modules.longtail.experts import ExpertModule
from records.errors import UserError

EXPERTS = ("forward", "uniform", "backward")
TestTime = Literal["none", "aggregate"]


def reversed_by_rank(values: Tensor) -> Tensor:
    """Return the values (C,) with the largest in the place of the smallest, the second largest in that of the ..."""
    order = values.argsort(stable=True)
    reversed_values = torch.empty_like(values)
    reversed_values[order] = values[order.flip(0)]
    return reversed_values


def expert_shifts(class_counts: Tensor, like: Tensor, tau: float = 2.0) -> Tensor:
    """Return what is added to the logits of the three experts in training (3, C), in the type of `like`.

    0 for the long-tailed expert, log pi for the uniform one, log pi - tau log pi' for the inverse one, pi' being the
    prior reversed by rank.
    """
    prior = log_prior(class_counts, like)
    return torch.stack([torch.zeros_like(prior), prior, prior - tau * reversed_by_rank(prior)])


def sade_loss(expert_logits: Tensor, label: Tensor, class_counts: Tensor, tau: float = 2.0) -> dict[str, Tensor]:
    """Return the sum of the experts' cross-entropies as `loss`, and each: `forward`, `uniform`, `backward`.

    expert_logits is (B, 3, C), label (B,), class_counts (C,) above 0.
    """
    shifted = expert_logits + expert_shifts(class_counts, expert_logits, tau)
    forward, uniform, backward = (F.cross_entropy(logits, label) for logits in shifted.unbind(1))
    return {"loss": forward + uniform + backward, "forward": forward, "uniform": uniform, "backward": backward}


class SADE(ExpertModule):
    """Three experts with skills of their own; evaluation takes the mean of their logits, as under a uniform test prior.

    With `test_time=aggregate` the test begins by learning a weight of each expert from views of the test images,
    without their labels: transductive, and only for the test part it was learned on. A validation part is judged by
    the mean. The weights are logged as `test/weight_forward`, `weight_uniform` and `weight_backward`.

    Args:
        tau: how far the third expert leans to rare classes.
        experts: three.
        test_time: none, or aggregate.
        aggregation_epochs: over the test images, 1 or more.
        aggregation_lr: of the weights, above 0.
        smallest_weight: an epoch that leaves an expert less is the last one, in [0, 1/3).

    Raises:
        UserError: another choice of `test_time`.
        ValueError: another number of experts than three, or a value out of range.
    """

    takes_weights: ClassVar[bool] = False

    def __init__(
        self,
        *,
        tau: float = 2.0,
        experts: int = len(EXPERTS),
        test_time: TestTime = "none",
        aggregation_epochs: int = 5,
        aggregation_lr: float = 0.1,
        smallest_weight: float = 0.05,
        **shared: Any,
    ) -> None:
        super().__init__(experts=experts, **shared)
        if experts != len(EXPERTS):
            raise ValueError(f"task.experts must be {len(EXPERTS)} for SADE ({', '.join(EXPERTS)}), not {experts}")
        if test_time not in get_args(TestTime):
            raise UserError(f"task.test_time={test_time} is no choice; the choices are {', '.join(get_args(TestTime))}")
        if aggregation_epochs < 1 or not aggregation_lr > 0:
            raise ValueError(
                f"task.aggregation_epochs is {aggregation_epochs} and task.aggregation_lr {aggregation_lr}; they must "
                "be 1 or more, and above 0"
            )
        if not 0 <= smallest_weight < 1 / len(EXPERTS):
            raise ValueError(f"task.smallest_weight is {smallest_weight}; it must lie in [0, 1/3)")
        self.tau = tau
        self.test_time: TestTime = test_time
        self.aggregation_epochs = aggregation_epochs
        self.aggregation_lr = aggregation_lr
        self.smallest_weight = smallest_weight
        self._expert_weights: Tensor | None = None

    @property
    def evaluation_protocol(self) -> dict[str, str]:
        """What a reader of the result must know beside the data's own protocol."""
        if self.test_time == "none":
            return {}
        return {"transductive": "yes, the experts' weights were learned on the unlabelled test images"}

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and each expert's part."""
        logits = outputs["expert_logits"]
        return sade_loss(logits, batch["label"], self.counts(logits), self.tau)

    def scores(self, outputs: Outputs) -> Tensor:
        """Return the mean of the experts' logits (B, C), or in the test their sum by the weights learned for it."""
        if self._expert_weights is None or not self.trainer.testing:
            return outputs["logits"]
        return aggregated_logits(outputs["expert_logits"], self._expert_weights)

    def on_fit_start(self) -> None:
        """Check that the test images can be augmented, where the test asks for it."""
        if self.test_time == "aggregate":
            self._images()

    def on_test_start(self) -> None:
        """Learn the experts' weights on the unlabelled test images, where that is asked for."""
        if self.test_time == "none":
            return
        # Lightning tests in inference mode, which leaves nothing to differentiate
        with torch.inference_mode(False), torch.enable_grad():
            self._expert_weights = stable_weights(
                (self._views(epoch) for epoch in range(self.aggregation_epochs)),
                self.experts,
                self.aggregation_lr,
                self.smallest_weight,
                self._mean_over_ranks,
            )

    def further_metrics(self, stage: str) -> dict[str, float]:
        """Return the weights that were learned for the test part."""
        if stage != "test" or self._expert_weights is None:
            return {}
        return {f"weight_{name}": float(one) for name, one in zip(EXPERTS, self._expert_weights, strict=True)}

    def _mean_over_ranks(self, gradient: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return gradient
        mean: Tensor = self.trainer.strategy.reduce(gradient.to(self.device), reduce_op="mean")
        return mean

    def _views(self, epoch: int) -> Iterator[Views]:
        """Yield the experts' logits (B, 3, C) for two views of each batch of test images."""
        data = self._images()
        for batch in data.unlabelled_loader(data.test_splits[0], epoch):
            views = self.transfer_batch_to_device(batch, self.device, 0)["views"]
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                first, second = (self({"image": view})["expert_logits"] for view in views)
            yield first, second

    def _images(self) -> Any:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "unlabelled_loader"):
            raise UserError(
                "task.test_time=aggregate augments the test images, and these data are features; set "
                "cache_features=false, choose data of images, or set task.test_time=none"
            )
        return data

"""LIFT: a pretrained vision transformer is fine-tuned by few parameters, under logit adjustment.

Loss: -log softmax(s cos(f, w) + τ log π)_y, adapters and w trained

Shi, Wei, Zhou, Shao, Han and Li, "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML 2024.
https://arxiv.org/abs/2309.10019. Defaults: github.com/shijxcs/LIFT utils/config.py.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.backbones.open_clip_networks import ClipTowers
from lit_modules.base import Batch, Outputs
from lit_modules.longtail.adaptformer import attach_adapters
from lit_modules.longtail.base import LongTailModule
from lit_modules.longtail.logit_adjustment import adjusted_loss
from lit_modules.precision import full_precision
from records.errors import UserError

InitialClassifier = Literal["auto", "text", "class_means", "random"]


class LIFT(LongTailModule):
    """Adapters beside the blocks of a frozen transformer, and a classifier that starts from what classes look like.

    Only adapters and classifier are trained. Before the first step the classifier's weights become unit vectors: the
    text features of a sentence about each class (`text`), or the mean feature of its training images, not augmented
    (`class_means`). `auto` is text for a CLIP model and means for others. What `init_from` has loaded stays.

    A CLIP model's features here are those of the space it shares with text; LIFT's own code takes those before the
    last projection, and projects the text features back.

    Args:
        tau: of logit adjustment.
        bottleneck: width of the adapters; None is the power of two below C / (2 blocks).
        initial_classifier: where the classifier starts.
        template: the sentence, `{}` being the name of the class.

    Raises:
        UserError: the model is no transformer, or knows nothing of text and is asked to.
    """

    def __init__(
        self,
        *,
        tau: float = 1.0,
        bottleneck: int | None = None,
        initial_classifier: InitialClassifier = "auto",
        template: str = "a photo of a {}.",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.tau = tau
        self.template = template
        self.initial_classifier = self._resolved(initial_classifier)
        network, name = self.backbone.network, self.backbone.name
        if bottleneck is not None and bottleneck < 1:
            raise ValueError(f"task.bottleneck must be 1 or more, or null, not {bottleneck}")
        # the trainer leaves modes as it finds them
        self.backbone.requires_grad_(False).eval()
        self.adapters = attach_adapters(network, name, self.labels.num_classes, bottleneck)
        self._has_loaded_classifier = False

    def train(self, mode: bool = True) -> LIFT:
        """Set the mode of adapters and classifier; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def freeze_backbone(self) -> None:
        """Keep the adapters as they are, too: the features then stay the same."""
        super().freeze_backbone()
        self.adapters.requires_grad_(False)

    def started_from(self, loaded: tuple[str, ...], unused: tuple[str, ...] = ()) -> None:
        """Keep a classifier that was loaded."""
        self._has_loaded_classifier = "classifier.weight" in loaded

    def criterion(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the logits plus tau log prior."""
        logits, label = outputs["logits"], batch["label"]
        return {"loss": adjusted_loss(logits, label, self.counts(logits), self.tau, self.weights(logits))}

    def on_train_start(self) -> None:
        """Give the classifier its first weights; not again where a run is resumed."""
        if self.global_step > 0 or self._has_loaded_classifier or self.initial_classifier == "random":
            return
        towards = self._text_features() if self.initial_classifier == "text" else self._class_means()
        weight = cast(Tensor, self.classifier.weight)
        with torch.no_grad():
            weight.copy_(F.normalize(towards).to(weight))

    def _text_features(self) -> Tensor:
        sentences = [self.template.format(name.replace("_", " ")) for name in self.labels.class_names]
        towers = cast(ClipTowers, self.backbone.network)
        with torch.no_grad(), full_precision(cast(Tensor, self.classifier.weight)):
            return towers.encode_text(sentences).float()

    def _class_means(self) -> Tensor:
        """Return the mean feature of each class's training images, (C, D), over all ranks."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        shape = (self.labels.num_classes, self.backbone.num_features)
        sums = torch.zeros(shape, dtype=torch.float64, device=self.device)
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in data.evaluation_loader("train"):
                moved = self.transfer_batch_to_device(batch, self.device, 0)
                sums.index_add_(0, moved["label"], self.encode(moved).double())
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return (sums / self.counts(sums).unsqueeze(1)).float()

    def _resolved(self, choice: InitialClassifier) -> InitialClassifier:
        knows_text = isinstance(self.backbone.network, ClipTowers)
        if choice == "text" and not knows_text:
            raise UserError(
                f"task.initial_classifier=text: model={self.backbone.name} knows nothing of text; choose a CLIP model "
                "(model=clip_vit_b16), or class_means"
            )
        if choice == "auto":
            return "text" if knows_text else "class_means"
        return choice

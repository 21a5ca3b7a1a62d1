"""A classifier trained elsewhere as a stage of a cascade: its probabilities are features, and its head takes them back.

The square roots of probabilities are a vector of unit length, so they travel and are kept as every feature is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_modules.backbones.frozen_encoder import FrozenEncoder
from lit_modules.base import TaskModule
from lit_modules.fewshot.episode import Episode
from lit_modules.fewshot.head import FewShotHead, State
from records.errors import UserError


class TrainedClassifier(FewShotHead):
    """Logits of a classifier whose features are the square roots of its probabilities; nothing is fitted."""

    needs_support: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    uses_text: ClassVar[bool] = False

    def solve(self, episode: Episode) -> State:
        """Note the number of classes.

        Raises:
            UserError: the features are those of another number of classes.
        """
        if episode.views is not None and episode.views.shape[-1] != episode.num_classes:
            raise UserError(
                f"the classifier gives {episode.views.shape[-1]} probabilities for {episode.num_classes} classes; "
                "this head takes an encoder that names a run: task.encoders.NAME.run=DIR"
            )
        return {"classes": torch.tensor(episode.num_classes)}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithms of the probabilities."""
        return 2 * features.clamp(min=torch.finfo(features.dtype).tiny).log()


class ClassifierEncoder:
    """A trained task as an encoder: images to the square roots of its probabilities, in evaluation mode, float32.

    Args:
        task: any task whose head gives `logits` (B, C).
        class_names: names of its classes.
        device: where to compute.
        resize: length of an image's short side before the centre is cut out, as it was judged; None takes the image
            size.
    """

    has_text = False

    def __init__(
        self,
        task: TaskModule,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        resize: int | None = None,
    ) -> None:
        self.task = task.to(device).eval()
        self.class_names = tuple(class_names)
        self.device = torch.device(device)
        self._resize = resize

    @property
    def name(self) -> str:
        """Name of the backbone, and that a classifier sits on it."""
        return f"{self.task.backbone.name}-classifier"

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.task.backbone.image_size

    @property
    def resize(self) -> int:
        """Length in pixels of an image's short side before the centre is cut out."""
        return self.image_size if self._resize is None else self._resize

    @property
    def identity(self) -> str:
        """Sha256 over backbone and head."""
        digest = hashlib.sha256(FrozenEncoder(self.task.backbone, self.device).identity.encode())
        for name, tensor in sorted(self.task.state_dict().items()):
            if not name.startswith("backbone."):
                digest.update(f"{name} {tuple(tensor.shape)}".encode())
                digest.update(str(tensor.double().cpu().tolist()).encode())
        return digest.hexdigest()

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters: `image`, and `text`, which is 0."""
        return {"image": sum(one.numel() for one in self.task.parameters()), "text": 0}

    def encode_images(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S), uint8 or in [0, 1], to features float32 (B, C) of unit length on the CPU."""
        with torch.inference_mode():
            logits = self.task({"image": images.to(self.device)})["logits"]
            features: Tensor = logits.double().softmax(dim=-1).sqrt().float().cpu()
        return features.clone()

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Refuse: a classifier knows nothing of text.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.name} encodes images alone")

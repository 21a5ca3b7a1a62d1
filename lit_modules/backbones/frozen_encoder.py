"""A backbone as something that encodes images and text and never learns: what a feature bank is filled by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.open_clip_networks import ClipTowers
from records.errors import UserError


class FrozenEncoder:
    """Encode images and sentences by a backbone, without gradient, in evaluation mode, in float32.

    Args:
        backbone: any backbone; of text those of `model.source=open_clip` alone know something.
        device: where to compute.
    """

    def __init__(self, backbone: Backbone, device: torch.device | str = "cpu") -> None:
        self.backbone = backbone
        self.device = torch.device(device)
        self._identity: str | None = None

    @property
    def name(self) -> str:
        """Name of the backbone."""
        return self.backbone.name

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.backbone.image_size

    @property
    def resize(self) -> int:
        """Length in pixels of an image's short side before the centre is cut out: the image size, as OpenAI has it."""
        return self.image_size

    @property
    def has_text(self) -> bool:
        """Whether sentences can be encoded."""
        return isinstance(self.backbone.network, ClipTowers)

    @property
    def identity(self) -> str:
        """Sha256 over everything that features depend on: weights by name, normalisation, size, and the modules."""
        if self._identity is None:
            self._identity = self._hash()
        return self._identity

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each tower: `image`, and `text` (0 without one)."""
        network = self.backbone.network
        if not isinstance(network, ClipTowers):
            return {"image": _size(network), "text": 0}
        return {"image": _size(network.visual), "text": _size(network.text_tower)}

    def encode_images(self, images: Tensor) -> Tensor:
        """Map images (B, 3, S, S), uint8 or in [0, 1], to features float32 (B, D) on the CPU."""
        return self._frozen(lambda: self.backbone(images.to(self.device)))

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Map sentences to features float32 (n, D) on the CPU.

        Raises:
            UserError: the backbone knows nothing of text.
        """
        if not self.has_text:
            raise UserError(
                f"model={self.name} encodes images alone; a CLIP model encodes text too: model=clip_vit_b32 (the extra "
                "clip), or choose a task that needs no text"
            )
        towers = cast("ClipTowers", self.backbone.network)
        return self._frozen(lambda: towers.encode_text(sentences))

    def _frozen(self, encode: Callable[[], Tensor]) -> Tensor:
        training = self.backbone.training
        self.backbone.to(self.device).eval()
        try:
            with torch.inference_mode():
                features = encode().float().cpu()
        finally:
            self.backbone.train(training)
        return features.clone()

    def _hash(self) -> str:
        network = self.backbone.network
        digest = hashlib.sha256(f"{self.image_size} {self.backbone.mean} {self.backbone.std}".encode())
        modules = [network, network.text_tower] if isinstance(network, ClipTowers) else [network]
        for module in modules:
            # the printed modules tell apart what weights cannot: QuickGELU from GELU, strides, epsilons
            digest.update(str(module).encode())
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(
                    tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data
                    if tensor.ndim
                    else str(tensor.item()).encode()
                )
        return digest.hexdigest()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

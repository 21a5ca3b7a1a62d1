"""Cosines of scikit-image's pictures with captions, by any CLIP model of conf/model: a picture to look at.

    python benchmarks/clip_heatmap.py model=clip_vit_b32 --output heatmap.png

Needs the extra `clip` and scikit-image. Pictures are resized to the model's size on the short side and cropped in the
middle. With random weights (model.pretrained=false) the picture only shows that everything runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.images.example_pictures import example_pictures
from launch.compose import compose_config
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from modes.build import build_backbone
from records.errors import UserError
from records.fewshot_figures import cosine_heatmap_picture


def cosines(encoder: FrozenEncoder, images: list[np.ndarray], captions: list[str]) -> np.ndarray:
    """Return the cosines (captions, images)."""
    pixels = torch.stack([framed(torch.from_numpy(image), encoder.image_size) for image in images])
    image_features = F.normalize(encoder.encode_images(pixels), dim=1)
    text_features = F.normalize(encoder.encode_text(captions), dim=1)
    return (text_features @ image_features.T).double().numpy()


def framed(image: torch.Tensor, size: int) -> torch.Tensor:
    """Resize the short side of (3, H, W) to `size`, bicubic, and crop the middle."""
    resized = transforms.resize(image, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return transforms.center_crop(resized, [size, size])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["model=clip_vit_b32"], help="as on run.py's command line")
    parser.add_argument("--output", type=Path, default=Path("heatmap.png"))
    arguments = parser.parse_args()
    try:
        images, captions = example_pictures()
        model = OmegaConf.to_container(compose_config(arguments.overrides).model, resolve=True)
        encoder = FrozenEncoder(build_backbone({"model": model}))
        found = cosines(encoder, images, captions)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    cosine_heatmap_picture(found, images, captions).save(arguments.output)
    print(f"best caption right for {(found.argmax(axis=0) == np.arange(len(images))).sum()} of {len(images)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A hashing module of any class on a tiny backbone and four classes, without Hydra."""

from functools import partial

import torch

from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.metrics.hamming import HammingRetrieval
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant

BITS, CLASSES, IMAGES = 12, 4, 24


def small_task(task, multi_label=False, train_size=IMAGES, bits=BITS, width=4, **settings):
    torch.manual_seed(0)
    labels = LabelSpace(
        num_classes=CLASSES,
        class_names=tuple("abcd"),
        class_counts=(train_size // CLASSES,) * CLASSES,
        multi_label=multi_label,
        train_size=train_size,
    )
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.0)
    backbone = build_backbone("own", "tiny", False, image_size=16, width=width)
    return task(
        backbone=backbone,
        labels=labels,
        optimization=optimization,
        metric=HammingRetrieval(bits),
        bits=bits,
        **settings,
    )


def small_batch(size=10, multi_label=False, start=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 3, 16, 16, generator=generator)
    label = torch.randint(CLASSES, (size,), generator=generator)
    if multi_label:
        label = (torch.rand(size, CLASSES, generator=generator) < 0.5).float()
        label[0] = 0
    return {
        "image": image,
        "label": label,
        "index": torch.arange(start, start + size),
    }


def trained_loss(module, batch):
    """Return the loss of one batch in training mode, with gradients of all parameters."""
    module.train()
    loss = module.loss(module(batch), batch)["loss"]
    loss.backward()
    return loss.item()

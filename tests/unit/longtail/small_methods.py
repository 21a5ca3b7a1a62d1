"""A long-tail method of any class on a tiny backbone, four classes and random images, without Hydra."""

from functools import partial

import torch

from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant

COUNTS = (50, 20, 6, 2)


def small_method(method, experts=1, counts=COUNTS, **settings):
    torch.manual_seed(0)
    labels = LabelSpace(len(counts), tuple("abcdefghij"[: len(counts)]), tuple(counts), False, sum(counts))
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.1)
    options = {"experts": experts} if experts > 1 else {}
    return method(
        backbone=build_backbone("own", "tiny", False, image_size=16, width=4, **options),
        labels=labels,
        optimization=optimization,
        metric=ClassRecognition(bootstrap=0),
        **settings,
    )


def small_batch(size=8, views=1, seed=0, classes=4):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(views, size, 3, 16, 16, generator=generator)
    batch = {
        "image": images[0],
        "label": torch.randint(classes, (size,), generator=generator),
        "index": torch.arange(size),
    }
    return batch | ({"views": images} if views > 1 else {})


class FakeTrainer:
    """What a method asks a trainer for between steps."""

    world_size = 1
    global_rank = 0

    def __init__(self, epoch, max_epochs):
        self.current_epoch = epoch
        self.max_epochs = max_epochs


def at_epoch(module, epoch, max_epochs=200):
    module._trainer = FakeTrainer(epoch, max_epochs)
    return module


def one_step(module, batch, lr=0.1):
    """Take one step of gradient descent in training mode; return the losses before it."""
    module.train()
    losses = module.loss(module(batch), batch)
    losses["loss"].backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None
    return {name: value.item() for name, value in losses.items()}

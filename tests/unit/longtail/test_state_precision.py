"""Under trainer.precision=bf16-true every method trains, and what it remembers stays in float32."""

from functools import partial

import lightning as L
import pytest
import torch
from small_methods import small_batch, small_method
from torch.utils.data import DataLoader

from lit_modules.longtail.bcl import BCL
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.mislas import MiSLAS
from lit_modules.longtail.paco import PaCo
from lit_modules.longtail.ride import RIDE
from lit_modules.longtail.sade import SADE

METHODS = {
    "ce": CrossEntropy,
    "mislas": partial(MiSLAS, mixup_alpha=1.0),
    "paco": partial(PaCo, width=8, queue_size=16, momentum=0.9),
    "bcl": partial(BCL, width=8, classifier="cosine"),
    "ride": partial(RIDE, classifier="cosine"),
    "routers": partial(RIDE, classifier="cosine", stage=2),
    "sade": SADE,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_step_is_made_and_state_keeps_its_precision(name, precision):
    experts = 3 if name in ("ride", "routers", "sade") else 1
    module = small_method(METHODS[name], experts=experts)
    if name == "routers":
        module.started_from(tuple(one for one, _ in module.named_parameters()))
    dtype, state = {"bf16-true": (torch.bfloat16, torch.float32), "64-true": (torch.float64,) * 2}[precision]
    trainer = L.Trainer(
        max_steps=2, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([small_batch(8, views=2), small_batch(8, views=2, seed=1)], batch_size=None))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert next(module.backbone.parameters()).dtype == dtype
    assert next(module.classifier.parameters()).dtype == dtype
    own = [
        (key, buffer) for key, buffer in module.named_buffers() if not key.startswith(("backbone.", "key_backbone."))
    ]
    assert all(buffer.dtype == state for _, buffer in own if buffer.is_floating_point()), own


def test_the_keys_of_paco_move_in_half_precision():
    module = small_method(partial(PaCo, width=8, queue_size=16, momentum=0.999)).bfloat16()
    before = [parameter.clone() for parameter in module.key_backbone.parameters()]
    assert {parameter.dtype for parameter in before} == {torch.float32}
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            parameter.add_(0.01)
    module.train()(small_batch(8, views=2))
    moved = [(after - first).abs().max() for after, first in zip(module.key_backbone.parameters(), before, strict=True)]
    assert min(moved) > 0

"""Codes and classifiers are computed in float32 at least, whatever type the weights have."""

from functools import partial

import lightning as L
import pytest
import torch
from small_tasks import small_batch, small_task
from torch.utils.data import DataLoader

from lit_modules.hashing.adsh import ADSH
from lit_modules.hashing.bihalf import BiHalf
from lit_modules.hashing.classify import Classify
from lit_modules.hashing.csq import CSQ
from lit_modules.hashing.dpn import DPN
from lit_modules.hashing.dpsh import DPSH
from lit_modules.hashing.dsdh import DSDH
from lit_modules.hashing.greedyhash import GreedyHash
from lit_modules.hashing.mdsh import MDSH
from lit_modules.hashing.orthohash import OrthoHash
from lit_modules.precision import precise_linear

TASKS = {
    "greedyhash": GreedyHash,
    "greedyhash with a batch norm": partial(GreedyHash, pre_sign="bn"),
    "classify": Classify,
    "bihalf": BiHalf,
    "csq": CSQ,
    "dpn": DPN,
    "orthohash": OrthoHash,
    "dsdh": partial(DSDH, gather_batch=True),
    "adsh": partial(ADSH, gather_batch=True),
    "dpsh": partial(DPSH, gather_batch=True),
    "mdsh": partial(MDSH, gather_batch=True, pair_from_epoch=0),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    ("precision", "code"), [("bf16-true", torch.float32), ("16-true", torch.float32), ("64-true", torch.float64)]
)
def test_a_batch_trains_and_its_codes_are_precise(task, precision, code):
    seen = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((pl_module.hash_layer.weight.dtype, pl_module(batch)["h"].dtype, outputs["loss"].item()))

    module = small_task(task)
    batch = small_batch()
    trainer = L.Trainer(
        max_steps=1, precision=precision, accelerator="cpu", callbacks=[Look()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None))
    ((weight, h, loss),) = seen
    assert weight == {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}[precision]
    assert h == code
    assert torch.isfinite(torch.tensor(loss))


@pytest.mark.parametrize("bias", [True, False])
def test_a_half_precision_layer_is_multiplied_in_float32(bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(33, 5, bias=bias).to(torch.bfloat16)
    x = torch.randn(4, 33, dtype=torch.bfloat16)
    expected = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = precise_linear(x, layer)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_float32_layer_is_itself():
    layer = torch.nn.Linear(7, 3)
    x = torch.randn(4, 7)
    assert torch.equal(precise_linear(x, layer), layer(x))

"""One rank's non-finite loss or gradient stops both before the update, or leaves the update out on both."""

import json
import os
from datetime import timedelta

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.checkpoints import LastCheckpoint
from callbacks.finite_guard import FiniteGuard
from records.errors import UserError

RANKS, SAMPLES, BAD = 2, 12, 9
CASES = {
    "loss stop": ("loss", "stop"),
    "gradient stop": ("gradient", "stop"),
    "loss skip": ("loss", "skip"),
    "gradient skip": ("gradient", "skip"),
}


class Line(L.LightningModule):
    """Fit a line; in epoch 1 the batch of sample 9, on the second rank, has a NaN loss or an infinite gradient."""

    def __init__(self, poison):
        super().__init__()
        self.poison = poison
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.history = []

    def training_step(self, batch, batch_idx):
        loss = (self.weight * batch["x"] - 1).pow(2).mean()
        if self.current_epoch == 1 and BAD in batch["index"]:
            root_of_zero = torch.sqrt(self.weight - self.weight).sum()  # finite, with an infinite gradient
            return loss + root_of_zero if self.poison == "gradient" else loss * float("nan")
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.history.append(self.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self):
        samples = [{"x": torch.tensor(0.5 + i / 20), "index": torch.tensor(i)} for i in range(SAMPLES)]
        return DataLoader(samples[self.trainer.global_rank :: RANKS], batch_size=2)


def train(poison, on_nonfinite, folder):
    module = Line(poison)
    guard = FiniteGuard(str(folder), on_nonfinite)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=RANKS, strategy="ddp", callbacks=[guard, LastCheckpoint(str(folder))],
        plugins=[AtomicCheckpointIO()], logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    said = ""
    try:
        trainer.fit(module)
    except UserError as error:
        said = str(error)
    return {"history": module.history, "weight": module.weight.item(), "said": said, "skipped": guard.skipped}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    # Lightning takes a process group that exists, and starts no processes where the rank is given
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(RANKS)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    answers = {name: train(*case, folder / name) for name, case in CASES.items()}
    (folder / f"answers_{rank}.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return folder, [json.loads((folder / f"answers_{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_both_ranks_stop_before_the_update_and_keep_the_checkpoint(ranks, poison):
    folder, answers = ranks
    for answer in (one[f"{poison} stop"] for one in answers):
        assert f"the {poison} became infinite or NaN in epoch 1" in answer["said"]
        assert len(answer["history"]) == 5
        assert answer["weight"] == answer["history"][-1]
        assert answer["history"] == answers[0][f"{poison} stop"]["history"]
    checkpoint = AtomicCheckpointIO().load_checkpoint(folder / f"{poison} stop" / "last.ckpt")
    assert checkpoint["state_dict"]["weight"].item() == answers[0][f"{poison} stop"]["history"][2]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_both_ranks_leave_the_update_out_and_count_it(ranks, poison):
    for answer in (one[f"{poison} skip"] for one in ranks[1]):
        history = answer["history"]
        assert (answer["said"], answer["skipped"], len(history)) == ("", 1, 6)
        assert history[5] == history[4] != history[3]


@pytest.mark.parametrize(("poison", "samples"), [("loss", [9, 11]), ("gradient", [8, 10, 9, 11])])
def test_the_samples_of_the_ranks_behind_it_are_named(ranks, poison, samples):
    for action in ("stop", "skip"):
        written = json.loads((ranks[0] / f"{poison} {action}" / "nonfinite.json").read_text())
        assert (written["what"], written["samples"]) == (poison, samples)

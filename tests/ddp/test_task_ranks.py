"""Every kind of task on several ranks: it learns what one process learns, and judges to the last digit the same."""

import json
import os
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import OmegaConf

from launch.compose import compose_config
from modes import build, train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
from task_runs import (
    TINY_VIT,
    composed,
    every_kind,
    has_several_networks,
    has_text_encoder,
    is_fitted,
    missing_extra,
    one_task_of_each_kind,
    short_run,
)

# three processes at a time, for every kind of task
pytestmark = pytest.mark.timeout(900)

RANKS = 3
KINDS = one_task_of_each_kind()
TRAINED = {kind: task for kind, task in KINDS.items() if not is_fitted(task)}
HERE = [task for task in KINDS.values() if not missing_extra(task)]
WHOLE_BATCH = 24


def built(folder, overrides, world_size):
    """Return trainer, task and data of a configuration; the seed makes them the same on every rank."""
    ranks = [f"trainer.devices={world_size}", f"trainer.strategy={'ddp' if world_size > 1 else 'auto'}"]
    loggers = [f"logger.{name}=null" for name in composed(()).logger]
    quiet = [*loggers, "callbacks.progress=null", f"paths.run_dir='{folder}'"]
    config = compose_config([*overrides, *ranks, *quiet])
    settings = OmegaConf.to_container(config, resolve=True)
    torch.manual_seed(0)
    backbone = build.build_backbone(settings)
    data = build.build_data(settings, backbone)
    task = build.build_task(settings, backbone, data)
    return build.build_trainer(settings, data), task, data


def weights_after_training(name, folder, world_size):
    """Train two steps of 24 samples in all, in float64 and without dropout, which ranks draw apart; return weights."""
    model = [] if has_several_networks(name) or has_text_encoder(name) else TINY_VIT
    size = 16 if has_text_encoder(name) else 32
    overrides = short_run(
        name, *model, "optim=sgd", "trainer.precision=64-true", "optim.lr=1e-2", data__image_size=size,
        data__batch_size=WHOLE_BATCH // world_size, trainer__max_epochs=1, task__dropout=0.0,
    )  # fmt: skip
    trainer, task, data = built(folder, overrides, world_size)
    hold_batch_norms(task)
    trainer.fit(task, datamodule=data)
    assert trainer.world_size == world_size
    return task.state_dict()


def hold_batch_norms(task):
    """Keep batch norms in evaluation mode: in training they see the samples of their own rank alone."""
    for module in task.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def judge_one_by_one(task):
    """Let a task judge each sample by itself, from its pixels, so that outputs do not depend on how batches are cut."""
    test_step, encode = type(task).test_step, type(task).encode

    def pixels_as_features(batch):
        if "image" not in batch:
            return encode(task, batch)
        pixels = batch["image"][:, 0].flatten(1)
        chosen = torch.linspace(0, pixels.shape[1] - 1, task.backbone.num_features).long()
        return pixels[:, chosen].float() / 255

    def test_sample_by_sample(batch, *place):
        rows = range(len(batch["index"]))
        for one in [{key: value[[row]] for key, value in batch.items()} for row in rows] or [batch]:
            test_step(task, one, *place)

    task.encode, task.test_step = pixels_as_features, test_sample_by_sample


def metrics_of_test(name, folder, world_size, fitted):
    """Test an untrained task, or one as `fitted_state` left it, on all of its data; return every metric, exactly."""
    overrides = short_run(name, trainer__limit_test_batches="null", trainer__max_epochs=1, data__eval_batch_size=50)
    trainer, task, data = built(folder, overrides, world_size)
    if is_fitted(name):
        task.on_load_checkpoint(torch.load(fitted / f"{name}.pt", weights_only=True))
    judge_one_by_one(task)
    trainer.test(task, datamodule=data, verbose=False)
    return {metric: value.hex() for metric, value in task.exact_metrics.items()}


def keep_fitted_state(name, folder):
    """Fit a head once for all worlds: another process may round a fit's sums in another way."""
    trainer, task, data = built(folder, short_run(name, trainer__max_epochs=1), 1)
    trainer.fit(task, datamodule=data)
    state = {}
    task.on_save_checkpoint(state)
    torch.save(state, folder / f"{name}.pt")


def as_rank(rank, world_size, folder):
    # Lightning takes a process group that exists, and starts no processes where the rank is given
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world_size)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting_{world_size}", rank=rank, world_size=world_size,
        timeout=timedelta(seconds=120),
    )  # fmt: skip


def run_rank(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train.quieten_lightning()
    for world_size in (2, 3):
        if rank >= world_size:
            continue
        as_rank(rank, world_size, folder)
        metrics = {task: metrics_of_test(task, folder, world_size, folder) for task in HERE}
        (folder / f"metrics_{world_size}_{rank}.json").write_text(json.dumps(metrics))
        if world_size == 2:
            states = {task: weights_after_training(task, folder, world_size) for task in HERE if not is_fitted(task)}
            torch.save(states, folder / f"states_{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for task in filter(is_fitted, HERE):
        keep_fitted_state(task, folder)
    mp.spawn(run_rank, args=(folder,), nprocs=RANKS)
    return folder


@every_kind(KINDS)
def test_metrics_are_the_same_to_the_last_digit(task, ranks, tmp_path):
    alone = metrics_of_test(task, tmp_path, 1, ranks)
    assert alone
    for world_size in (2, 3):
        for rank in range(world_size):
            assert json.loads((ranks / f"metrics_{world_size}_{rank}.json").read_text())[task] == alone, world_size


@every_kind(TRAINED)
def test_two_ranks_learn_what_one_process_with_the_whole_batch_learns(task, ranks, tmp_path):
    alone = weights_after_training(task, tmp_path, 1)
    first, second = (torch.load(ranks / f"states_{rank}.pt", weights_only=True)[task] for rank in range(2))
    assert alone.keys() == first.keys()
    for key, expected in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], expected, rtol=1e-7, atol=1e-9, msg=partial("{}: {}".format, key))

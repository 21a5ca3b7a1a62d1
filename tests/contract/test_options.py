"""What a user may switch on for any run, on one task of every kind there is in conf/task."""

import math

import pytest
import torch
import yaml
from lightning.pytorch.plugins.precision import Precision
from task_runs import (
    EPOCHS,
    SHORT,
    TINY_VIT,
    assert_equal_runs,
    assert_same_tensors,
    checkpoint,
    every_kind,
    has_several_networks,
    has_text_encoder,
    is_fitted,
    one_task_of_each_kind,
    resume,
    run_and_killed_run,
    short_run,
    start,
)

from lit_modules.backbones.backbone import Backbone
from records.result import read_result

on_every_kind = every_kind(one_task_of_each_kind())


def finite_metrics(directory):
    metrics = read_result(directory).metrics
    return bool(metrics) and any(math.isfinite(value) for value in metrics.values())


@on_every_kind
def test_moving_average_accumulation_and_clipping_resume_exactly(task, tmp_path, monkeypatch):
    norms = []
    clip = Precision.clip_grad_by_norm

    def clip_and_measure(self, optimizer, clip_val):
        clip(self, optimizer, clip_val)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(Precision, "clip_grad_by_norm", clip_and_measure)
    options = ["callbacks=ema", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1e-3"]
    straight, killed = run_and_killed_run(monkeypatch, tmp_path, short_run(task, *options))
    assert_equal_runs(straight, killed)
    saved = checkpoint(straight)
    assert saved["global_step"] == EPOCHS * SHORT["trainer.limit_train_batches"] / 2
    assert "current_model_state" in saved, "the average is saved in place of the weights, and the weights beside it"
    assert len(norms) == EPOCHS + 1
    assert max(norms) <= 1.001e-3


@on_every_kind
def test_bfloat16_keeps_weights_and_metrics_whole(task, tmp_path, monkeypatch):
    types = set()
    forward = Backbone.forward

    def forward_and_look(self, *arguments):
        features = forward(self, *arguments)
        types.add(features.dtype)
        return features

    monkeypatch.setattr(Backbone, "forward", forward_and_look)
    assert start(tmp_path, short_run(task, "trainer.precision=bf16-mixed")) == 0
    assert finite_metrics(tmp_path)
    assert types == (set() if is_fitted(task) else {torch.bfloat16})
    kept = [tensor for tensor in checkpoint(tmp_path)["state_dict"].values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in kept} <= {torch.float32, torch.float64}


@on_every_kind
def test_gradient_checkpointing_changes_no_weight(task, tmp_path, monkeypatch):
    if has_several_networks(task):
        assert start(tmp_path, short_run(task, "model.gradient_checkpointing=true")) == 1
        assert "cannot recompute its activations" in read_result(tmp_path).reason
        return
    if has_text_encoder(task):
        overrides = short_run(task, trainer__max_epochs=1)
        for name in ("false", "true"):
            assert start(tmp_path / name, [*overrides, f"model.gradient_checkpointing={name}"]) == 0
        assert_same_tensors(checkpoint(tmp_path / "false")["state_dict"], checkpoint(tmp_path / "true")["state_dict"])
        return
    blocks = []
    monkeypatch.setattr("timm.models.vision_transformer.checkpoint_seq", counting(blocks))
    overrides = short_run(task, *TINY_VIT, data__image_size=32, trainer__max_epochs=1)
    for name in ("false", "true"):
        assert start(tmp_path / name, [*overrides, f"model.gradient_checkpointing={name}"]) == 0
        assert bool(blocks) == (name == "true" and not is_fitted(task))
    assert_same_tensors(checkpoint(tmp_path / "false")["state_dict"], checkpoint(tmp_path / "true")["state_dict"])


def counting(calls):
    from timm.models import checkpoint_seq

    def checkpoint_and_count(*arguments, **settings):
        calls.append(1)
        return checkpoint_seq(*arguments, **settings)

    return checkpoint_and_count


@on_every_kind
def test_the_batch_size_that_was_found_stays_when_a_run_resumes(task, tmp_path, monkeypatch):
    search = ["callbacks=batch_size_finder", "+callbacks.batch_size_finder.init_val=16"]
    overrides = short_run(task, *search, "callbacks.batch_size_finder.max_trials=2")
    straight, killed = run_and_killed_run(monkeypatch, tmp_path, overrides)
    found = yaml.safe_load((straight / "config.yaml").read_text())["data"]["batch_size"]
    assert found == 32
    assert yaml.safe_load((killed / "config.yaml").read_text())["data"]["batch_size"] == found
    assert_equal_runs(straight, killed)


def test_the_schedule_follows_the_batch_size_that_was_found(tmp_path):
    overrides = short_run(
        "classify", "callbacks=batch_size_finder", "callbacks.batch_size_finder.max_trials=6",
        data__batch_size=4, trainer__limit_train_batches="null",
    )  # fmt: skip
    assert start(tmp_path, overrides) == 0
    saved = checkpoint(tmp_path)
    assert saved["global_step"] == EPOCHS * math.ceil(1294 / 64)
    (settings,) = {group["lr"] / group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]}
    assert settings < 1e-3, "the cosine has come to its end"


@on_every_kind
def test_one_batch_shows_whether_a_run_works_at_all(task, tmp_path):
    assert start(tmp_path, short_run(task, "debug=one_batch")) == 0
    assert read_result(tmp_path).status == "completed"
    assert not (tmp_path / "checkpoints").exists()


@on_every_kind
@pytest.mark.slow
def test_a_compiled_backbone_resumes_exactly(task, tmp_path, monkeypatch):
    straight, killed = run_and_killed_run(monkeypatch, tmp_path, short_run(task, "trainer.compile=true"))
    assert_equal_runs(straight, killed)


@on_every_kind
@pytest.mark.gpu
def test_half_precision_trains_on_a_gpu(task, tmp_path):
    overrides = short_run(task, "trainer.precision=16-mixed", trainer__accelerator="gpu")
    assert start(tmp_path, overrides) == 0
    assert finite_metrics(tmp_path)


@pytest.mark.parametrize(
    "options",
    [["data.num_workers=2"], ["data.val_fraction=0"], ["data.fold=1"], ["trainer.precision=bf16-mixed"]],
    ids=lambda options: options[0],
)
def test_other_options_resume_exactly(options, tmp_path, monkeypatch):
    assert_equal_runs(*run_and_killed_run(monkeypatch, tmp_path, short_run("greedyhash", *options)))


def test_a_run_is_interrupted_and_fails_with_what_it_saved(tmp_path, monkeypatch):
    from callbacks.epoch_seed import EpochSeed

    seed_epoch = EpochSeed.on_train_epoch_start
    faults = [KeyboardInterrupt(), RuntimeError("a fault")]

    def stop(self, trainer, pl_module):
        if trainer.current_epoch == 1 and faults:
            raise faults.pop(0)
        seed_epoch(self, trainer, pl_module)

    overrides = short_run("greedyhash")
    assert start(tmp_path / "straight", overrides) == 0
    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", stop)
    resumed = tmp_path / "resumed"
    assert start(resumed, overrides) == 130
    assert read_result(resumed).status == "interrupted"
    assert resume(resumed) == 1
    assert read_result(resumed).reason == "RuntimeError: a fault"
    assert resume(resumed) == 0
    assert_equal_runs(tmp_path / "straight", resumed)

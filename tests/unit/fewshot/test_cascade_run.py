"""`experiment=jittor_cascade_finetuned` as a command runs it: digits in the contest's form, and small encoders."""

import json

import pytest
import torch
from digit_contest import write_contest
from omegaconf import OmegaConf
from tiny_clip import register

from launch.compose import compose_config
from launch.stored import stored_config
from modes import test as testing
from modes import train
from modes.encoders import _trained
from records.result import read_result
from records.run_directory import open_run
from records.submission import read_submission

QUICK = [
    "trainer.accelerator=cpu", "data.num_workers=0", "metric.bootstrap=0",
    "callbacks.recognition_pictures=null",
]  # fmt: skip
SMALL_CLIP = ["model.architecture=tiny-clip", "model.weights=null", "model.pretrained=false", "model.image_size=16"]


def run(directory, *overrides):
    given = [*QUICK, *overrides, f"paths.run_dir='{directory}'"]
    return train.run(compose_config(given), given)


def cascade(folder, *overrides):
    small = [*SMALL_CLIP, *(f"task.encoders.rn101.{one.removeprefix('model.')}" for one in SMALL_CLIP)]
    dogs = [f"task.encoders.dogs.run='{folder / 'dogs'}'"]
    data = [f"data.root='{folder / 'data'}'", f"data.bank_dir='{folder / 'bank'}'", "data.test_fraction=0.5"]
    hidden = ["data.hold_unseen=[Stanford-Cars_]"]
    return ["experiment=jittor_cascade_finetuned", *small, *dogs, *data, *hidden, *overrides]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The expert's run, and the cascade's."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        write_contest(folder / "data", per_class=30, test_images=20)
        expert = [
            "task=finetune", "data=jittor_images", f"data.root='{folder / 'data'}'", 'data.only=["Thu-dog_"]',
            "data.test_fraction=0.5", "data.augment.horizontal_flip=false", "model=tiny", "model.width=8",
            "model.image_size=16", "data.resize=20", "trainer.max_epochs=25", "data.batch_size=4", "optim.lr=1e-2",
        ]  # fmt: skip
        assert run(folder / "dogs", *expert) == 0
        assert run(folder / "cascade", *cascade(folder)) == 0
        yield folder


def test_one_command_goes_from_images_to_the_answer(runs):
    result = read_result(runs / "cascade" / "result.json")
    metrics = result.metrics
    assert metrics["test/reached_zero_shot"] == 7 * 15 + 3 * 30
    answered = [metrics[f"test/answered_{stage}"] for stage in ("zero_shot", "few_shot", "expert")]
    assert sum(answered) == metrics["test/reached_zero_shot"]
    assert {"test/seen", "test/unseen", "test/accuracy"} <= set(metrics)
    assert result.protocol["transductive"].startswith("yes")
    assert (
        result.protocol["cascade"]
        == "zero_shot (all) -> few_shot if seen; few_shot (seen) -> expert if expert; expert (expert)"
    )
    names = [f"image_{number}.png" for number in range(20)]
    assert len(read_submission(runs / "cascade" / "submission" / "result.zip", names, 10)) == 20


def test_guesses_are_shown_beside_images(runs):
    assert (runs / "cascade" / "plots" / "guesses.png").is_file()


def test_parameters_are_those_of_the_encoders_once(runs):
    found = read_result(runs / "cascade" / "result.json").parameters
    clip = _clip_size(runs)
    expert = read_result(runs / "dogs" / "result.json").parameters["total"]
    heads = 2 * 10 * 16 + 2 * (7 * 16 + 7 + 7)
    assert found["loaded"] == 2 * clip + expert + heads
    assert found["in expert"] == expert
    assert found["used"] == 4 * clip + expert + heads


def _clip_size(runs):
    from lit_modules.backbones.backbone import build_backbone

    backbone = build_backbone("open_clip", "tiny-clip", False, train_text=True)
    return sum(one.numel() for one in backbone.parameters())


def test_the_trained_expert_is_asked(runs):
    metrics = read_result(runs / "cascade" / "result.json").metrics
    assert metrics["test/reached_expert"] == metrics["test/answered_expert"] > 0
    dogs = read_result(runs / "dogs" / "result.json").metrics
    assert dogs["test/accuracy"] > 0.6
    state = torch.load(runs / "cascade" / "checkpoints" / "last.ckpt", weights_only=True)["few_shot_head"]
    assert int(state["width:dogs"]) == 3


def test_the_expert_is_opened_without_its_data(runs, monkeypatch):
    def read_nothing(*_):
        raise AssertionError("the data of the expert's run were read")

    monkeypatch.setattr("modes.build.build_data", read_nothing)
    encoder = _trained("dogs", str(runs / "dogs"), "cpu")
    assert len(encoder.class_names) == 3
    assert all(name.startswith("Thu-dog_") for name in encoder.class_names)


def test_the_trained_expert_sees_images_as_it_was_judged_on_them(runs):
    banks = list((runs / "bank").glob("*tiny-classifier*/bank.json"))
    transforms = {json.loads(bank.read_text())["transform"] for bank in banks}
    assert transforms == {"short side 20 bicubic, centre crop of 16"}


def test_an_expert_that_was_trained_on_images_of_the_test_part_is_refused(runs, tmp_path):
    overrides = cascade(runs, "seed=1", f"data.bank_dir='{tmp_path / 'bank'}'")
    assert run(tmp_path / "run", *overrides) == 1
    reason = read_result(tmp_path / "run" / "result.json").reason
    assert "images of this run's test part" in reason
    assert "data.split_seed (0 there, 1 here)" in reason
    assert not (tmp_path / "bank").exists()


def test_the_share_of_wrong_images_is_no_loss(runs):
    columns = (runs / "cascade" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/error" in columns
    assert "train/loss" not in columns


def test_it_is_tested_again_without_a_fit(runs):
    config, problems = stored_config(open_run(str(runs / "cascade")), ("mode=test", f"run='{runs / 'cascade'}'"))
    assert not problems
    assert testing.run(config, ["mode=test"]) == 0
    (again,) = (runs / "cascade" / "evaluations").iterdir()
    before = read_result(runs / "cascade" / "result.json").metrics
    after = read_result(again / "result.json").metrics
    assert {name: before[name] for name in after} == after


def test_too_many_parameters_end_the_run_before_anything_is_encoded(runs, tmp_path):
    overrides = cascade(runs, "task.parameter_limit=1000", f"data.bank_dir='{tmp_path / 'bank'}'")
    assert run(tmp_path / "run", *overrides) == 1
    assert "parameter_limit=1,000: the encoders have" in read_result(tmp_path / "run" / "result.json").reason
    assert not (tmp_path / "bank").exists()


def test_the_experts_run_has_to_be_named(runs, tmp_path):
    assert run(tmp_path / "run", *cascade(runs, "task.encoders.dogs.run=null")) == 1
    assert "task.encoders.dogs.run: name the directory" in read_result(tmp_path / "run" / "result.json").reason


def test_the_finetuned_experiment_is_the_other_one_but_for_the_expert():
    plain, finetuned = (
        OmegaConf.to_container(compose_config([f"experiment={name}"]), resolve=False)
        for name in ("jittor_cascade", "jittor_cascade_finetuned")
    )
    expert = finetuned["task"]["graph"].pop("expert")
    plain["task"]["graph"].pop("expert")
    assert finetuned["task"]["encoders"].pop("convnextv2") is None
    assert finetuned["task"]["encoders"].pop("dogs") == {"run": None}
    plain["task"]["encoders"].pop("convnextv2")
    assert finetuned["task"] == plain["task"]
    assert {key: finetuned[key] for key in ("data", "model", "callbacks")} == {
        key: plain[key] for key in ("data", "model", "callbacks")
    }
    assert expert["encoders"] == {"model": None, "convnextv2": None, "dogs": 1.0}


def test_an_expert_of_other_classes_is_refused(runs, tmp_path):
    overrides = cascade(runs, "task.groups.expert=[Animal_]")
    assert run(tmp_path / "run", *overrides) == 1
    assert "was trained on 3 classes (Thu-dog_four" in read_result(tmp_path / "run" / "result.json").reason


def test_features_of_one_encoder_have_no_further_ones(tmp_path):
    assert run(tmp_path / "run", "task=cascade", f"+task.encoders.dogs.run='{tmp_path}'") == 1
    assert "features already" in read_result(tmp_path / "run" / "result.json").reason


def test_no_limit_is_held_against_features_whose_encoder_is_not_known(tmp_path):
    assert run(tmp_path / "run", "task=cascade", "task.parameter_limit=1") == 1
    assert "task.parameter_limit=1: these data are features" in read_result(tmp_path / "run" / "result.json").reason


def test_a_limit_holds_for_one_encoder_too(runs, tmp_path):
    small = [*SMALL_CLIP, f"data.root='{runs / 'data'}'", f"data.bank_dir='{tmp_path / 'bank'}'"]
    overrides = ["task=cascade", "data=jittor", "model=clip_vit_b32", "task.groups.expert=[Thu-dog_]", *small]
    assert run(tmp_path / "run", *overrides, "task.parameter_limit=1000") == 1
    assert "the encoders have" in read_result(tmp_path / "run" / "result.json").reason
    assert run(tmp_path / "again", *overrides) == 0
    assert read_result(tmp_path / "again" / "result.json").parameters["loaded"] > 1000

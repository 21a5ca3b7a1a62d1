"""A cascade from end to end on digits in the contest's form, with encoders without weights; and its parts alone."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
from digit_contest import CLASS_NAMES, DigitEncoder, write_contest
from problems import problem

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.submission import Submission
from datamodules.encoded.joined_features import JoinedFeatures
from datamodules.jittor import Jittor
from launch.compose import compose_config
from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.cascade import Cascade, CascadeModule, Source
from lit_modules.fewshot.cascade_graph import class_groups, read_graph
from lit_modules.fewshot.clap import CLAP
from lit_modules.fewshot.encoder_parameters import EncoderSize
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.lpp import LPP
from lit_modules.fewshot.tip_adapter_f import TipAdapterF
from lit_modules.fewshot.zeroshot import ZeroShot
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant
from records.errors import UserError
from records.submission import read_submission

CONTEST_GRAPH = {
    "zero_shot": {
        "classes": "all",
        "encoders": {"model": 0.7, "pixels": 0.3},
        "head": InMaP(),
        "routes": [{"to": "few_shot", "when": "seen"}],
    },
    "few_shot": {
        "classes": "seen",
        "encoders": {"model": 0.5, "pixels": 0.5},
        "head": LPP(),
        "routes": [{"to": "dogs", "when": "dogs"}],
    },
    "dogs": {"classes": "dogs", "encoders": {"model": 1.0}, "head": GDA()},
}


def contest(root, bank):
    encoders = {"model": DigitEncoder("gradients"), "pixels": DigitEncoder("pixels")}
    parts = {
        name: Jittor(root=root, hold_unseen=["Stanford-Cars_"], test_fraction=0.5, shots=4, seed=0, bank_dir=bank)
        for name in encoders
    }
    for name, part in parts.items():
        part.attach_encoder(encoders[name])
    return JoinedFeatures(parts), encoders


def cascade_module(data, graph=None, **settings):
    counts = tuple(data.class_counts.tolist())
    labels = LabelSpace(data.num_classes, data.class_names, counts, False, data.sizes["train"])
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.0)
    backbone = build_backbone("own", "tiny", False, image_size=8, width=4)
    given = {"entry": "zero_shot", "groups": {"dogs": ["Thu-dog_"]}, **settings}
    graph = CONTEST_GRAPH if graph is None else graph
    return CascadeModule(backbone, labels, optimization, ClassRecognition(bootstrap=0), copy.deepcopy(graph), **given)


def trainer(directory, *callbacks):
    return L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        default_root_dir=directory,
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@pytest.fixture(scope="module")
def contest_run(tmp_path_factory):
    """A whole run on the contest: data, task, folder, labels of the test folder."""
    folder = tmp_path_factory.mktemp("contest")
    answers = write_contest(folder / "data")
    data, encoders = contest(folder / "data", folder / "bank")
    data.setup()
    sizes = {"model": EncoderSize(1000, 10), "pixels": EncoderSize(500)}
    task = cascade_module(data, encoders=sizes, parameter_limit=100_000)
    runner = trainer(folder, Submission(str(folder)))
    runner.fit(task, datamodule=data)
    runner.save_checkpoint(folder / "last.ckpt")
    runner.test(task, datamodule=data, verbose=False)
    return data, task, folder, answers, encoders


def test_every_image_is_encoded_once_by_each_encoder(contest_run):
    data, _, _, _, encoders = contest_run
    assert [one.encoded for one in encoders.values()] == [10 * 40 + 60] * 2
    assert data.support_features.shape == (28, 128 + 64)
    assert data.sizes == {"train": 28, "val": 28, "test": 7 * 20 + 3 * 40}
    assert data.seen_classes.tolist() == [True] * 7 + [False] * 3


def test_the_stages_account_for_every_image(contest_run):
    _, task, _, _, _ = contest_run
    found = {name.removeprefix("test/"): value for name, value in task.exact_metrics.items() if "test/" in name}
    assert found["reached_zero_shot"] == 260
    assert found["answered_zero_shot"] + found["answered_few_shot"] + found["answered_dogs"] == 260
    assert found["reached_few_shot"] == 260 - found["answered_zero_shot"]
    assert found["reached_dogs"] == found["answered_dogs"]
    right = sum(
        found[f"answered_{name}"] * found.get(f"accuracy_answered_{name}", 0)
        for name in ("zero_shot", "few_shot", "dogs")
    )
    assert right / 260 == pytest.approx(found["accuracy"])
    # drawn digits and four shots know these digits; chance is 0.1
    assert found["seen"] > 0.7
    assert found["unseen"] > 0.4
    assert found["accuracy"] > found["accuracy_reached_zero_shot"] - 0.05


def test_the_answer_of_the_contest_is_written(contest_run):
    _, _, folder, answers, _ = contest_run
    names = [f"image_{number}.png" for number in range(60)]
    predicted = read_submission(folder / "submission" / "result.zip", names, 10)
    assert predicted == read_submission(folder / "submission" / "result.txt", names, 10)
    right = sum(predicted[name][0] == label for name, label in zip(names, answers, strict=True))
    top_five = sum(label in predicted[name] for name, label in zip(names, answers, strict=True))
    assert right > 0.5 * 60
    assert top_five > right


def test_parameters_are_counted_by_tower_and_head(contest_run):
    _, task, _, _, _ = contest_run
    report = task.parameter_report
    heads = report["loaded"] - 1510
    assert heads > 2 * 10 * 128
    assert report["used"] == report["in zero_shot"] + report["in few_shot"] + report["in dogs"]
    assert report["used"] == 3 * 1010 + 2 * 500 + heads, "GDA mixes in the text too"
    task.parameter_limit = 1510 + heads - 1
    with pytest.raises(UserError, match="heads included"):
        task._refuse_too_many()


def test_a_fitted_cascade_is_tested_again_from_its_checkpoint(contest_run):
    data, task, folder, _, _ = contest_run
    again = cascade_module(data)
    trainer(folder).test(again, datamodule=data, ckpt_path=folder / "last.ckpt", weights_only=True, verbose=False)
    for name in ("accuracy", "seen", "unseen", "answered_dogs"):
        assert again.exact_metrics[f"test/{name}"] == task.exact_metrics[f"test/{name}"]
    assert again.evaluation_protocol["cascade"].startswith("zero_shot (all) -> few_shot if seen")
    assert again.transductive


def plain_graph(**heads):
    return {
        "first": {"encoders": {"model": 1}, "head": heads["first"], "routes": [{"to": "second", "when": "seen"}]},
        "second": {"classes": "seen", "encoders": {"model": 1}, "head": heads["second"]},
    }


def plain_cascade(one, **heads):
    counts = torch.bincount(one.labels, minlength=8).tolist()
    groups = class_groups(tuple("abcdefgh"), counts, {})
    graph = read_graph(plain_graph(**heads), list(groups), "first")
    return Cascade(graph, heads, groups, 8)


def seen_only(one):
    """The problem without the support images of its last two classes."""
    kept = one.labels < 6
    return one.__class__(**{**vars(one), "support": one.support[kept], "labels": one.labels[kept]})


def test_each_stage_gives_what_its_head_alone_gives():
    one = seen_only(problem())
    cascade = plain_cascade(one, first=ZeroShot(), second=GDA())
    source = Source(one.support, one.text, one.test, one.validation)
    cascade.fit({"model": source}, one.labels, one.validation_labels)
    trace = cascade.trace(one.test)
    zero, few = ZeroShot(), GDA()
    zero.fit(None, None, one.text)
    inside = one.validation_labels < 6
    few.fit(one.support, one.labels, one.text[:6], None, (one.validation[inside], one.validation_labels[inside]))
    for row, feature in enumerate(one.test):
        guess = int(zero.predict(feature[None]).argmax())
        assert trace.guesses[0, row] == guess
        if guess >= 6:
            assert trace.answered[row] == 0
            assert trace.guesses[1, row] == -1
        else:
            assert trace.answered[row] == 1
            guess = int(few.predict(feature[None]).argmax())
        assert int(trace.logits[row].argmax()) == guess


def test_new_unlabelled_images_change_only_what_looks_at_them():
    one = seen_only(problem())
    cascade = plain_cascade(one, first=InMaP(), second=GDA())
    source = Source(one.support, one.text, one.test, None)
    cascade.fit({"model": source}, one.labels)
    fewer = Source(one.support, one.text, one.test[:50], None)
    other = cascade.adapted({"model": fewer}, one.labels, None)
    before, after = cascade.state, other.state
    assert not torch.equal(before["first:model:proxies"], after["first:model:proxies"])
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("second:"))
    fitted = plain_cascade(one, first=InMaP(), second=GDA())
    fitted.fit({"model": fewer}, one.labels)
    assert torch.equal(fitted.predict(one.test), other.predict(one.test))


def test_parts_that_drew_different_images_are_not_joined(contest_run, tmp_path):
    root = contest_run[2] / "data"
    encoders = [DigitEncoder("gradients"), DigitEncoder("pixels")]
    parts = {}
    for seed, encoder in enumerate(encoders):
        parts[encoder.name] = Jittor(root=root, shots=1, seed=0, split_seed=seed, bank_dir=tmp_path)
        parts[encoder.name].attach_encoder(encoder)
    with pytest.raises(UserError, match="different images"):
        JoinedFeatures(parts).setup()


def test_what_cannot_work_is_refused():
    one = seen_only(problem())
    with pytest.raises(UserError, match=r"second\.head is transductive"):
        plain_cascade(one, first=ZeroShot(), second=InMaP())
    groups = class_groups(tuple("ab"), (1, 1), {})
    graph = read_graph({"x": {"classes": "unseen", "encoders": {"model": 1}}}, list(groups), "x")
    with pytest.raises(UserError, match="no class of this group"):
        Cascade(graph, {"x": ZeroShot()}, groups, 2)
    cascade = plain_cascade(one, first=ZeroShot(), second=GDA())
    with pytest.raises(RuntimeError, match="before fit"):
        cascade.predict(one.test)
    with pytest.raises(UserError, match="names model, which is none of vit"):
        cascade.fit({"vit": Source(one.support, one.text, None, None)}, one.labels)
    with pytest.raises(UserError, match=r"task\.graph\.first\.head on the features of model: .*text embedding"):
        cascade.fit({"model": Source(one.support, None, None, None)}, one.labels)
    cascade.fit({"model": Source(one.support, one.text, None, None)}, one.labels)
    with pytest.raises(UserError, match="features are 23 wide; the cascade was fitted on model 24"):
        cascade.predict(one.test[:, 1:])


def test_no_head_of_a_cascade_is_shown_the_labels_of_the_test_part():
    with pytest.raises(UserError, match=r"task\.graph\.second\.head\.selection=test_leak: .*take validation or last"):
        plain_cascade(seen_only(problem()), first=ZeroShot(), second=TipAdapterF(selection="test_leak"))


def test_heads_that_shuffle_take_the_seed_of_the_cascade_or_their_own(contest_run):
    def seeds(seed, own):
        graph = {**CONTEST_GRAPH, "dogs": {**CONTEST_GRAPH["dogs"], "head": CLAP(seed=own)}}
        return cascade_module(contest_run[0], graph, seed=seed).classifier.heads["dogs:model"].seed

    assert seeds(7, None) == 7
    assert seeds(7, 3) == 3
    assert compose_config(["task=cascade", "seed=5"]).task.seed == 5


def test_a_head_s_seed_decides_on_its_order():
    one = problem(spread=0.5)
    weights = [one.fit(CLAP(epochs=3, batch_size=4, seed=seed)).state["weight"] for seed in (None, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_classifier_of_other_classes_is_refused(contest_run):
    data = contest_run[0]
    sizes = {"model": EncoderSize(1, class_names=CLASS_NAMES[:3]), "pixels": EncoderSize(1)}
    with pytest.raises(UserError, match=r"trained on 3 classes .* judges 10"):
        cascade_module(data, encoders=sizes)


def test_a_submission_is_refused_before_the_run(contest_run, tmp_path):
    data, task, *_ = contest_run
    with pytest.raises(UserError, match="TestSetA has no images"):
        Submission(str(tmp_path), "TestSetA").setup(trainer_of(data), task, "fit")
    with pytest.raises(UserError, match="1 to 10"):
        Submission(str(tmp_path), "TestSetB", 11).setup(trainer_of(data), task, "fit")
    with pytest.raises(UserError, match="data=jittor and task=cascade"):
        Submission(str(tmp_path)).setup(trainer_of(object()), task, "fit")


def trainer_of(data):
    return type("Trainer", (), {"datamodule": data})()

"""A classifier that `init_from` loads: its kind and scale are the task's own, and the factors learned with it count."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml

from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.longtail.ce import CrossEntropy
from lit_modules.longtail.gml import GML
from lit_modules.longtail.ldam import LDAM
from lit_modules.longtail.lws import LearnableWeightScaling
from lit_modules.longtail.mislas import MiSLAS
from lit_modules.longtail.tau_norm import TauNormalisation
from lit_modules.metrics.per_class import ClassRecognition
from modes.initial import apply_initial_weights
from records.errors import UserError
from records.notices import RunWarning

SCALES = torch.tensor([0.5, 2.0, 1.5, 0.8])


def task_of(method, seed=0, **settings):
    torch.manual_seed(seed)
    labels = LabelSpace(4, tuple("abcd"), (9, 5, 3, 1), False, 18)
    return method(
        backbone=build_backbone("own", "tiny", False, image_size=16, width=4),
        labels=labels,
        optimization=SimpleNamespace(),
        metric=ClassRecognition(bootstrap=0),
        **settings,
    ).eval()


def saved(task, directory, **settings):
    """Write a run's checkpoint, and its configuration where settings of the task are given."""
    (directory / "checkpoints").mkdir()
    torch.save({"state_dict": task.state_dict()}, directory / "checkpoints" / "last.ckpt")
    if settings:
        (directory / "config.yaml").write_text(yaml.safe_dump({"task": settings}))
    return directory


def start(task, run, freeze="backbone", keys=None, **settings):
    """Start a task, whose settings are given, from a run."""
    apply_initial_weights(
        {"init_from": str(run), "init_parts": "all", "init_keys": keys or {}, "freeze": freeze, "task": settings},
        task,
        data=None,
        is_resumed=False,
    )
    return task.eval()


def batch_of(size=6):
    images = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": images, "label": torch.arange(size) % 4, "index": torch.arange(size)}


def scaled(method, **settings):
    """Return a task in its second stage whose factors have been learned."""
    task = task_of(partial(method, stage=2), seed=1, **settings)
    with torch.no_grad():
        task.class_scale.copy_(SCALES)
        if settings.get("classifier") != "cosine":
            task.classifier.bias.uniform_(-1, 1)
    return task


@pytest.mark.parametrize("source", [MiSLAS, LearnableWeightScaling])
@pytest.mark.parametrize("method", [GML, CrossEntropy, partial(CrossEntropy, reinitialise=True)])
def test_the_old_classifier_has_the_factors_of_the_run(source, method, tmp_path, recwarn):
    trained = scaled(source)
    run = saved(trained, tmp_path, classifier="linear", scale=30.0)
    fresh = task_of(method, seed=2).classifier.weight.clone()
    task = start(task_of(method, seed=2), run, classifier="linear", scale=30.0)
    batch = batch_of()
    wanted, found = trained(batch)["logits"], task(batch)
    torch.testing.assert_close(found["old_logits"], wanted)
    if isinstance(method, partial):
        assert torch.equal(task.classifier.weight, fresh)
    else:
        torch.testing.assert_close(found["logits"], wanted)
    assert "class_scale" in task.backbone.pretrained.source
    assert "not used" not in task.backbone.pretrained.source
    assert not [one for one in recwarn if issubclass(one.category, RunWarning)]


def test_methods_without_an_old_classifier_go_on_from_the_factors_too(tmp_path):
    trained = scaled(MiSLAS)
    run = saved(trained, tmp_path, classifier="linear", scale=30.0)
    for task in (task_of(partial(MiSLAS, stage=1)), task_of(partial(MiSLAS, stage=2))):
        start(task, run, freeze="none", classifier="linear", scale=30.0)
        torch.testing.assert_close(task(batch_of())["logits"], trained(batch_of())["logits"])
    assert torch.equal(task.class_scale, SCALES)
    tau = start(task_of(partial(TauNormalisation, tau=0.0)), run, freeze="all", classifier="linear")
    torch.testing.assert_close(tau(batch_of())["old_logits"], trained(batch_of())["logits"])


def test_lws_goes_on_from_lws_and_judges_it_as_it_was(tmp_path):
    trained = scaled(LearnableWeightScaling)
    run = saved(trained, tmp_path, classifier="linear", scale=30.0)
    task = start(task_of(partial(LearnableWeightScaling, stage=2), seed=2), run, classifier="linear", scale=30.0)
    found, wanted = task(batch_of()), trained(batch_of())["logits"]
    torch.testing.assert_close(found["old_logits"], wanted)
    torch.testing.assert_close(found["logits"], wanted)
    plain = trained.classifier(trained(batch_of())["features"])
    torch.testing.assert_close(task.classifier(found["features"]), plain)


def test_factors_of_other_code_are_found_by_their_name(tmp_path):
    trained = scaled(MiSLAS)
    state = {name.replace("class_scale", "learned_norm"): tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    task = task_of(GML, seed=2)
    start(task, tmp_path / "other.pth", keys={"learned_norm": "class_scale"}, classifier="linear", scale=30.0)
    torch.testing.assert_close(task(batch_of())["old_logits"], trained(batch_of())["logits"])


def test_a_cosine_classifier_takes_no_factors(tmp_path):
    run = saved(scaled(MiSLAS, classifier="cosine"), tmp_path, classifier="cosine", scale=30.0)
    task = task_of(GML, classifier="cosine")
    with pytest.warns(RunWarning, match=r"class_scale.*task\.classifier=cosine.*nothing is reported of before"):
        start(task, run, classifier="cosine", scale=30.0)
    assert not task.has_old_classifier
    assert "not used: class_scale" in task.backbone.pretrained.source


@pytest.mark.parametrize(
    ("theirs", "own", "said"),
    [
        (
            ("cosine", 30.0),
            ("linear", 30.0),
            r"cosine with scale 30\.0 .* linear,.*task\.classifier=cosine task\.scale=30",
        ),
        (("linear", 30.0), ("cosine", 30.0), r"linear and .* cosine with scale 30\.0,.*set task\.classifier=linear"),
        (("cosine", 30.0), ("cosine", 16.0), r"scale 30\.0 and .*scale 16\.0,.*task\.classifier=cosine task\.scale=30"),
    ],
)
def test_another_kind_or_scale_is_said_and_not_judged_as_it_is(theirs, own, said, tmp_path):
    source, settings = ({"classifier": kind, "scale": scale} for kind, scale in (theirs, own))
    run = saved(task_of(CrossEntropy, seed=1, **source), tmp_path, **source)
    with pytest.warns(RunWarning, match=rf"init_from=.*{said}.*init_parts=backbone"):
        start(task_of(GML, **settings), run, **settings)
    with pytest.raises(UserError, match=rf"init_from=.*{said}") as error:
        start(task_of(GML, **settings), run, freeze="all", **settings)
    assert "freeze=all" in str(error.value)


@pytest.mark.parametrize("settings", [{"classifier": "linear", "scale": 30.0}, {"classifier": "cosine", "scale": 12.0}])
def test_the_same_classifier_is_nothing_to_speak_of(settings, tmp_path, recwarn):
    run = saved(task_of(CrossEntropy, seed=1, **settings), tmp_path, **{**settings, "name": "ce"})
    for freeze in ("backbone", "all"):
        assert start(task_of(GML, **settings), run, freeze=freeze, **settings).has_old_classifier
    # a linear classifier has no scale, whatever the settings say
    linear = {"classifier": "linear"}
    other = tmp_path / "other"
    other.mkdir()
    run = saved(task_of(CrossEntropy, seed=1), other, **linear, scale=5.0)
    start(task_of(TauNormalisation), run, freeze="all", **linear)
    assert not [one for one in recwarn if issubclass(one.category, RunWarning)]


@pytest.mark.parametrize("freeze", ["backbone", "all"])
def test_of_a_file_without_a_run_the_bias_tells(freeze, tmp_path):
    linear, cosine = {"classifier": "linear", "scale": 30.0}, {"classifier": "cosine", "scale": 30.0}
    torch.save(task_of(CrossEntropy).state_dict(), tmp_path / "linear.pth")
    torch.save(task_of(partial(LDAM, classifier="cosine")).state_dict(), tmp_path / "cosine.pth")
    with pytest.warns(RunWarning, match=r"linear\.pth: its classifier has a bias.*task\.classifier=linear"):
        start(task_of(GML, **cosine), tmp_path / "linear.pth", freeze=freeze, **cosine)
    with pytest.warns(RunWarning, match=r"cosine\.pth: its classifier has no bias.*task\.classifier=cosine"):
        start(task_of(GML, **linear), tmp_path / "cosine.pth", freeze=freeze, **linear)


@pytest.mark.parametrize("content", ["- 1", "task: segmentation", "model: !!python/name:x", "model: {}"])
def test_a_configuration_of_other_code_tells_nothing(content, tmp_path):
    run = saved(task_of(CrossEntropy, seed=1), tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    settings = {"classifier": "cosine", "scale": 30.0}
    with pytest.warns(RunWarning, match="its classifier has a bias"):
        start(task_of(GML, **settings), run, **settings)


def test_only_a_classifier_that_was_loaded_is_compared(tmp_path, recwarn):
    run = saved(task_of(CrossEntropy, seed=1, classifier="cosine"), tmp_path, classifier="cosine", scale=30.0)
    settings = {"init_from": str(run), "init_parts": "backbone", "init_keys": {}, "freeze": "backbone"}
    apply_initial_weights({**settings, "task": {"classifier": "linear"}}, task_of(GML), data=None, is_resumed=False)
    assert not [one for one in recwarn if issubclass(one.category, RunWarning)]

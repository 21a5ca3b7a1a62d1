"""A head in a run: fitted once, kept in checkpoints as plain tensors, judged on seen and unseen classes."""

from functools import partial

import lightning as L
import pytest
import torch
from problems import problem
from torch.utils.data import DataLoader

from callbacks.checkpoint_io import AtomicCheckpointIO
from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.base import STATE_KEY, FewShotModule
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.tip_adapter_f import TipAdapterF
from lit_modules.fewshot.zeroshot import ZeroShot
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant
from records.errors import UserError
from records.notices import RunWarning


class Features(L.LightningDataModule):
    """The arrays of one problem and loaders over them."""

    seen_classes = None

    def __init__(self, one):
        super().__init__()
        self.support_features, self.support_labels = one.support.float(), one.labels
        self.text_features, self.unlabelled_features = one.text.float(), one.test.float()
        self.validation_features, self.validation_labels = one.validation.float(), one.validation_labels
        self.test_labels = one.test_labels

    def features(self, split):
        assert split == "test"
        return self.unlabelled_features

    def labels(self, split):
        return {"test": self.test_labels}[split]

    def _loader(self, features, labels):
        rows = [{"feature": f, "label": y, "index": i} for i, (f, y) in enumerate(zip(features, labels, strict=True))]
        return DataLoader(rows, batch_size=32)

    def train_dataloader(self):
        return self._loader(self.support_features, self.support_labels)

    def val_dataloader(self):
        return self._loader(self.validation_features, self.validation_labels)

    def test_dataloader(self):
        return self._loader(self.unlabelled_features, self.test_labels)


def module(head, classes=8, multi_label=False):
    labels = LabelSpace(classes, tuple("abcdefgh"), (4,) * classes, multi_label, 4 * classes)
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.0)
    backbone = build_backbone("own", "tiny", False, image_size=16, width=4)
    return FewShotModule(head, backbone, labels, optimization, ClassRecognition(bootstrap=0))


def trainer(directory, epochs=1):
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=directory,
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@pytest.fixture
def data():
    return Features(problem())


def fitted(head, data, directory):
    task = module(head)
    runner = trainer(directory)
    runner.fit(task, datamodule=data)
    runner.save_checkpoint(directory / "last.ckpt")
    runner.test(task, datamodule=data, verbose=False)
    return task


def test_a_run_gives_the_accuracy_of_the_head_itself(data, tmp_path):
    task = fitted(GDA(), data, tmp_path)
    head = GDA()
    validation = (data.validation_features, data.validation_labels)
    head.fit(data.support_features, data.support_labels, data.text_features, None, validation)
    right = head.predict(data.unlabelled_features).argmax(dim=1) == data.test_labels
    assert task.exact_metrics["test/accuracy"] == right.double().mean().item()
    assert task.exact_metrics["train/alpha"] == head.facts["alpha"]
    assert task.exact_metrics["val/accuracy"] == pytest.approx(head.facts["validation_accuracy"])
    assert task.recognition_result.confusion.sum() == len(data.test_labels)


def test_a_checkpoint_holds_plain_tensors_and_is_tested_without_a_fit(data, tmp_path):
    task = fitted(InMaP(), data, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in checkpoint[STATE_KEY].values())
    again = module(InMaP())
    trainer(tmp_path).test(again, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert again.exact_metrics["test/accuracy"] == task.exact_metrics["test/accuracy"]
    assert again.transductive


def test_a_resumed_run_is_not_fitted_again(data, tmp_path):
    fitted(GDA(), data, tmp_path)
    resumed = module(SimpleHead())
    trainer(tmp_path, epochs=2).fit(resumed, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


class SimpleHead(GDA):
    """A head that must not be fitted."""

    def solve(self, episode):
        raise AssertionError("fitted again")


def test_a_checkpoint_without_a_head_is_refused():
    with pytest.raises(UserError, match="no fitted few-shot head"):
        module(GDA()).on_load_checkpoint({"state_dict": {}})


def test_seen_and_unseen_classes_are_judged_apart(data, tmp_path):
    data.seen_classes = torch.tensor([True] * 6 + [False] * 2)
    metrics = fitted(GDA(), data, tmp_path).exact_metrics
    seen, unseen = metrics["test/seen"], metrics["test/unseen"]
    assert metrics["test/accuracy"] == pytest.approx(0.75 * seen + 0.25 * unseen)
    assert metrics["test/harmonic"] == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_the_leaking_selection_sees_the_test_labels_and_warns(data, tmp_path):
    with pytest.warns(RunWarning, match="chosen on the TEST labels"):
        leaked = fitted(TipAdapterF(epochs=3, selection="test_leak"), data, tmp_path)
    honest = fitted(TipAdapterF(epochs=3), data, tmp_path)
    assert leaked.exact_metrics["test/accuracy"] >= honest.exact_metrics["test/accuracy"]
    assert leaked.exact_metrics["train/validation_accuracy"] == pytest.approx(leaked.exact_metrics["test/accuracy"])


def test_the_record_says_that_the_test_labels_chose():
    assert module(TipAdapterF()).evaluation_protocol == {}
    assert module(TipAdapterF(selection="test_leak")).evaluation_protocol["test_leak"].startswith("yes")


def test_the_record_says_which_images_the_fit_has_seen(data):
    test = data.features("test")
    assert module(GDA()).seen_by_fit(data) == {}
    seen = module(InMaP()).seen_by_fit
    assert seen(data) == {"transductive": "yes, the fit saw the unlabelled test images"}
    data.features = lambda split: test.clone()
    assert seen(data)["transductive"].startswith("yes")
    data.unlabelled_features = torch.cat([test[:7], data.support_features])
    assert seen(data) == {"transductive": f"in part, the fit saw 7 of the {len(test)} test images unlabelled"}
    data.unlabelled_features = data.support_features
    assert seen(data) == {
        "unlabelled": f"the fit saw {len(data.support_features)} unlabelled images, none of the test part"
    }


def test_images_go_through_the_backbone_which_stays_as_it_is():
    task = module(GDA())
    assert not any(parameter.requires_grad for parameter in task.backbone.parameters())
    task.classifier = ZeroShot()
    task.classifier.fit(None, None, torch.rand(8, task.backbone.num_features))
    batch = {"image": torch.rand(2, 3, 16, 16)}
    expected = task.classifier.predict(task.backbone(batch["image"]))
    assert torch.equal(task(batch)["logits"], expected)


def test_several_labels_per_image_are_refused():
    with pytest.raises(UserError, match="one class per image"):
        module(GDA(), multi_label=True)

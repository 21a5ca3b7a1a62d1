"""A trained task as a stage: its features give its probabilities back."""

from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from launch.compose import compose_config
from lit_modules.backbones.backbone import build_backbone
from lit_modules.base import LabelSpace
from lit_modules.fewshot.finetune import FineTune
from lit_modules.fewshot.trained_classifier import ClassifierEncoder, TrainedClassifier
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.optimization import Optimization
from lit_modules.schedules import Constant
from modes.build import centre_cut
from records.errors import UserError


def trained(seed=0):
    torch.manual_seed(seed)
    labels = LabelSpace(4, tuple("abcd"), (2,) * 4, False, 8)
    optimization = Optimization(partial(torch.optim.SGD), Constant(), lr=0.1, weight_decay=0.0)
    backbone = build_backbone("own", "tiny", False, image_size=16, width=4)
    metric = ClassRecognition(bootstrap=0)
    return FineTune(backbone=backbone, labels=labels, optimization=optimization, metric=metric, init_std=3.0)


def test_logits_come_back_from_features_of_unit_length():
    task = trained()
    encoder = ClassifierEncoder(task, "abcd")
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    features = encoder.encode_images(images)
    assert torch.allclose(features.norm(dim=1), torch.ones(5))
    head = TrainedClassifier()
    head.fit(features, torch.tensor([0, 1, 2, 3, 0]))
    with torch.no_grad():
        expected = task.eval()({"image": images})["logits"].log_softmax(dim=-1)
    probable = expected > -30
    assert torch.allclose(head.predict(features)[probable], expected[probable], atol=1e-3)
    assert torch.equal(head.predict(features).argmax(dim=1), expected.argmax(dim=1))


def test_the_identity_follows_the_head_too():
    task = trained()
    before = ClassifierEncoder(task, "abcd").identity
    assert before == ClassifierEncoder(trained(), "abcd").identity
    with torch.no_grad():
        task.classifier.bias[0] += 1
    assert ClassifierEncoder(task, "abcd").identity != before


def test_it_counts_itself_and_knows_no_text():
    encoder = ClassifierEncoder(trained(), "abcd")
    assert encoder.parameters == {"image": sum(one.numel() for one in encoder.task.parameters()), "text": 0}
    assert not encoder.has_text
    assert encoder.name == "tiny-classifier"
    with pytest.raises(UserError, match="images alone"):
        encoder.encode_text(["a"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["data=jittor_images", "data.resize=320"], "320 bicubic"),
        (["data=jittor_images"], "280 bicubic"),
        (["data=folder_classification"], "320 bilinear"),
        (["data=folder_classification", "data.resize=300"], "300 bilinear"),
        (["data=folder_classification", "data.resampling=bicubic"], "320 bicubic"),
        (["data=digits_fewshot_images"], "280 bilinear"),
        (["data=cifar100_lt"], "280 bilinear"),
    ],
)
def test_an_image_is_cut_as_the_data_of_a_run_cut_their_own(data, expected):
    settings = compose_config(["task=finetune", *data])
    assert str(centre_cut({"data": OmegaConf.to_container(settings.data, resolve=False)}, 280)) == expected


def test_images_are_cut_as_they_were_when_it_was_judged():
    assert ClassifierEncoder(trained(), "abcd").resize == 16
    assert ClassifierEncoder(trained(), "abcd", resize=20).resize == 20


def test_features_of_another_number_of_classes_are_refused():
    with pytest.raises(UserError, match="gives 4 probabilities for 3 classes"):
        TrainedClassifier().fit(torch.rand(3, 4), torch.tensor([0, 1, 2]))

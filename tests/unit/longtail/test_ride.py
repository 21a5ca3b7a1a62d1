"""RIDE's loss, its temperatures, distillation and routing against loops of plain numbers; its two stages."""

import math
from functools import partial

import pytest
import torch
import yaml
from slow_numbers import (
    COUNTS,
    LABELS,
    assert_equals_slow,
    cross_entropy,
    dot,
    draw,
    log_softmax,
    normalised,
    priors,
    softmax,
)
from small_methods import at_epoch, one_step, small_batch, small_method

from lit_modules.longtail.ldam import class_margins
from lit_modules.longtail.ride import RIDE, class_temperatures, diversity, ride_loss
from lit_modules.longtail.routing import (
    HIDDEN,
    ExpertRouters,
    experts_asked,
    prefix_means,
    routed_logits,
    routing_loss,
    routing_targets,
)
from lit_modules.longtail.teacher import distillation_loss, load_teacher
from records.errors import UserError
from records.labels_file import KnownLabels, write_labels
from records.run_directory import RunDirectory

LABEL = torch.tensor(LABELS)
LOGITS = draw(len(LABELS), 3, 4, seed=6, scale=3.0)
COUNT = torch.tensor(COUNTS).double()
WEIGHTS = [0.2, 0.5, 1.0, 2.3]


def slow_temperatures():
    raw = [4 * p * 0.05 + 0.95 for p in priors()]
    return [value / max(raw) for value in raw]


def mean_of(experts):
    return [sum(column) / len(experts) for column in zip(*experts, strict=True)]


def slow_diversity(samples, means, temperatures):
    """Return sum_e Tbar^2 mean_i KL(mean || expert e), the means held fixed."""
    total = 0.0
    for experts, mean in zip(samples, means, strict=True):
        wanted = softmax([z / t for z, t in zip(mean, temperatures, strict=True)])
        for row in experts:
            found = log_softmax([z / t for z, t in zip(row, temperatures, strict=True)])
            total += sum(p * (math.log(p) - q) for p, q in zip(wanted, found, strict=True))
    return (sum(temperatures) / len(temperatures)) ** 2 * total / len(samples)


def test_temperatures():
    assert class_temperatures(COUNT).tolist() == pytest.approx(slow_temperatures(), rel=1e-12)


@pytest.mark.parametrize("temperatures", [[1.0] * 4, slow_temperatures()])
def test_the_diversity_has_no_gradient_through_the_mean(temperatures):
    means = [mean_of(experts) for experts in LOGITS.tolist()]
    assert_equals_slow(
        lambda z: diversity(z, torch.tensor(temperatures, dtype=torch.float64)),
        lambda samples: slow_diversity(samples, means, temperatures),
        LOGITS,
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss(weights):
    margins = class_margins(COUNT)
    means = [mean_of(experts) for experts in LOGITS.tolist()]

    def slow(samples):
        total = -0.45 * slow_diversity(samples, means, slow_temperatures())
        for e in range(3):
            shifted = [
                [z - 30 * margins[y].item() * (c == y) for c, z in enumerate(experts[e])]
                for experts, y in zip(samples, LABELS, strict=True)
            ]
            total += cross_entropy(shifted, LABELS, weights)
        return total

    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    temperatures = class_temperatures(COUNT)
    assert_equals_slow(lambda z: ride_loss(z, LABEL, margins, 30.0, temperatures, -0.45, weight)["loss"], slow, LOGITS)


def test_distillation():
    logits, teacher = draw(5, 4, seed=1), draw(5, 4, seed=2)

    def slow(rows):
        total = 0.0
        for row, wanted in zip(rows, teacher.tolist(), strict=True):
            p = softmax([z / 1.5 for z in wanted])
            q = log_softmax([z / 1.5 for z in row])
            total += sum(a * (math.log(a) - b) for a, b in zip(p, q, strict=True))
        return 1.5**2 * total / len(rows)

    assert_equals_slow(lambda z: distillation_loss(z, teacher, 1.5), slow, logits)


def test_routing_targets_and_loss():
    calls = draw(len(LABELS), 2, seed=9)
    targets = []
    for experts, y in zip(LOGITS.tolist(), LABELS, strict=True):
        means = [mean_of(experts[: k + 1]) for k in range(3)]
        right = [max(range(4), key=mean.__getitem__) == y for mean in means]
        targets.append([not right[k] and any(right[k + 1 :]) for k in range(2)])
    assert routing_targets(LOGITS, LABEL).tolist() == targets
    assert any(any(row) for row in targets)

    def slow(rows):
        total = 0.0
        for row, target in zip(rows, targets, strict=True):
            for call, wanted in zip(row, target, strict=True):
                p = 1 / (1 + math.exp(-call))
                total -= 100 * math.log(p) if wanted else math.log(1 - p)
        return total / (len(rows) * 2)

    assert_equals_slow(lambda z: routing_loss(z, LOGITS, LABEL), slow, calls)


@pytest.mark.parametrize("classes", [4, 40])
def test_routers_have_hidden_layers_of_their_own_and_share_the_output(classes):
    torch.manual_seed(0)
    routers = ExpertRouters(3, 5, classes).double()
    features, logits = draw(6, 3, 5, seed=1), draw(6, 3, classes, seed=2)
    found = routers(features, logits)
    sizes = sum(parameter.numel() for parameter in routers.parameters())
    assert sizes == 2 * (5 + 1) * HIDDEN + (min(classes, 30) + HIDDEN + 1)
    output = routers.output.weight[0].tolist()
    for i in range(6):
        for place in range(2):
            f = normalised(features[i, place].tolist())
            layer = routers.hidden[place]
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            hidden = [max(dot(row, f) + b, 0.0) for row, b in rows]
            largest = sorted(mean_of(logits[i, : place + 1].tolist()), reverse=True)[:30]
            assert found[i, place].item() == pytest.approx(dot(largest + hidden, output) + routers.output.bias.item())


def test_a_content_router_stops_the_later_ones():
    calls = torch.tensor([[-1.0, 5.0], [1.0, -1.0], [1.0, 1.0]])
    assert experts_asked(calls).tolist() == [1, 2, 3]
    logits = draw(3, 3, 4)
    found = routed_logits(calls, logits)
    for i, experts in enumerate(logits.tolist()):
        assert found[i].tolist() == pytest.approx(mean_of(experts[: i + 1]))
    torch.testing.assert_close(prefix_means(logits)[:, -1], logits.mean(dim=1))


def test_late_epochs_have_weights_and_temperatures():
    rule = {"kind": "effective", "beta": 0.9999, "normalise": "classes", "from_fraction": 0.8}
    module = small_method(RIDE, experts=3, classifier="cosine", class_weights=rule).eval()
    batch = small_batch()
    outputs = module(batch)
    early, early_too, late = (
        at_epoch(module, epoch).criterion(outputs, batch)["loss"].item() for epoch in (0, 159, 160)
    )
    assert early == early_too != late
    margins = class_margins(torch.tensor(COUNTS).float())
    weights = torch.tensor([50.0, 20, 6, 2])
    weights = 1 / (1 - 0.9999 ** weights.double())
    expected = ride_loss(
        outputs["expert_logits"],
        batch["label"],
        margins,
        30.0,
        class_temperatures(torch.tensor(COUNTS).float()),
        weights=(4 * weights / weights.sum()).float(),
    )
    assert late == pytest.approx(expected["loss"].item(), rel=1e-5)


def test_the_second_stage_trains_routers_alone():
    module = small_method(RIDE, experts=3, classifier="cosine", stage=2)
    trainable = {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"routers"}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    one_step(module, small_batch())
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"routers"}
    outputs = module.eval()(small_batch())
    assert module.scores(outputs).shape == (8, 4)
    module.validation_step(small_batch(), 0)
    asked = experts_asked(module._calls(outputs)).double().mean().item()
    assert module.further_metrics("val") == {"experts_share": pytest.approx(asked / 3)}


def test_routers_need_trained_experts():
    module = small_method(RIDE, experts=3, classifier="cosine", stage=2)
    with pytest.raises(UserError, match=r"task\.stage=2.*random weights.*init_from=RUN.*task=ride_routed"):
        module.on_fit_start()
    names = tuple(name for name, _ in module.named_parameters())
    module.started_from(tuple(name for name in names if not name.endswith("experts.1.weight")))
    with pytest.raises(UserError, match="random weights"):
        module.on_fit_start()
    module.started_from(names)
    module.on_fit_start()
    resumed = small_method(RIDE, experts=3, classifier="cosine", stage=2)
    resumed.on_load_checkpoint({})
    resumed.on_fit_start()


def test_a_teacher_needs_images(tmp_path):
    small_teacher(tmp_path)
    student = small_method(RIDE, experts=3, classifier="cosine", teacher=str(tmp_path))
    student.on_fit_start()
    with pytest.raises(UserError, match=r"task\.teacher=.*cached features have none.*cache_features=false"):
        student.train()({"feature": torch.randn(4, student.backbone.num_features), "label": torch.zeros(4).long()})


def test_a_teacher_is_read_from_its_run_and_is_no_part_of_the_student(tmp_path):
    trained = small_teacher(tmp_path)
    student = small_method(RIDE, experts=3, classifier="cosine", teacher=str(tmp_path))
    names = set(student.state_dict())
    student.on_fit_start()
    assert set(student.state_dict()) == names
    batch = small_batch()
    losses = one_step(student, batch)
    plain = losses["classification"] - 0.45 * losses["diversity"]
    assert losses["loss"] == pytest.approx(plain + losses["distillation"], rel=1e-5)
    expected = trained.eval()(batch)["logits"]
    torch.testing.assert_close(student._loaded_teacher[0](batch["image"]), expected)
    with pytest.raises(UserError, match=r"number of classes than 5"):
        load_teacher(str(tmp_path), "abcde")
    with pytest.raises(UserError, match=r"task\.teacher=.*no finished run"):
        load_teacher(str(tmp_path / "nowhere"), "abcd")
    write_labels(RunDirectory(tmp_path), KnownLabels(("a", "b", "c", "x"), (5, 4, 3, 2), False, {"train": 14}))
    with pytest.raises(UserError, match=r"task\.teacher=.*4 classes \(a, \.\.\.\).*same order"):
        load_teacher(str(tmp_path), "abcd")


def small_teacher(folder):
    module = small_method(partial(RIDE, experts=2), experts=2, classifier="cosine", scale=20.0)
    settings = {
        "model": {
            "name": "tiny",
            "_target_": "lit_modules.backbones.backbone.build_backbone",
            "source": "own",
            "architecture": "tiny",
            "pretrained": False,
            "image_size": 16,
            "width": 4,
            "experts": 2,
            "suggested": {"lr": 1.0},
        },
        "task": {"name": "ride", "experts": 2, "classifier": "cosine", "scale": 20.0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "checkpoints").mkdir()
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "last.ckpt")
    return module


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classifier": "linear"}, r"task\.classifier=linear"),
        ({"classifier": "cosine", "stage": 3}, r"task\.stage=3"),
        ({"classifier": "cosine", "stage": 2, "mixup_alpha": 1.0}, r"task\.stage=2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        small_method(RIDE, experts=3, **settings)

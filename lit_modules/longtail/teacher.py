"""A trained run as a teacher: its mean logits, and the divergence from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone, build_backbone
from lit_modules.backbones.weights_file import read_state_dict
from lit_modules.longtail.experts import ExpertClassifiers, branches
from records.errors import UserError
from records.labels_file import read_labels
from records.run_directory import RunDirectory, last_stage

KEY = "task.teacher"
NO_ARGUMENTS = ("suggested", "pretrained", "weights_file")


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.5) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(logits / T)), both (B, C); the mean over images.

    (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; the teacher gets no gradient.)
    """
    student = F.log_softmax(logits / temperature, dim=1)
    wanted = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, wanted, reduction="batchmean", log_target=True)


class Teacher(nn.Module):
    """A frozen backbone with experts' classifiers: images (B, 3, H, W) to their mean logits (B, C)."""

    def __init__(self, backbone: Backbone, classifier: ExpertClassifiers) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) without gradient."""
        with torch.no_grad():
            logits: Tensor = self.classifier(self.backbone(images)).mean(dim=1)
        return logits


def load_teacher(directory: str, class_names: Sequence[str]) -> Teacher:
    """Build the teacher that a run directory holds, with the weights of its best checkpoint, or the last.

    Args:
        directory: of the run, or of one in stages.
        class_names: those of the student, C of them.

    Raises:
        UserError: no run of several experts lies there, or its classes are others.
    """
    run = RunDirectory(last_stage(Path(directory)))
    checkpoint = run.chosen_checkpoint
    if checkpoint is None or not run.config.is_file():
        raise UserError(f"task.teacher={directory}: no finished run lies there; name the directory of a RIDE run")
    _check_classes(run, class_names, directory)
    num_classes = len(class_names)
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    teacher = _untrained(settings, num_classes, directory)
    state = read_state_dict(checkpoint, KEY)
    wanted = {name: tensor for name, tensor in state.items() if name.startswith(("backbone.", "classifier."))}
    try:
        teacher.load_state_dict(wanted)
    except RuntimeError as error:
        raise UserError(
            f"task.teacher={directory}: its weights do not fit its own configuration, or it was trained on another "
            f"number of classes than {num_classes}. {' '.join(str(error).split())}"
        ) from error
    return teacher


def _check_classes(run: RunDirectory, class_names: Sequence[str], directory: str) -> None:
    known = read_labels(run)
    if known is None or known.class_names == tuple(class_names):
        return
    raise UserError(
        f"task.teacher={directory}: it knows {known.num_classes} classes ({known.class_names[0]}, ...), and the data "
        f"have {len(class_names)} ({class_names[0]}, ...); they must be the same, in the same order"
    )


def _untrained(settings: dict[str, dict[str, object]], num_classes: int, directory: str) -> Teacher:
    model, task = settings["model"], settings["task"]
    if "experts" not in task:
        raise UserError(f"task.teacher={directory}: task={task['name']} has no experts; name a run of task=ride")
    arguments = {key: value for key, value in model.items() if not key.startswith("_") and key not in NO_ARGUMENTS}
    backbone = build_backbone(**{**arguments, "pretrained": False})  # type: ignore[arg-type]
    experts = branches(backbone)
    width = backbone.num_features // experts
    kind, scale = task["classifier"], task["scale"]
    return Teacher(backbone, ExpertClassifiers(kind, experts, width, num_classes, scale))  # type: ignore[arg-type]

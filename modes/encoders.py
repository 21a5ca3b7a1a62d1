"""The data of a run whose task looks through several encoders: `task.encoders`, beside `model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from datamodules.encoded.encoded_images import Fill
from datamodules.encoded.joined_features import JoinedFeatures
from launch.problems import as_text
from launch.stored import stored_config
from lit_modules.backbones.backbone import Backbone
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from lit_modules.backbones.weights_file import read_state_dict
from lit_modules.fewshot.cascade import MODEL
from lit_modules.fewshot.encoder_parameters import EncoderSize, refuse_too_many
from lit_modules.fewshot.trained_classifier import ClassifierEncoder
from modes import build
from modes.encoding import device_of, makes_features
from modes.expert_images import ExpertRun, check_unseen
from modes.initial import checkpoint_of_source
from modes.life import Settings
from records.errors import UserError
from records.labels_file import read_labels
from records.run_directory import RunDirectory, open_run

Encoders = Mapping[str, FrozenEncoder | ClassifierEncoder]
FEATURES_ALREADY = (
    "task.encoders: these data are features already, of one encoder; choose data of images (data=fewshot, "
    "data=jittor), or set task.encoders={} and let the stages use `model` alone"
)
SIZE_UNKNOWN = (
    "these data are features already, and how large their encoder is, nobody here knows; choose data of images "
    "(data=fewshot, data=jittor), or leave the limit out (null)"
)


def build_data(settings: Settings, backbone: Backbone, fill: Fill | None = None) -> tuple[Any, Encoders]:
    """Build and read the data; where the task names further encoders, once for each of them, and joined.

    `fill`: how feature banks are filled; None is the way of a run.

    Returns:
        the data, and the encoders of a task that knows of such; none where features were made elsewhere.

    Raises:
        UserError: an encoder cannot be built or has nothing to encode; a run that is one was trained on images of the
            test part; the encoders exceed `task.parameter_limit`, or there is a limit and the data are features
            already, of an encoder whose size is not known.
    """
    if "encoders" not in settings["task"]:
        return build.build_data(settings, backbone, fill), {}
    further = {name: node for name, node in (settings["task"]["encoders"] or {}).items() if node is not None}
    limit = settings["task"].get("parameter_limit")
    if not makes_features(settings):
        if further:
            raise UserError(FEATURES_ALREADY)
        if limit is not None:
            raise UserError(f"task.parameter_limit={limit}: {SIZE_UNKNOWN}")
        return build.build_data(settings, backbone), {}
    encoders = _build_encoders(further, backbone, device_of(settings["trainer"]["accelerator"]))
    refuse_too_many(sizes(encoders), limit)
    data = _joined_data(settings, encoders, further, fill) if further else build.build_data(settings, backbone, fill)
    return data, encoders


def _build_encoders(further: Mapping[str, Mapping[str, Any]], backbone: Backbone, device: str) -> Encoders:
    if MODEL in further:
        raise UserError(f"task.encoders.{MODEL}: this name is that of the run's own model; choose another one")
    own = FrozenEncoder(backbone, device)
    return {MODEL: own, **{name: _encoder(name, node, device) for name, node in further.items()}}


def _joined_data(
    settings: Settings, encoders: Encoders, further: Mapping[str, Mapping[str, Any]], fill: Fill | None
) -> JoinedFeatures:
    parts: dict[str, Any] = {name: build.new_data(settings, one.image_size) for name, one in encoders.items()}
    data = JoinedFeatures(parts)
    # before anything is encoded, which may take hours
    for name, node in further.items():
        if "run" in node:
            run, stored = _stored_run(name, str(node["run"]))
            expert = ExpertRun(f"task.encoders.{name}.run", run, stored["data"], encoders[name].image_size)
            check_unseen(expert, data.first, settings["data"])
    for name, part in data.parts.items():
        part.attach_encoder(encoders[name], fill)
    data.setup("fit")
    return data


def sizes(encoders: Encoders) -> dict[str, EncoderSize]:
    """Return the size of every encoder, and the classes of those that are classifiers."""
    return {
        name: EncoderSize(**encoder.parameters, class_names=getattr(encoder, "class_names", None))
        for name, encoder in encoders.items()
    }


def supplied(encoders: Encoders) -> dict[str, Any]:
    """Return what a task is told of its encoders; nothing where it has none."""
    return {"encoders": sizes(encoders)} if encoders else {}


def _encoder(name: str, node: Mapping[str, Any], device: str) -> FrozenEncoder | ClassifierEncoder:
    if "run" in node:
        if node["run"] is None:
            raise UserError(
                f"task.encoders.{name}.run: name the directory of a run of task=finetune; {name} is its classifier"
            )
        return _trained(name, str(node["run"]), device)
    if "_target_" not in node:
        raise UserError(f"task.encoders.{name}: name a run (run=DIR), or a model as conf/model does (_target_, ...)")
    backbone: Backbone = build.build(node, build.METADATA["model"])
    return FrozenEncoder(backbone, device)


def _stored_run(name: str, place: str) -> tuple[RunDirectory, dict[str, Any]]:
    """Return the directory of an encoder's run, and its settings."""
    run = open_run(place)
    config, problems = stored_config(run, ())
    if config is None:
        raise UserError(f"task.encoders.{name}.run={place}: {as_text(problems)}")
    return run, cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _trained(name: str, place: str, device: str) -> ClassifierEncoder:
    """Build what a run has trained, with the weights of its best checkpoint, or its last; it sees images as there."""
    run, settings = _stored_run(name, place)
    backbone = build.build_backbone(
        {**settings, "model": {**settings["model"], "pretrained": False, "weights_file": None}}
    )
    # the classes that the run has noted do: its data may be gone
    known: Any = read_labels(run) or build.build_data(settings, backbone)
    task = build.build_task(settings, backbone, known)
    state = read_state_dict(checkpoint_of_source(run.path), f"task.encoders.{name}.run")
    missing, _ = task.load_state_dict(state, strict=False)
    if missing:
        raise UserError(
            f"task.encoders.{name}.run={place}: the checkpoint lacks {missing[0]}; name a run of task=finetune"
        )
    cut = build.centre_cut(settings, backbone.image_size)
    return ClassifierEncoder(task, known.class_names, torch.device(device), cut.resize)

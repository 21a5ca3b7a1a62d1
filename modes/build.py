"""From a checked configuration to the parts of a run: backbone, data, task, trainer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.ending import EndTogether
from callbacks.loggers import steady
from datamodules.base import ImageDataModule
from datamodules.encoded.encoded_images import Fill
from datamodules.images.image_files import CentreCut
from launch.problems import Problem, as_text
from lit_modules.backbones.backbone import Backbone
from lit_modules.base import LabelSpace, TaskModule
from lit_modules.fewshot.base import FewShotModule
from lit_modules.fewshot.head import FewShotHead
from lit_modules.optimization import Optimization
from modes.binding import Part, check_arguments, locate
from modes.encoding import read_data
from records.errors import UserError

Config = Mapping[str, Any]

OPTIMIZATION_KEYS = ("lr", "weight_decay", "backbone_lr_scale", "layer_decay", "decay_norm_and_bias")
METADATA = {
    "task": frozenset({"name", "needs", "monitor", "direction", "freeze", "cache_features", "stages"}),
    "model": frozenset({"suggested"}),
    "data": frozenset({"name", "provides", "map_cut"}),
    "trainer": frozenset({"on_nonfinite", "compile"}),
}
PARTS = {
    "task": Part(METADATA["task"], frozenset({"backbone", "labels", "optimization", "metric"})),
    "model": Part(METADATA["model"]),
    "data": Part(METADATA["data"]),
    "trainer": Part(
        METADATA["trainer"],
        frozenset(
            {
                "callbacks",
                "logger",
                "plugins",
                "default_root_dir",
                "reload_dataloaders_every_n_epochs",
                "use_distributed_sampler",
                "num_sanity_val_steps",
                "enable_model_summary",
                "enable_progress_bar",
            }
        ),
    ),
    "optim.optimizer": Part(supplied=frozenset({"params", "lr", "weight_decay"})),
}


def check(config: Config) -> None:
    """Bind every argument before anything is built.

    Raises:
        UserError: names every target that may not be built and every argument that does not fit.
    """
    known = {*OPTIMIZATION_KEYS, "name", "optimizer"}
    problems = [
        Problem(
            f"optim.{key}", "is no key of an optimizer's YAML", tuple(sorted(known)), f"is it optim.optimizer.{key}?"
        )
        for key in config["optim"]
        if key not in known
    ]
    problems += check_arguments(config, PARTS)
    if problems:
        raise UserError(as_text(problems))


def build(node: Config, metadata: frozenset[str] = frozenset(), **supplied: Any) -> Any:
    """Build the `_target_` of a node with the node's own keys as arguments, and those that the caller adds.

    Targets within the arguments are built first.

    Raises:
        UserError: a target refuses a value.
    """
    ignored = {*metadata, *supplied}
    given = {key: _built(value) for key, value in node.items() if key not in ignored and not key.startswith("_")}
    try:
        return locate(node["_target_"])(**{**given, **supplied})
    except (ValueError, MisconfigurationException, ModuleNotFoundError) as error:
        raise UserError(f"{node['_target_']} refuses its settings: {error}") from error


def _built(value: Any) -> Any:
    """Return a value of a configuration with every target in it built."""
    if isinstance(value, Mapping):
        return build(value) if "_target_" in value else {key: _built(child) for key, child in value.items()}
    return [_built(child) for child in value] if isinstance(value, list) else value


def build_backbone(config: Config) -> Backbone:
    """Build the backbone, with pretrained weights where the configuration asks for them."""
    backbone: Backbone = build(config["model"], METADATA["model"])
    return backbone


def build_data(config: Config, backbone: Backbone, fill: Fill | None = None) -> LightningDataModule:
    """Build the data at the backbone's image size, and read them; `fill` as for `modes.encoding.read_data`."""
    data = new_data(config, backbone.image_size)
    read_data(data, backbone, config, fill)
    return data


def new_data(config: Config, image_size: int) -> LightningDataModule:
    """Build the data at an image size, without reading them."""
    data: LightningDataModule = build(config["data"], METADATA["data"], image_size=image_size)
    return data


def centre_cut(config: Config, image_size: int) -> CentreCut:
    """Return how the data of a configuration frame an image file where it is judged, without building them."""
    target = locate(config["data"]["_target_"])
    kind = target if isinstance(target, type) and issubclass(target, ImageDataModule) else ImageDataModule
    return kind.centre_cut(config["data"], image_size)


def build_task(config: Config, backbone: Backbone, data: Any, **supplied: Any) -> TaskModule:
    """Build the LightningModule of the task on a backbone, for the labels of the data.

    `supplied` takes the place of the configuration's values of the same names.
    """
    parts = {"labels": label_space(data), "optimization": _optimization(config), "metric": build(config["metric"])}
    parts["backbone"] = backbone
    task: TaskModule
    if is_few_shot_head(config):
        task = FewShotModule(build(config["task"], METADATA["task"]), **parts)
    else:
        task = build(config["task"], METADATA["task"], **parts, **supplied)
    if config["trainer"]["compile"]:
        # in place, so that names in checkpoints stay the same
        task.backbone.network.compile()
    return task


def label_space(data: Any) -> LabelSpace:
    """Return what a task must know of the labels of data."""
    return LabelSpace(
        num_classes=data.num_classes,
        class_names=tuple(data.class_names),
        class_counts=tuple(int(count) for count in data.class_counts),
        multi_label=data.multi_label,
        train_size=data.sizes["train"],
    )


def is_few_shot_head(config: Config) -> bool:
    """Say whether the task is a head without a LightningModule of its own, which `FewShotModule` makes a task."""
    target = locate(config["task"]["_target_"])
    return inspect.isclass(target) and issubclass(target, FewShotHead)


def build_trainer(config: Config, data: Any) -> Trainer:
    """Build the trainer with its callbacks and loggers; loaders come from the data, made anew for every epoch."""
    validates = data.has_validation
    callbacks: list[Callback] = [build(node) for node in config["callbacks"].values() if node is not None]
    return build(
        config["trainer"],
        METADATA["trainer"],
        callbacks=[EndTogether(), *callbacks],
        logger=build_loggers(config),
        plugins=[AtomicCheckpointIO(), *_cluster()],
        default_root_dir=config["paths"]["run_dir"],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        # without our own bar Lightning would put up one of its own
        enable_progress_bar=config["callbacks"].get("progress") is not None,
        limit_val_batches=config["trainer"]["limit_val_batches"] if validates else 0,
    )


def build_loggers(config: Config) -> list[Logger]:
    """Build the loggers, whose failures are warnings of the run."""
    return [steady(build(node)) for node in config["logger"].values() if node is not None]


def _cluster() -> list[SLURMEnvironment]:
    """Return SLURM's environment without Lightning's requeueing: `modes/life.py` requeues, once."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _optimization(config: Config) -> Optimization:
    optim = config["optim"]
    node = optim["optimizer"]
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    return Optimization(
        optimizer=partial(locate(node["_target_"]), **arguments),
        schedule=build(config["schedule"]),
        **{key: optim[key] for key in OPTIMIZATION_KEYS},
    )

"""Short runs of every task on the data it names, runs that were cut short, and what two equal runs have in common."""

import shutil
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import yaml
from hydra.utils import get_object

from callbacks.epoch_seed import EpochSeed
from launch.compose import compose_config
from launch.groups import CONF, choice_names
from launch.plugins import check_plugin
from launch.stored import stored_config
from modes import train
from records.metrics_file import TIMING_COLUMNS, read_rows
from records.result import read_result
from records.run_directory import open_run

TASKS = choice_names("task")
EPOCHS = 2

# What makes a run short; a key that the task's own data or model do not have is left out.
SHORT = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": EPOCHS,
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 1,
    "data.batch_size": 32,
    "data.eval_batch_size": 64,
    "data.image_size": 16,
    "data.augment": "{crop_padding: 2, horizontal_flip: true}",
    "model.width": 8,
}

# timm's smallest transformer: no batch norm, and it can recompute its activations
TINY_VIT = ["model=vit_b16", "model.architecture=test_vit.r160_in1k", "model.pretrained=false"]


# a CLIP model of open_clip with random weights, in place of those that tasks name
SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 6, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 6},
}


def small_clip(config):
    """Return the overrides that bring the small CLIP model where a task names one of open_clip."""
    if config.model.source != "open_clip":
        return []
    import open_clip

    open_clip.factory._MODEL_CONFIGS["small-clip"] = SMALL_CLIP
    return ["model.architecture=small-clip", "model.weights=null", "model.pretrained=false", "model.image_size=16"]


def has_several_networks(task):
    """Tell whether a task trains several experts, which our own networks alone have."""
    return composed((f"task={task}",)).model.get("experts", 1) > 1


def has_text_encoder(task):
    """Tell whether a task trains on sentences too, which models of open_clip alone read."""
    return "sentences" in composed((f"task={task}",)).task.needs


def is_fitted(task):
    """Tell whether a task fits a head on features that the data hand out: no batch goes through the backbone."""
    return "few_shot" in composed((f"task={task}",)).task.needs


def missing_extra(task):
    """Return what the task's own model needs and this machine has not, as text; nothing where all is there."""
    return "; ".join(str(problem) for problem in check_plugin("model", composed((f"task={task}",)).model.name))


def skip_without_extra(task):
    missing = missing_extra(task)
    if missing:
        pytest.skip(missing)


def short_run(task, *overrides, **changes):
    """Return the overrides of a short run of `task`: SHORT with `changes` (dots as __), and then `overrides`.

    Pictures are left out: they take longer than the run, and `tests/unit/callbacks` looks at them.
    """
    keys = {**SHORT, **{key.replace("__", "."): value for key, value in changes.items()}}
    first = [f"task={task}", *(one for one in overrides if "." not in one.partition("=")[0])]
    config = composed(tuple(first))
    known = [f"{key}={value}" for key, value in keys.items() if has_key(config, key)]
    pictures = [f"callbacks.{name}=null" for name in config.callbacks if "pictures" in name]
    return [*first, *known, *small_clip(config), *pictures, *(one for one in overrides if one not in first)]


@cache
def composed(overrides):
    return compose_config(list(overrides))


def has_key(config, key):
    node, _, name = key.rpartition(".")
    return name in config[node]


def start(directory, overrides):
    """Train in this process; return the exit code."""
    return train.run(compose_config([*overrides, f"paths.run_dir='{directory}'"]), list(overrides))


def resume(directory):
    """Go on with a run as `mode=train run=DIRECTORY` does; return the exit code."""
    config, problems = stored_config(open_run(directory), ("mode=train", f"run='{directory}'"))
    assert not problems
    return train.run(config, [])


def copy_at(monkeypatch, epoch, directory, copy):
    """Copy a run's directory as it is when an epoch begins: what a kill at this moment leaves behind."""
    seed_epoch = EpochSeed.on_train_epoch_start

    def copy_once(self, trainer, pl_module):
        if trainer.current_epoch == epoch and not copy.exists():
            shutil.copytree(directory, copy)
        seed_epoch(self, trainer, pl_module)

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", copy_once)


def run_and_killed_run(monkeypatch, folder, overrides):
    """Train straight through, and go on with a copy that was cut off after the first epoch; return both directories."""
    straight, killed = folder / "straight", folder / "killed"
    copy_at(monkeypatch, 1, straight, killed)
    assert start(straight, overrides) == 0
    assert read_result(killed).status == "running"
    assert resume(killed) == 0
    assert [attempt["status"] for attempt in read_result(killed).resumed_from] == ["killed"]
    return straight, killed


def checkpoint(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_tensors(left, right, path="checkpoint"):
    if isinstance(left, torch.Tensor):
        assert torch.equal(left.nan_to_num(), right.nan_to_num()), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same_tensors(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same_tensors(a, b, f"{path}[{number}]")


def rows_without_clock(directory):
    return [
        {name: value for name, value in row.items() if name not in TIMING_COLUMNS}
        for row in read_rows(directory / "metrics.csv")
    ]


def assert_equal_runs(straight, resumed):
    first, second = checkpoint(straight), checkpoint(resumed)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_same_tensors(first.get(part, {}), second.get(part, {}), part)
    assert read_result(straight).metrics == read_result(resumed).metrics
    assert rows_without_clock(straight) == rows_without_clock(resumed)


@dataclass(frozen=True)
class Kind:
    """What tells tasks apart for the framework: the base they build on, their data, whether they look across ranks."""

    base: str
    needs: tuple[str, ...]
    gathers: bool

    def __str__(self):
        return "-".join([self.base, *self.needs, *(["gathers"] if self.gathers else [])])


def task_settings(name):
    """Return the task's node as its YAML writes it, on top of those that its defaults list names."""
    content = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())
    parents = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    inherited = {key: value for parent in parents for key, value in task_settings(parent).items()}
    return {**inherited, **content.get("task", content)}


def kind_of(name):
    settings = task_settings(name)
    methods = {task_settings(task)["_target_"] for task in TASKS}
    bases = [
        base for base in get_object(settings["_target_"]).__mro__ if f"{base.__module__}.{base.__name__}" not in methods
    ]
    return Kind(bases[0].__name__, tuple(settings["needs"]), bool(settings.get("gather_batch", False)))


@cache
def one_task_of_each_kind():
    """Return kind to task: the first task by name of each kind there is in conf/task."""
    return {str(kind_of(task)): task for task in reversed(TASKS)}


def every_kind(kinds):
    """Return the mark that runs a test on the task of each kind; one whose extra is missing is skipped and says so."""
    missing = {task: missing_extra(task) for task in kinds.values()}
    marks = {task: [pytest.mark.skip(reason=reason)] if reason else [] for task, reason in missing.items()}
    tasks = [pytest.param(task, marks=marks[task], id=kind) for kind, task in kinds.items()]
    return pytest.mark.parametrize("task", tasks)

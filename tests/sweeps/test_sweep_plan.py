"""What is decided before a sweep starts: is it one, where, by which launcher, how many jobs; and resuming it."""

import json
import subprocess
import sys

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from launch.command_line import read_command_line
from launch.compose import HYDRA_VERSION_BASE
from launch.groups import CONF, CONFIG_NAME
from launch.sweep_plan import plan_sweep, resumed_line
from records.errors import UserError


def plan_of(*arguments):
    return plan_sweep(read_command_line(list(arguments)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "seed=0"], True),
        (["seed=0"], False),
        (["sweep=seeds"], True),
        (["sweep=default"], False),
        (["sweep.resume=somewhere"], True),
        (["sweep.resume=null"], False),
        (["sweep=seeds", "hydra.mode=RUN"], False),
        (["hydra.mode=MULTIRUN"], True),
    ],
)
def test_what_is_a_sweep(arguments, expected):
    assert read_command_line(arguments).multirun is expected


@pytest.mark.parametrize(
    ("arguments", "swept", "jobs"),
    [
        (["seed=0,1,2", "task.bits=16,32"], ("seed", "task.bits"), 6),
        (["seed=range(0,4)"], ("seed",), 4),
        (["seed=0,1,0"], ("seed",), 2),
        (["seed=3", "task.bits=8"], (), 1),
        (["sweep=seeds"], ("seed",), 5),
        (["sweep=seeds", "seed=0,1"], ("seed",), 2),
        (["sweep=seeds", "seed=7"], (), 1),
        (["sweep=bits", "seed=0,1"], ("task.bits", "seed"), 8),
        (["sweep=folds"], ("data.fold",), 5),
        (["task=greedyhash,csq"], ("task",), 2),
    ],
)
def test_the_jobs_are_counted_before_they_start(arguments, swept, jobs):
    plan = plan_of("-m", *arguments)
    assert (plan.swept, plan.expected) == (swept, jobs)


def test_the_directory_is_decided_once_and_for_all(tmp_path):
    plan = plan_of("-m", "seed=0,1", f"paths.output_dir={tmp_path}")
    assert plan.directory.parent == tmp_path / "sweeps"
    assert f'hydra.sweep.dir="{plan.directory}"' in plan.arguments
    given = plan_of("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'a b'}")
    assert given.directory == tmp_path / "a b"
    assert [one for one in given.arguments if "sweep.dir" in one] == [f'hydra.sweep.dir="{tmp_path / "a b"}"']


def test_slots_choose_the_launcher():
    assert plan_of("-m", "seed=0,1").launcher == "basic"
    plan = plan_of("-m", "seed=0,1", "sweep.slots=2")
    assert (plan.launcher, plan.slots) == ("slots", 2)
    assert plan.arguments[-1] == "hydra/launcher=slots"
    explicit = plan_of("-m", "seed=0,1", "hydra/launcher=slots")
    assert explicit.launcher == "slots"
    assert explicit.arguments.count("hydra/launcher=slots") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep.slots=0"], "sweep.slots=0"),
        (["sweep.slots=two"], "sweep.slots=two"),
        (["sweep.slots=2", "hydra/launcher=basic"], "hydra/launcher=basic"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments, expected):
    with pytest.raises(UserError, match=expected):
        plan_of("-m", "seed=0,1", *arguments)


def test_a_resumed_sweep_takes_what_was_typed_before_and_what_is_typed_wins(tmp_path):
    typed = ["-m", "seed=0,1", "task.bits=16", f"hydra.sweep.dir={tmp_path}", "sweep.slots=2", "quiet=true"]
    first = plan_of(*typed)
    first.save()
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["overrides"] == ["seed=0,1", "task.bits=16", "sweep.slots=2"]
    line = resumed_line(read_command_line([f"sweep.resume={tmp_path}", "seed=0,1,2"]))
    assert line.overrides == ("seed=0,1,2", "task.bits=16", "sweep.slots=2", f'sweep.resume="{tmp_path}"')
    plan = plan_sweep(line)
    assert (plan.directory, plan.expected, plan.launcher) == (tmp_path, 3, "slots")
    assert plan.resume_command == f"python run.py sweep.resume={tmp_path}"
    assert first.repeat_command == "python run.py -m seed=0,1 task.bits=16 sweep.slots=2"
    assert plan.repeat_command == "python run.py -m seed=0,1,2 task.bits=16 sweep.slots=2"
    assert (first.is_quiet, plan.is_quiet) == (True, False)


def test_only_the_directory_of_a_sweep_is_resumed(tmp_path):
    with pytest.raises(UserError, match=r"sweep\.resume=.*sweep\.json is missing"):
        resumed_line(read_command_line([f"sweep.resume={tmp_path}"]))


def test_the_parent_of_a_sweep_imports_neither_torch_nor_lightning():
    code = (
        "import sys; import run, launch.sweep; from launch.command_line import read_command_line as read; "
        "from launch.sweep_plan import plan_sweep; plan_sweep(read(['-m', 'seed=0,1', 'sweep.slots=2'])); "
        "print([m for m in ('torch', 'lightning', 'timm', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["task=ldam,ce", "data=digits_lt", "task.classifier=linear", "data.imbalance_ratio=50"],
        [
            "task=tip_adapter,tip_adapter_f",
            "data=digits_fewshot",
            "task.alpha_range=[0.1,10.0]",
            "trainer.max_epochs=3",
        ],
        ["task=csq,orthohash", "task.bits=16"],
    ],
)
def test_a_key_that_the_default_choice_lacks_fits_the_choices_that_are_swept(arguments):
    plan = plan_of("-m", *arguments)
    typed = [text for text in plan.arguments if not text.startswith("-")]
    with initialize_config_dir(config_dir=str(CONF), version_base=HYDRA_VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        loader.load_configuration(CONFIG_NAME, typed, RunMode.MULTIRUN)
        (jobs,) = BasicSweeper.split_arguments(OverridesParser.create(loader).parse_overrides(typed), None)
    assert len(jobs) == 2
    assert all(set(arguments[1:]) <= set(job) for job in jobs)

"""mode=draws: each draw is what its own run gives, is told with mean and interval, and pairs with other runs."""

import csv
import json
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coop_splits import FewShotImages
from launch.compose import compose_config
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.problem import plan_stacks, problem_of
from lit_modules.fewshot.zeroshot import ZeroShot
from modes import draws, train
from modes.draw_checks import TRAINING_CALLBACKS, USED_CALLBACKS, check_draws_differ
from modes.test import checkpoint_of
from records.comparison import compare, read_runs
from records.draws import read_draws
from records.errors import UserError
from records.labels_file import read_labels
from records.notices import RunWarning
from records.result import read_result
from records.run_directory import RunDirectory
from records.sweep_summary import draws_of, read_jobs, summarise, write_summary

FEW_DRAWS = 3
QUICK = {
    "gda": [],
    "tip_adapter_f": ["task.epochs=2", "task.alpha_steps=20", "task.beta_steps=4"],
    "inmap": ["task.iterations=30"],
}
NO_PICTURES = ["callbacks.recognition_pictures=null", "callbacks.few_shot_pictures=null"]
SECOND_LOGGER = "{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: '${paths.run_dir}', name: second}"
EXTRA = {"gda": [f"+logger.second={SECOND_LOGGER}"]}


def run(mode, folder, overrides):
    # no bootstrap of each draw's test part: it is the metric's affair, and slow
    common = ["trainer=cpu", "callbacks.progress=null", "metric.bootstrap=20", f"paths.run_dir='{folder}'"]
    config = compose_config([f"mode={mode.__name__.rpartition('.')[2]}", *common, *overrides])
    assert mode.run(config, overrides=overrides) == 0
    return RunDirectory(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the runs over draws of each task, made once."""
    folder = tmp_path_factory.mktemp("draws")
    return {
        task: run(
            draws,
            folder / task,
            [f"task={task}", f"draws={FEW_DRAWS}", "seed=1", *quick, *EXTRA.get(task, NO_PICTURES)],
        )
        for task, quick in QUICK.items()
    }


@pytest.fixture(scope="module")
def runs_alone(tmp_path_factory):
    """Return the run of the draw of seed 2 alone, of each task."""
    folder = tmp_path_factory.mktemp("alone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {task: run(train, folder / task, [f"task={task}", "seed=2", *quick]) for task, quick in QUICK.items()}


@pytest.mark.parametrize("task", QUICK)
def test_each_draw_is_what_its_own_run_gives(runs, runs_alone, task):
    alone = read_result(runs_alone[task].result)
    draw = read_draws(runs[task].draws)[1]
    assert (draw.seed, draw.fingerprint) == (2, alone.fingerprint)
    assert draw.metrics.keys() == alone.metrics.keys()
    judged = [name for name in draw.metrics if not name.startswith("train/")]
    assert {name: draw.metrics[name] for name in judged} == pytest.approx(
        {name: alone.metrics[name] for name in judged}, abs=1e-6
    )
    # a fit is in float32, and its norms have seven digits
    assert dict(draw.metrics) == pytest.approx(alone.metrics, rel=1e-5)


def test_the_record_has_means_interval_number_and_protocol(runs):
    result, found = read_result(runs["gda"].result), read_draws(runs["gda"].draws)
    values = [draw.metrics["test/accuracy"] for draw in found]
    assert result.metrics["test/accuracy"] == pytest.approx(sum(values) / FEW_DRAWS)
    assert result.metrics["test/accuracy_low"] < min(values) <= max(values) < result.metrics["test/accuracy_high"]
    assert result.protocol["draws"] == FEW_DRAWS
    assert result.protocol["seeds"] == "1 ... 3"
    assert result.protocol["validation"] == "min(shots,4)"
    assert result.status == "completed"
    assert result.monitor["value"] == pytest.approx(sum(draw.metrics["val/accuracy"] for draw in found) / FEW_DRAWS)
    page = runs["gda"].report.read_text()
    assert "means of 3 draws" in page
    assert f"| 2 | {found[1].metrics['test/accuracy']:.4f} |" in page
    assert "Transductive: yes" in runs["inmap"].report.read_text()
    assert len(list((runs["gda"].path / "splits").glob("*.json"))) == FEW_DRAWS


@pytest.mark.parametrize("stack_gib", [1e-6, 100.0])
def test_how_many_are_solved_at_once_changes_nothing(runs, tmp_path, stack_gib):
    again = run(
        draws, tmp_path / "again", ["task=gda", f"draws={FEW_DRAWS}", "seed=1", f"stack_gib={stack_gib}", *NO_PICTURES]
    )
    for one, other in zip(read_draws(again.draws), read_draws(runs["gda"].draws), strict=True):
        assert dict(one.metrics) == pytest.approx(dict(other.metrics), abs=1e-6)


def test_tables_and_comparisons_count_every_draw(runs):
    folder = runs["gda"].path.parent
    summary = summarise([draw for job in read_jobs(folder) for draw in draws_of(folder / job.name, job)])
    assert {row.settings["task"]: row.metrics["test/accuracy"].count for row in summary.rows} == dict.fromkeys(
        QUICK, FEW_DRAWS
    )
    board = compare(read_runs([folder])).boards[0]
    assert all(one.paired.count == FEW_DRAWS and not one.other_splits for one in board.differences)
    assert len(board.differences) == len(QUICK) - 1


def test_a_draw_pairs_with_runs_of_one_draw(runs, runs_alone):
    folders = [runs["gda"].path, runs_alone["inmap"].path, runs_alone["gda"].path]
    board = compare(read_runs(folders), baseline="task=gda").boards[0]
    assert sorted(row.name for row in board.rows) == ["task=gda", "task=inmap"]
    assert board.differences[0].paired.count == 1
    gda = next(row for row in board.rows if row.name == "task=gda")
    assert (len(gda.runs), len(gda.repeats)) == (FEW_DRAWS, 1)


def test_a_folder_of_runs_over_draws_has_its_table(runs):
    folder = runs["gda"].path.parent
    page = write_summary(folder, "python run.py -m").metrics
    assert page[0] == "test/accuracy"
    assert "3 of 3" in (folder / "summary.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["draws=0"], "whole number from 1 on"),
        (["draws=true"], "whole number from 1 on"),
        (["stack_gib=0"], "must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, overrides, problem):
    config = compose_config(["mode=draws", "task=gda", f"paths.run_dir='{tmp_path}'", *overrides])
    with pytest.raises(UserError, match=problem):
        draws.run(config, overrides)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("ce", "is trained step by step"),
        ("itq", "is no such head, though it is fitted at once"),
        ("cascade", "is several heads, fitted one after another"),
        ("tau_norm", "judges weights that were trained before"),
    ],
)
def test_a_task_that_is_no_few_shot_head_is_refused_for_what_it_is(tmp_path, capsys, task, what):
    config = compose_config(["mode=draws", f"task={task}", "draws=2", f"paths.run_dir='{tmp_path}/run'", "trainer=cpu"])
    assert draws.run(config, [f"task={task}"]) == 1
    said = capsys.readouterr().err
    assert f"task={task} {what}" in said
    assert f"python run.py -m task={task} seed=0,1" in said
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_a_run_over_draws_holds_no_head_to_go_on_with(runs):
    with pytest.raises(UserError, match="keeps none of their heads"):
        checkpoint_of(runs["gda"], "auto")


def test_the_classes_and_the_pictures_are_those_of_all_draws_together(runs):
    folder, found = runs["gda"], read_draws(runs["gda"].draws)
    labels = read_labels(folder)
    assert labels.class_counts == (4,) * 10
    assert labels.sizes == {"train": 40}
    pictures = {path.name for path in folder.plots.iterdir()}
    assert pictures == {
        "class_counts.png", "class_recalls.png", "confusion.png", "reliability.png", "hardest_pairs.png",
    }  # fmt: skip
    for path in (folder.class_recalls, folder.confusion, folder.hardest_pairs):
        with Image.open(path) as image:
            assert "the test parts of 3 draws together" in image.info["Description"]
    with folder.confusion_table.open(newline="") as file:
        confusion = np.array([[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]])
    sizes = read_result(folder.result).data_sizes
    assert confusion.sum() == FEW_DRAWS * sizes["test"]
    mean = sum(draw.metrics["test/accuracy"] for draw in found) / FEW_DRAWS
    assert np.trace(confusion) / confusion.sum() == pytest.approx(mean, abs=1e-12)
    assert "plots/hardest_pairs.png" in folder.report.read_text()


def test_loggers_are_told_every_draw_and_the_means(runs):
    folder, found = runs["gda"], read_draws(runs["gda"].draws)
    with (folder.path / "second" / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [*range(FEW_DRAWS + 1)]
    told = [row["draws/test/accuracy"] for row in rows if "draws/test/accuracy" in row]
    assert told == pytest.approx([draw.metrics["test/accuracy"] for draw in found])
    assert [row["draws/seed"] for row in rows[:FEW_DRAWS]] == [1, 2, 3]
    means = read_result(folder.result).metrics
    assert rows[-1]["test/accuracy"] == pytest.approx(means["test/accuracy"])
    assert rows[-1]["test/accuracy_low"] == pytest.approx(means["test/accuracy_low"])
    assert not folder.metrics.exists()


def test_the_default_callbacks_are_known():
    assert sorted(compose_config(["task=gda"]).callbacks) == sorted((*USED_CALLBACKS, *TRAINING_CALLBACKS))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [(["callbacks=ema"], "ema"), (["callbacks.few_shot_pictures.images=3"], "few_shot_pictures")],
)
def test_callbacks_that_could_not_be_called_are_refused(tmp_path, overrides, name):
    config = compose_config(["mode=draws", "task=gda", "draws=2", f"paths.run_dir='{tmp_path}/run'", *overrides])
    with pytest.raises(UserError, match=rf"callbacks\.{name}: .*python run\.py -m task=gda seed=0,1"):
        draws.run(config, overrides)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def archive(tmp_path):
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=(size, 6)) for name, size in (("train", 32), ("test", 20))}
    rows["text"] = generator.normal(size=(4, 6))
    arrays = {f"{name}_features": one / np.linalg.norm(one, axis=1, keepdims=True) for name, one in rows.items()}
    np.savez(tmp_path / "f.npz", **arrays, train_labels=np.arange(32) % 4, test_labels=np.arange(20) % 4)
    return tmp_path / "f.npz"


def whole_pool(archive):
    return ["data=features", f"data.file='{archive}'", "data.shots=null", "data.validation=none", "draws=2"]


def test_draws_that_are_all_one_are_refused(archive, tmp_path, capsys):
    settings = ["mode=draws", "task=gda", "trainer=cpu", f"paths.run_dir='{tmp_path}/run'", *whole_pool(archive)]
    assert draws.run(compose_config(settings), overrides=settings) == 1
    said = capsys.readouterr().err
    assert "draws=2: all of them are one and the same, since data.shots=null takes every training image" in said
    assert "choose a number of data.shots" in said


def test_a_fixed_draw_is_told_of_where_the_head_has_a_seed(archive, tmp_path):
    quick = ["task=tip_adapter_f", "task.epochs=2", "task.search=false", "task.batch_size=8"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = run(draws, tmp_path / "run", [*quick, *whole_pool(archive), "callbacks.recognition_pictures=null"])
    told = [text for text in read_result(folder.result).warnings if "the draw is fixed" in text]
    assert len(told) == 1
    assert "differ by its own seed alone" in told[0]
    assert not folder.confusion.exists()
    assert not folder.confusion_table.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"split_file": "d.json"}, r"data\.split_file=d\.json holds one draw; .*\$\{seed\}"),
        ({"layout": "tip_adapter"}, "layout=tip_adapter: a cache is one support set; .*npz"),
        ({"split_seed": 4}, "split_seed=4 is typed; leave it out"),
        ({"shots": None}, "shots=null takes every training image; choose a number"),
        ({"shots": 9}, "gives every seed the same images"),
    ],
)
def test_what_fixes_the_draw_is_named(data, reason):
    settings = {"task": {"name": "gda"}, "data": {"name": "features", **data}}
    with pytest.raises(UserError, match=reason):
        check_draws_differ([settings] * 3, ["same"] * 3)


def test_draws_that_differ_pass_and_some_equal_ones_are_told_of():
    settings = [{"task": {"name": "gda"}, "data": {"name": "features"}}] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_draws_differ(settings, ["a", "b", "c"])
        check_draws_differ(settings[:1], ["a"])
    with pytest.warns(RunWarning, match="3 draws are 2 different ones"):
        check_draws_differ(settings, ["a", "b", "a"])


def test_how_far_the_draws_are_is_shown(archive, tmp_path, monkeypatch):
    told = []

    @contextmanager
    def progress(what, is_shown):
        told.append((what, is_shown))
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr(draws, "progress", progress)
    settings = [
        "mode=draws", "task=gda", "trainer=cpu", "metric.bootstrap=0", "data=features", f"data.file='{archive}'",
        "data.shots=2", "data.validation=none", "draws=2", f"paths.run_dir='{tmp_path}/run'",
        *NO_PICTURES,
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert draws.run(compose_config(settings), overrides=settings) == 0
    assert told == [("draws", True), (1, 2), (2, 2)]


class Colours(SimpleNamespace):
    """Stands for an encoder of images and sentences."""

    name, identity, image_size, resize, has_text = "colours", "1" * 64, 8, 8, True

    def encode_images(self, images):
        return images.float().mean(dim=(2, 3))

    def encode_text(self, sentences):
        return torch.tensor([[len(one), one.count("a"), one.count("b") + 1] for one in sentences]).float()


def test_heads_without_support_are_solved_once_for_all_draws_of_encoded_images(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in ("a", "b"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((9, 9, 3), generator.integers(1, 255, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / label / f"{number}.png")
    first = FewShotImages(
        dataset="folder", root=tmp_path / "photos", shots=2, seed=0, validation="none", bank_dir=tmp_path / "bank"
    )
    first.attach_encoder(Colours())
    first.setup()
    data = [first, first.redrawn(1, 1), first.redrawn(2, 2)]
    for head in (ZeroShot(), InMaP()):
        assert plan_stacks([problem_of(one, head, 2) for one in data], ["a"] * 3, 0.0) == [{0: [0, 1, 2]}]
    problems = [problem_of(one, GDA(), 2) for one in data]
    assert len(plan_stacks(problems, ["a"] * 3, 0.0)) == 3

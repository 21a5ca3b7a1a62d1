import os
import signal

import lightning as L
import pytest
import torch
from training_runs import Regression, loader, trainer

from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.metrics_table import MetricsTable, ResumedTable
from callbacks.throughput import Throughput
from records.errors import UserError
from records.metrics_file import TIMING_COLUMNS, read_rows
from records.notices import RunWarning

SCORES = (0.2, 0.5, 0.4, 0.45, 0.3, 0.6)


def kept(directory, monitor="val/score", direction="max"):
    folder = f"{directory}/checkpoints"
    return [ResumedTable(), Throughput(), BestCheckpoint(folder, monitor, direction), LastCheckpoint(folder)]


def fit(directory, epochs, resume=False, scores=SCORES, extra=(), validation=True, interval="epoch", **options):
    run = trainer(epochs, [*extra, *kept(directory)], MetricsTable(directory), **options)
    model = Regression(scores, interval)
    checkpoint = directory / "checkpoints" / "last.ckpt" if resume else None
    run.fit(model, loader(), loader(16) if validation else None, ckpt_path=checkpoint, weights_only=True)
    return run


def load(directory, name):
    return torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)


def best_score(content):
    (state,) = [state for key, state in content["callbacks"].items() if key.startswith("BestCheckpoint")]
    return float(state["best_score"])


def equal(first, second):
    """Compare nested containers of tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def without_timing(rows):
    return [{name: value for name, value in row.items() if name not in TIMING_COLUMNS} for row in rows]


def test_last_and_best_after_each_epoch(tmp_path):
    seen = []

    class Look(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                seen.append((load(tmp_path, "last")["epoch"], load(tmp_path, "best")["epoch"]))

    fit(tmp_path, 4, extra=[Look()])
    assert seen == [(0, 0), (1, 1), (2, 1)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert best_score(load(tmp_path, "last")) == pytest.approx(0.5)


def test_last_is_written_after_validation(tmp_path):
    fit(tmp_path, 1)
    assert best_score(load(tmp_path, "last")) == pytest.approx(0.2)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_resumed_run_equals_a_straight_one(tmp_path, interval):
    fit(tmp_path / "straight", 6, interval=interval)
    fit(tmp_path / "resumed", 2, interval=interval)
    run = fit(tmp_path / "resumed", 6, resume=True, interval=interval)
    for name in ("last", "best"):
        straight, resumed = load(tmp_path / "straight", name), load(tmp_path / "resumed", name)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert equal(straight[key], resumed[key]), (name, key)
        assert best_score(straight) == best_score(resumed)
    tables = [read_rows(tmp_path / name / "metrics.csv") for name in ("straight", "resumed")]
    assert without_timing(tables[0]) == without_timing(tables[1])
    assert run.checkpoint_callbacks[0].best_score == pytest.approx(0.6)


def test_best_score_survives_a_resume(tmp_path):
    fit(tmp_path, 2)
    run = fit(tmp_path, 5, resume=True)
    assert load(tmp_path, "best")["epoch"] == 1
    assert run.checkpoint_callbacks[0].best_score == pytest.approx(0.5)


def test_best_score_survives_a_moved_directory(tmp_path):
    fit(tmp_path / "old", 2)
    (tmp_path / "old").rename(tmp_path / "new")
    fit(tmp_path / "new", 5, resume=True)
    assert load(tmp_path / "new", "best")["epoch"] == 1
    assert not (tmp_path / "old").exists()


def test_a_test_elsewhere_chooses_nothing_and_misses_no_file(tmp_path, recwarn):
    fit(tmp_path / "run", 2)
    again = trainer(2, kept(tmp_path / "evaluation"), MetricsTable(tmp_path / "evaluation"))
    again.test(
        Regression(SCORES), loader(), ckpt_path=tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True
    )
    assert not [one for one in recwarn if issubclass(one.category, RunWarning)]
    assert again.checkpoint_callbacks[0].best_score is None


def test_deleted_best_is_told_and_chosen_anew(tmp_path):
    fit(tmp_path, 2)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    with pytest.warns(RunWarning, match=r"best\.ckpt is missing"):
        fit(tmp_path, 4, resume=True)
    assert load(tmp_path, "best")["epoch"] == 3


def test_low_is_good(tmp_path):
    run = trainer(3, kept(tmp_path, "val/score", "min"))
    run.fit(Regression((0.5, 0.3, 0.4)), loader(), loader(16))
    assert load(tmp_path, "best")["epoch"] == 1


def test_equal_and_nan_are_not_better(tmp_path):
    fit(tmp_path, 3, scores=(0.5, 0.5, float("nan")))
    assert load(tmp_path, "best")["epoch"] == 0


def test_number_beats_nan(tmp_path):
    fit(tmp_path, 2, scores=(float("nan"), 0.1))
    assert load(tmp_path, "best")["epoch"] == 1


def test_no_validation_part_means_no_best(tmp_path):
    fit(tmp_path, 2, validation=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert load(tmp_path, "last")["epoch"] == 1


def test_epochs_without_validation(tmp_path):
    fit(tmp_path, 5, check_val_every_n_epoch=2)
    assert load(tmp_path, "last")["epoch"] == 4
    assert load(tmp_path, "best")["epoch"] == 1
    run = fit(tmp_path, 6, resume=True, check_val_every_n_epoch=2)
    assert load(tmp_path, "best")["epoch"] == 5
    assert run.global_step == 18


def test_validation_alone_and_sanity_checks_write_nothing(tmp_path):
    run = trainer(1, kept(tmp_path))
    run.validate(Regression((0.9,)), loader(16), verbose=False)
    assert not (tmp_path / "checkpoints").exists()


def test_monitor_that_is_not_logged(tmp_path):
    with pytest.raises(UserError, match=r"val/score is not logged; choices: val/loss"):
        fit(tmp_path, 1, scores=())


def test_wrong_arguments(tmp_path):
    with pytest.raises(UserError, match="choices: max, min"):
        BestCheckpoint(str(tmp_path), "val/score", "up")
    with pytest.raises(UserError, match=r"test/score.*validation part"):
        BestCheckpoint(str(tmp_path), "test/score", "max")


def test_wrong_order_is_refused(tmp_path):
    run = trainer(1, kept(tmp_path)[::-1])
    with pytest.raises(UserError, match="put LastCheckpoint's entry last"):
        run.fit(Regression(SCORES), loader(), loader(16))


class Stop(L.Callback):
    """Stop in the middle of an epoch, in one of the ways a run is stopped."""

    def __init__(self, how, step):
        self.how, self.step = how, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step != self.step:
            return
        if self.how == "ctrl-c":
            raise KeyboardInterrupt
        if self.how == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.how == "error":
            raise RuntimeError("broken")


@pytest.fixture(scope="module")
def straight_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    fit(directory, 4)
    return directory


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "error"])
def test_stopped_run_resumes_to_the_same_end(tmp_path, straight_run, how):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises((SystemExit, RuntimeError)):
            fit(tmp_path / "stopped", 4, extra=[Stop(how, step=7)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert load(tmp_path / "stopped", "last")["epoch"] == 1
    fit(tmp_path / "stopped", 4, resume=True)
    straight, stopped = load(straight_run, "last"), load(tmp_path / "stopped", "last")
    assert equal(straight["state_dict"], stopped["state_dict"])
    assert equal(straight["optimizer_states"], stopped["optimizer_states"])
    tables = [read_rows(directory / "metrics.csv") for directory in (straight_run, tmp_path / "stopped")]
    assert without_timing(tables[0]) == without_timing(tables[1])


def test_checkpoint_names_no_folder(tmp_path):
    fit(tmp_path, 1)
    assert str(tmp_path) not in repr(load(tmp_path, "last"))
    assert str(tmp_path).encode() not in (tmp_path / "checkpoints" / "last.ckpt").read_bytes()


def test_resuming_a_run_warns_of_nothing(tmp_path, recwarn):
    fit(tmp_path, 1)
    recwarn.clear()
    fit(tmp_path, 2, resume=True)
    assert [str(w.message) for w in recwarn if "not empty" in str(w.message)] == []


class StepRegression(Regression):
    """Logs at every step too, so that rows of a cut epoch lie in the table."""

    def training_step(self, batch, batch_idx):
        self.log("train/batch_loss", self.loss(batch).detach())
        return super().training_step(batch, batch_idx)


def test_step_rows_of_the_cut_epoch_are_not_logged_twice(tmp_path):
    def run(name, epochs, extra=(), checkpoint=None):
        fitting = trainer(epochs, [*extra, *kept(tmp_path / name)], MetricsTable(tmp_path / name))
        fitting.fit(StepRegression(SCORES), loader(), loader(16), ckpt_path=checkpoint, weights_only=True)

    run("straight", 4)
    with pytest.raises(RuntimeError, match="broken"):
        run("stopped", 4, extra=[Stop("error", step=8)])
    assert [row["step"] for row in read_rows(tmp_path / "stopped" / "metrics.csv")] == list(range(8))
    run("stopped", 4, checkpoint=tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    tables = [without_timing(read_rows(tmp_path / name / "metrics.csv")) for name in ("straight", "stopped")]
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0]] == list(range(12))


class ExactRegression(Regression):
    """Keeps its validation values in float64, as the tasks do."""

    def __init__(self, scores):
        super().__init__(scores)
        self.exact_metrics = {"test/score": 0.125}

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        epoch = self.trainer.current_epoch
        self.exact_metrics |= {"val/score": self.scores[epoch], "val/other": epoch / 10}


def test_exact_metrics_of_the_best_epoch_survive_a_resume(tmp_path):
    def run(epochs, checkpoint=None):
        fitting = trainer(epochs, kept(tmp_path))
        fitting.fit(ExactRegression(SCORES), loader(), loader(16), ckpt_path=checkpoint, weights_only=True)
        return fitting.checkpoint_callbacks[0]

    run(2)
    best = run(5, tmp_path / "checkpoints" / "last.ckpt")
    assert best.best_metrics == {"val/score": 0.5, "val/other": 0.1}
    best = run(6, tmp_path / "checkpoints" / "last.ckpt")
    assert best.best_metrics == {"val/score": 0.6, "val/other": 0.5}
    assert best.best_score == 0.6
    for name in ("best", "last"):
        (state,) = (s for key, s in load(tmp_path, name)["callbacks"].items() if key.startswith("BestCheckpoint"))
        assert state["best_metrics"] == best.best_metrics


def test_a_module_without_exact_metrics_has_its_score_alone(tmp_path):
    best = fit(tmp_path, 2).checkpoint_callbacks[0]
    assert best.best_metrics == {}
    assert best.best_score == pytest.approx(0.5)

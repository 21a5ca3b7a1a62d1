import socket
import time
import warnings
from types import SimpleNamespace

import pytest
import wandb
from training_runs import Regression, loader, trainer

from callbacks import loggers, wandb_account
from callbacks.loggers import wandb_logger
from callbacks.wandb_account import choose_mode
from records.console import be_quiet
from records.errors import UserError
from records.notices import RunWarning
from records.result import RunRecord
from records.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


class Run:
    """Stands in for a W&B run, and fails when it is told to."""

    url = "https://wandb.invalid/p/abc"
    offline = False
    finished = 0

    def __init__(self, run_id, broken=False):
        self.id, self.broken, self.logged = run_id, broken, []

    def define_metric(self, *arguments, **named):
        pass

    def log(self, values):
        if self.broken:
            raise ConnectionError("gone")
        self.logged.append(values)

    def finish(self):
        self.finished += 1


def with_init(monkeypatch, init):
    calls = []

    def record(**settings):
        calls.append(settings)
        return init(**settings)

    monkeypatch.setattr(wandb, "init", record)
    return calls


def test_offline_without_a_key_says_so():
    with pytest.warns(RunWarning, match="no API key for 127.0.0.1"):
        assert choose_mode("auto") == "offline"


def test_offline_without_network_says_so(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    begun = time.monotonic()
    with pytest.warns(RunWarning, match="cannot be reached"):
        assert choose_mode("auto") == "offline"
    assert time.monotonic() - begun < wandb_account.CONNECT_SECONDS + 1


def test_online_with_key_and_server(monkeypatch, server):
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_mode("auto") == "online"


def test_key_of_the_netrc_file(monkeypatch, server, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password abc\n")
    assert choose_mode("auto") == "online"


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [("offline", "offline"), ("dryrun", "offline"), ("DISABLED", "disabled"), ("run", "online")],
)
def test_environment_decides(monkeypatch, wanted, mode):
    monkeypatch.setenv("WANDB_MODE", wanted)
    assert choose_mode("auto") == mode
    assert (choose_mode(True), choose_mode(False)) == ("offline", "online")


def test_unknown_choices(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"logger\.wandb\.offline='maybe'; choices: true, false, auto"):
        wandb_logger(str(tmp_path), "p", offline="maybe")
    monkeypatch.setenv("WANDB_MODE", "sideways")
    with pytest.raises(UserError, match="WANDB_MODE='sideways'"):
        choose_mode("auto")


def test_identity_is_kept_for_a_resumed_run(monkeypatch, tmp_path):
    calls = with_init(monkeypatch, lambda **settings: Run(settings["id"] or "abc123"))
    for _ in range(2):
        logger = wandb_logger(str(tmp_path / "run"), "project", tags=["seed0"], offline=False)
        logger.log_metrics({"a": 1.0}, step=1)
    assert [call["id"] for call in calls] == [None, "abc123"]
    assert (tmp_path / "run" / "wandb" / "run_id.txt").read_text() == "abc123\n"
    assert calls[0]["resume"] == "allow"
    assert (calls[0]["name"], calls[0]["tags"], calls[0]["dir"]) == ("run", ["seed0"], str(tmp_path / "run"))


def test_a_run_is_called_by_what_was_typed(monkeypatch, tmp_path):
    calls = with_init(monkeypatch, lambda **settings: Run("abc"))
    run = RunDirectory(tmp_path / "2026")
    typed = ["task.bits=32", "seed=1", "mode=train", "logger=wandb", "logger.wandb.offline=true", "paths.run_dir=x"]
    RunRecord.start(
        run,
        task="t",
        model="m",
        data="d",
        mode="train",
        seed=1,
        overrides=typed,
        command="c",
        resume_command="r",
    )
    for name, shown in ((None, "bits=32 seed=1"), ("mine", "mine")):
        wandb_logger(str(run.path), "project", name=name, offline=True).log_metrics({"a": 1.0}, step=1)
        assert calls[-1]["name"] == shown


def test_artifacts_are_named(tmp_path):
    assert wandb_logger(str(tmp_path), "p", offline=True, artifacts=["codes"]).artifacts == ("codes",)
    with pytest.raises(UserError, match=r"artifacts=\['weights'\]; choices: checkpoints, codes"):
        wandb_logger(str(tmp_path), "p", offline=True, artifacts=["codes", "weights"])


def test_a_run_says_where_it_lies_unless_it_is_to_be_quiet(monkeypatch, tmp_path, capsys):
    setups = []
    monkeypatch.setattr(wandb, "setup", lambda settings: setups.append(settings))
    offline = SimpleNamespace(
        id="b", offline=True, settings=SimpleNamespace(sync_dir="DIR"), define_metric=Run("b").define_metric
    )
    for run, said in ((Run("a"), f"W&B: {Run.url}\n"), (offline, "W&B: offline; `wandb sync DIR` sends it\n")):
        calls = with_init(monkeypatch, lambda run=run, **settings: run)
        for quiet, expected in ((False, said), (True, "")):
            be_quiet(quiet)
            assert wandb_logger(str(tmp_path / "run"), "p", offline=True).experiment is run
            assert capsys.readouterr().out == expected
        be_quiet(False)
    assert setups
    assert not any(one.show_info for one in setups)
    assert "anonymous" not in calls[0]


def test_a_run_is_ended_only_where_it_was_begun(monkeypatch, tmp_path):
    calls = with_init(monkeypatch, lambda **settings: Run("abc"))
    logger = wandb_logger(str(tmp_path), "p", offline=True)
    logger.finish()
    assert calls == []
    run = logger.experiment
    logger.finish()
    assert run.finished == 1


def test_what_fails_while_it_is_told_is_a_warning(monkeypatch, tmp_path):
    with_init(monkeypatch, lambda **settings: Run("abc"))
    logger = wandb_logger(str(tmp_path), "p", offline=True)
    logger.record(lambda run: run.log({"table": 1}))
    assert logger.experiment.logged == [{"table": 1}]
    with pytest.warns(RunWarning, match="left alone from here on"):
        logger.record(lambda run: run.no_such_thing())


def test_failed_start_falls_back_to_offline(monkeypatch, tmp_path):
    def init(**settings):
        if settings["mode"] == "online":
            raise TimeoutError("no answer")
        return Run("abc")

    calls = with_init(monkeypatch, init)
    logger = wandb_logger(str(tmp_path), "project", offline=False)
    with pytest.warns(RunWarning, match="could not start online.*no answer"):
        logger.log_metrics({"a": 1.0}, step=1)
    assert [(call["mode"], call["resume"]) for call in calls] == [("online", "allow"), ("offline", None)]
    assert logger.experiment.logged == [{"a": 1.0, "trainer/global_step": 1}]


def test_training_goes_on_when_nothing_starts(monkeypatch, tmp_path):
    def init(**settings):
        raise OSError("disk full")

    calls = with_init(monkeypatch, init)
    logger = wandb_logger(str(tmp_path), "project", offline=True)
    with pytest.warns(RunWarning, match="could not start offline"):
        fit(logger)
    assert len(calls) == 1


def test_training_goes_on_when_it_fails_later(monkeypatch, tmp_path):
    with_init(monkeypatch, lambda **settings: Run("abc", broken=True))
    logger = wandb_logger(str(tmp_path), "project", offline=True)
    with pytest.warns(RunWarning, match="left alone from here on.*gone") as caught:
        fit(logger)
    assert len([w for w in caught if issubclass(w.category, RunWarning)]) == 1


def fit(logger):
    run = trainer(2, [], logger, enable_checkpointing=False)
    run.fit(Regression(), loader())
    assert run.global_step == 6


def test_only_rank_zero_starts_a_run(monkeypatch, tmp_path):
    calls = with_init(monkeypatch, lambda **settings: SimpleNamespace())
    monkeypatch.setattr(loggers.rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path), "project", offline=True)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.experiment.anything()
    assert calls == []


@pytest.mark.slow
def test_real_offline_run(tmp_path):
    logger = wandb_logger(str(tmp_path), "project", offline=True)
    fit(logger)
    wandb.finish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert folder.name.endswith((tmp_path / "wandb" / "run_id.txt").read_text().strip())


def test_tags_of_the_environment_come_behind_those_of_the_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_TAGS", "bits=16,,seed0")
    logger = wandb_logger(str(tmp_path), "p", tags=["seed0"], offline=True)
    assert logger._wandb_init["tags"] == ["seed0", "bits=16"]
    monkeypatch.delenv("WANDB_TAGS")
    assert wandb_logger(str(tmp_path), "p", offline=True)._wandb_init["tags"] == []

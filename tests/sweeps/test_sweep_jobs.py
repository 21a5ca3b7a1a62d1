"""Jobs of a sweep with stand-ins for the children: what goes on, what is recorded, what is skipped, what is stopped."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from launch import processes
from launch.compose import compose_config
from launch.jobs import command_of, environment_of, job_of, place_of
from launch.sweep import SweepStopped, run_job, run_jobs, run_sweep
from records.console import be_quiet
from records.result import read_result


def attempts(directory):
    return len(read_result(directory / "result.json").resumed_from)


def environment(directory):
    lines = (directory / "environment.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("complete", "completed", None),
        ("fail", "failed", "diverged"),
        ("kill", "failed", "killed by signal 9 (SIGKILL)"),
        ("no_record", "failed", "ended with exit code 3; its last line: cannot even start"),
        ("forget", "failed", "ended with exit code 0"),
        ("crash_after", "completed", None),
        ("elsewhere", "completed", None),
    ],
)
def test_every_end_of_a_child_leaves_a_record_with_its_reason(make_plan, make_job, behave, behaviour, status, reason):
    behave({"seed=0": behaviour})
    first, second = run_jobs(make_plan(), [make_job(0, "seed=0"), make_job(1, "seed=1")], [{}])
    assert (first.status, first.reason) == (status, reason)
    assert first.overrides == ["seed=0"]
    assert second.status == "completed"
    assert read_result(make_plan().directory / "0") == first
    assert bool(first.warnings) == (behaviour == "crash_after")


def test_tests_of_other_runs_bring_their_metrics_into_the_table(make_plan, make_job, behave, tmp_path):
    behave("elsewhere")
    (result,) = run_jobs(make_plan(), [make_job(0, "mode=test", f"run={tmp_path / 'trained'}")], [{}])
    assert result.metrics == {"test/score": 1.0}


def test_a_child_killed_while_the_system_ran_out_of_memory_says_so(make_plan, make_job, behave, monkeypatch):
    counts = iter([7, 8])
    monkeypatch.setattr(processes, "_out_of_memory_kills", lambda: next(counts))
    behave("kill")
    (result,) = run_jobs(make_plan(), [make_job(0, "seed=0")], [{}])
    assert result.reason == "out of memory: killed by signal 9 (SIGKILL) by the system"


def test_the_summary_follows_every_job(make_plan, make_job, behave):
    plan = make_plan()
    behave({"seed=1": "fail"})
    run_jobs(plan, [make_job(0, "seed=0"), make_job(1, "seed=1")], [{}])
    page = (plan.directory / "summary.md").read_text()
    assert "1 of 2 started jobs completed, 1 failed" in page
    assert "diverged" in page
    assert plan.repeat_command in page
    assert "diverged" in (plan.directory / "summary.csv").read_text()
    assert (plan.directory / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_jobs_run_side_by_side_each_in_its_slot(make_plan, make_job, behave):
    behave("beside")
    plan = make_plan(slots=2)
    slots = [{"CUDA_VISIBLE_DEVICES": name, "OMP_NUM_THREADS": "3"} for name in ("A", "B")]
    jobs = [make_job(number, f"seed={number}") for number in range(2)]
    assert [result.status for result in run_jobs(plan, jobs, slots)] == ["completed"] * 2
    seen = [environment(plan.directory / str(number)) for number in range(2)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["A", "B"]
    assert seen[0]["OMP_NUM_THREADS"] == "3"
    assert (plan.directory / "0" / "output.log").is_file()


def test_a_slot_is_used_again(make_plan, make_job, behave):
    behave("complete")
    plan = make_plan(slots=2)
    jobs = [make_job(number, f"seed={number}") for number in range(5)]
    run_jobs(plan, jobs, [{"CUDA_VISIBLE_DEVICES": "A"}, {"CUDA_VISIBLE_DEVICES": "B"}])
    used = {environment(plan.directory / str(number))["CUDA_VISIBLE_DEVICES"] for number in range(5)}
    assert used == {"A", "B"}


def test_weights_and_biases_get_names_from_the_sweep_unless_the_user_chose_them(make_plan, make_job, monkeypatch):
    plan, job = make_plan(), make_job(3, "task.bits=16", "seed=1", "optim.lr=0.1")
    names = environment_of(job, place_of(job, plan), plan, {})
    assert names["WANDB_RUN_GROUP"] == "sweep"
    assert names["WANDB_JOB_TYPE"] == "t"
    assert names["WANDB_NAME"] == "bits=16 seed=1"
    assert names["WANDB_TAGS"] == "bits=16"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert environment_of(job, place_of(job, plan), plan, {})["WANDB_RUN_GROUP"] == "mine"
    lonely = make_job(4, "optim.lr=0.1")
    names = environment_of(lonely, place_of(lonely, plan), plan, {})
    assert (names["WANDB_JOB_TYPE"], names["WANDB_NAME"], names["WANDB_TAGS"]) == ("t", "4", "")


def test_a_comma_within_a_value_parts_no_tag(make_plan, make_job):
    plan = make_plan(swept=("model.widths", "task.bits", "seed"))
    job = make_job(0, "model.widths=[8,16]", "task.bits=16", "seed=1")
    assert environment_of(job, place_of(job, plan), plan, {})["WANDB_TAGS"] == "widths=[8 16],bits=16"


def test_the_child_gets_the_settings_of_its_job_and_no_setting_of_the_sweep(make_plan, make_job):
    job = make_job(0, "seed=1", "data.root='a b'")
    command = command_of(job, place_of(job, make_plan()), ("--config-dir=x",))
    assert command[2:5] == ["--config-dir=x", "seed=1", "data.root='a b'"]
    assert command[5:] == ["hydra.mode=RUN", f'hydra.run.dir="{job.directory}"']


def test_what_was_completed_is_not_run_again_whatever_its_number(make_plan, make_job, behave):
    plan = make_plan()
    behave("complete")
    run_jobs(plan, [make_job(0, "seed=0", "score=0.25"), make_job(1, "seed=1")], [{}])
    behave("fail")
    again = [make_job(0, "seed=2"), make_job(1, "score=0.25", "seed=0", "+sweep.note=x")]
    new, old = run_jobs(plan, again, [{}])
    assert (new.status, old.status) == ("failed", "completed")
    assert old.metrics == {"test/score": 0.25}
    assert read_result(plan.directory / "0-1").overrides == ["seed=2"], "number 0 belongs to other settings"
    assert run_job(plan, make_job(7, "seed=0", "score=0.25")) == 0.25
    assert not (plan.directory / "7").exists()


@pytest.mark.parametrize("ending", ["kill", "fail", "no_record"])
def test_what_was_not_completed_goes_on_in_its_own_directory(make_plan, make_job, behave, ending):
    behave(ending)
    run_jobs(make_plan(started="2000"), [make_job(0, "seed=0")], [{}])
    behave("complete")
    plan = make_plan(started="2100")
    (result,) = run_jobs(plan, [make_job(5, "seed=0")], [{}])
    assert result.status == "completed"
    assert attempts(plan.directory / "0") == 1
    assert environment(plan.directory / "0")["SWEEP_JOB_RESTART_COUNT"] == "1"
    assert not (plan.directory / "5").exists()


def test_a_killed_child_that_wrote_nothing_new_is_recorded_anew(make_plan, make_job, behave):
    plan = make_plan()
    behave("fail")
    run_jobs(plan, [make_job(0, "seed=0")], [{}])
    behave("no_record")
    (result,) = run_jobs(plan, [make_job(0, "seed=0")], [{}])
    assert result.reason.startswith("ended with exit code 3")
    assert [one["reason"] for one in result.resumed_from] == ["diverged"]


def test_fail_fast_stops_the_others_cleanly_and_starts_no_more(make_plan, make_job, behave):
    behave({"seed=0": "wait", "seed=1": "fail"})
    plan = make_plan(slots=2, fail_fast=True)
    jobs = [make_job(number, f"seed={number}") for number in range(3)]
    with pytest.raises(SweepStopped):
        run_jobs(plan, jobs, [{}, {}])
    stopped = read_result(plan.directory / "0")
    assert stopped.status == "interrupted"
    assert not (plan.directory / "2").exists()
    assert run_job(plan, jobs[2]) is None, "a worker elsewhere starts nothing either"


def test_a_worker_elsewhere_does_not_raise_under_fail_fast(make_plan, make_job, behave):
    behave("fail")
    plan = make_plan(fail_fast=True, process=("another machine", 1), launcher="submitit_slurm")
    assert run_job(plan, make_job(0, "seed=0")) is None
    assert plan.stop_file.exists()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_parent_lets_the_children_save(make_plan, make_job, behave, capfd, number, exit_code):
    behave("wait")
    plan = make_plan(slots=2)
    jobs = [make_job(one, f"seed={one}") for one in range(3)]

    def send_when_both_run():
        deadline = time.monotonic() + 30
        while len(list(plan.directory.glob("*/result.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    threading.Thread(target=send_when_both_run).start()
    assert run_sweep(plan, lambda: run_jobs(plan, jobs, [{}, {}])) == exit_code
    for one in range(2):
        result = read_result(plan.directory / str(one))
        assert (result.status, result.reason) == ("interrupted", "saved")
    assert "saved" in (plan.directory / "summary.md").read_text()
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert last_line == plan.resume_command == f"python run.py sweep.resume={plan.directory}"


@pytest.mark.parametrize(("behaviour", "exit_code"), [("complete", 0), ("fail", 1), ("kill", 1)])
def test_the_exit_code_tells_the_truth(make_plan, make_job, behave, behaviour, exit_code):
    behave({"seed=0": behaviour})
    plan = make_plan()
    jobs = [make_job(one, f"seed={one}") for one in range(2)]
    assert run_sweep(plan, lambda: run_jobs(plan, jobs, [{}])) == exit_code
    assert len(list(plan.directory.glob("*/result.json"))) == 2


def test_a_sweep_that_started_nothing_has_failed(make_plan):
    assert run_sweep(make_plan(), lambda: None) == 1


def test_a_twin_that_runs_at_the_moment_is_left_alone(make_plan, make_job, behave):
    plan = make_plan()
    behave("kill")
    run_jobs(plan, [make_job(0, "seed=0")], [{}])
    file = plan.directory / "0" / "result.json"
    file.write_text(file.read_text().replace('"failed"', '"running"'))
    assert place_of(make_job(1, "seed=0"), plan).directory == plan.directory / "1"
    assert place_of(make_job(0, "seed=0"), plan).directory == plan.directory / "0"
    later = make_plan(started="2100")
    assert place_of(make_job(1, "seed=0"), later).directory == plan.directory / "0"


@pytest.mark.parametrize("launcher", ["basic", "slots"])
def test_a_quiet_sweep_prints_what_failed_every_warning_once_and_one_line(make_plan, make_job, behave, capfd, launcher):
    behave({"seed=0": "crash_after", "seed=1": "crash_after", "seed=2": "fail"})
    plan = make_plan(is_quiet=True, launcher=launcher, expected=3)
    jobs = [make_job(one, f"seed={one}") for one in range(3)]
    try:
        assert run_sweep(plan, lambda: run_jobs(plan, jobs, [{}])) == 1
    finally:
        be_quiet(False)
    said = capfd.readouterr()
    assert said.out.splitlines() == [
        "sweep: job 2 (seed=2): diverged",
        f"sweep: 2 of 3 jobs done, 0 running, 1 failed; table: {plan.directory / 'summary.md'}",
    ]
    assert said.err.splitlines()[0].startswith("sweep: 2 of 3 jobs warned: the process ")
    assert len(said.err.splitlines()) == 3
    assert (plan.directory / "0" / "output.log").is_file()


def test_how_much_is_said_is_no_setting_of_a_job():
    config = compose_config(["seed=1", "quiet=true", "hydra.job.num=0"], with_hydra=True)
    config.hydra.overrides.task = ["seed=1", "quiet=true", "sweep.slots=2"]
    job = job_of(config, config.hydra, Path("x"))
    assert job.overrides == ("seed=1",)

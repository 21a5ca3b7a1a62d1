"""A stand-in for `run.py` in a job: leaves a record at once, then ends in the way its last argument says."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from records.result import RunRecord
from records.run_directory import RunDirectory


def main(directory: str, behaviour: str, *overrides: str) -> int:
    run = RunDirectory(Path(directory))
    (run.path).mkdir(parents=True, exist_ok=True)
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_NAME")
    lines = [f"{name}={os.environ.get(name)}" for name in (*names, "SWEEP_JOB_RESTART_COUNT")]
    (run.path / "environment.txt").write_text("\n".join(lines))
    if behaviour == "no_record":
        print("cannot even start")
        return 3
    if behaviour == "elsewhere":
        tested = [Path(text.partition("=")[2]) for text in overrides if text.startswith("run=")]
        typed = [*overrides, "hydra.mode=RUN", f'hydra.run.dir="{directory}"']
        for number, said in enumerate([["other"], typed] if tested else []):
            place = RunDirectory(tested[0] / "evaluations" / str(number))
            names = {"task": "t", "model": "m", "data": "d", "mode": "test", "seed": 0}
            record = RunRecord.start(place, **names, overrides=said, command="c", resume_command="r")
            record.finish({"test/score": float(number)})
        return 0
    record = RunRecord.start(
        run,
        task="t",
        model="m",
        data="d",
        mode="train",
        seed=0,
        overrides=overrides,
        command="c",
        resume_command="r",
        monitor="val/score",
        direction="max",
    )
    if behaviour == "wait":
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            time.sleep(60)
        except KeyboardInterrupt:
            record.interrupt("saved")
            return 130
    if behaviour == "fail":
        record.fail("diverged")
        return 1
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "forget":
        return 0
    (run.path / "begun").touch()
    if behaviour == "beside":
        deadline = time.monotonic() + 30
        while len(list(run.path.parent.glob("*/begun"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    score = next((float(text.partition("=")[2]) for text in overrides if text.startswith("score=")), 0.5)
    record.finish({"test/score": score}, score)
    return 4 if behaviour == "crash_after" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

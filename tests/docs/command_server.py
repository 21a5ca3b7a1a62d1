"""Runs command lines of run.py, each in a fork of a process that has imported everything: python command_server.py

Each line of standard input is JSON: `arguments` of run.py, `folder` to run in, `log` for what is printed. The answer is
one line with the exit code.
"""

import json
import os
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOUSE))

import run  # noqa: E402
from modes import encode, inspect, predict, report, search, test, train  # noqa: E402, F401


def act(order):
    """Become what `python run.py ARGUMENTS` is, in its folder, and end with its exit code."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    sys.argv = [str(HOUSE / "run.py"), *order["arguments"]]
    code = 1
    try:
        code = run.main(order["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    """Answer the orders one after another until the input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            act(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

"""What every test starts from."""

import gc
import signal

import pytest

# a shell starts background jobs with Ctrl-C ignored, nohup with SIGHUP; every run that a test starts would inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish():
    """Take what was imported out of the garbage collector's rounds, which look at all of it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_output_folder(monkeypatch):
    """Let runs of a test write below the folder the test chooses, whatever OUTPUT_DIR says outside."""
    monkeypatch.delenv("OUTPUT_DIR", raising=False)


@pytest.fixture(autouse=True)
def ctrl_c_afterwards():
    """Give Ctrl-C back after a test: Lightning ignores it for good once it has stopped a training in this process."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)

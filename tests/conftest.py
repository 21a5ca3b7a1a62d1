"""What every test starts from."""

import pytest


@pytest.fixture(autouse=True)
def no_output_folder(monkeypatch):
    """Let runs of a test write below the folder the test chooses, whatever OUTPUT_DIR says outside."""
    monkeypatch.delenv("OUTPUT_DIR", raising=False)

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modes.kept_memory import MALLOC_VARIABLES, keep_freed_memory


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stand for glibc, and hold what it was asked."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: calls.append((name, value)) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_glibc_is_told_to_keep_what_is_freed(asked: list[tuple[int, int]]) -> None:
    assert keep_freed_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    assert asked == [(-1, 2**31 - 1), (-3, 32 * 1024 * 1024)]


@pytest.mark.parametrize("name", MALLOC_VARIABLES)
def test_what_a_user_set_stays(asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "131072")
    assert not keep_freed_memory()
    assert asked == []


def test_other_systems_and_libraries_are_left_alone(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert asked == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has mallopt")
def test_a_large_block_is_handed_out_again_without_new_pages() -> None:
    program = (
        "import resource, ctypes\n"
        "from modes.kept_memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "size = 8 << 20\n"
        "def touch():\n"
        "    block = libc.malloc(ctypes.c_size_t(size))\n"
        "    ctypes.memset(block, 1, size)\n"
        "    libc.free(block)\n"
        "touch()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): touch()\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    assert kept == "False" or int(faults) < 100

"""A reader of W&B's offline file: LevelDB's log format after a header of 7 bytes, one protocol-buffer record each.

Releases of wandb before 0.31 had one in Python (`wandb.sdk.internal.datastore`); the messages are still wandb's own.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER = b":W&B"
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
BLOCK, FRAME = 32768, 7


def read_ended_run(path: Path, seconds: float = 60.0) -> list[Any]:
    """Return every record of a .wandb file, in order, once the run's end is in it: W&B's own process writes it late."""
    until = time.monotonic() + seconds
    while True:
        records = read_records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < until, f"{path} holds no end of the run"
        time.sleep(0.1)


def read_records(path: Path) -> list[Any]:
    """Return every record that a .wandb file holds whole, in order."""
    records = []
    for data in _chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        records.append(record)
    return records


def _chunks(content: bytes) -> Iterator[bytes]:
    assert content[:4] == HEADER
    place, whole = FRAME, b""
    while place + FRAME <= len(content):
        if BLOCK - place % BLOCK < FRAME:
            # too little of the block is left for a frame
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + FRAME])
        part = content[place + FRAME : place + FRAME + size]
        if len(part) < size:
            return  # still being written
        place += FRAME + size
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole

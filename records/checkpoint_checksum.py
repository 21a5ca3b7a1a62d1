"""The checksum that a checkpoint of ours carries in its archive's comment. Torch-free."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from records.errors import UserError

if TYPE_CHECKING:
    import os

# The archive's own comment field (PKWARE APPNOTE 4.3.16): two bytes of length, the last of the file, and the comment.
LABEL = b"sha256:"
COMMENT_SIZE = len(LABEL) + 64
LENGTH_FIELD = COMMENT_SIZE.to_bytes(2, "little")
NO_COMMENT = b"\0\0"
BLOCK = 1 << 20


def verify_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Compare a checkpoint with the checksum it carries.

    Returns:
        True when it carries one and it fits, False when it carries none.

    Raises:
        UserError: the file is missing, or its content does not fit its checksum.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: there is no such checkpoint. A run keeps checkpoints/last.ckpt and best.ckpt.")
    size = file.stat().st_size - COMMENT_SIZE
    with file.open("rb") as stream:
        stream.seek(max(size, 0))
        comment = stream.read()
        if size <= 0 or not comment.startswith(LABEL):
            return False
        stream.seek(0)
        digest = _digest(stream, size)
    if comment[len(LABEL) :] != digest:
        raise UserError(
            f"{file}: the content does not fit the checksum written with it, so the file was damaged later. "
            "Put a copy of it there, or start the run again."
        )
    return True


def _digest(stream: IO[bytes], size: int) -> bytes:
    digest = hashlib.sha256()
    while size > 0:
        block = stream.read(min(BLOCK, size))
        if not block:
            break
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()

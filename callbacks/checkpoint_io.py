"""Checkpoints that are whole, checked and plain."""

from __future__ import annotations

import errno
import hashlib
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from records.atomic_file import remove_leftovers, replace_atomically
from records.checkpoint_checksum import LABEL, LENGTH_FIELD, NO_COMMENT, verify_checkpoint
from records.environment import is_first_process
from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files written atomically, with a checksum inside, and loaded with `weights_only`.

    torch writes a ZIP archive; the SHA-256 of everything before it stands in the archive's comment. So file
    and checksum are one file: no kill between two writes can part them, a copied or renamed checkpoint keeps
    its checksum, and every reader of ZIP archives and `torch.load` itself open it as before. A checkpoint
    without the comment (written by another program) is loaded unchecked.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; until it is whole and on the disk, the previous one stays.

        Raises:
            UserError: the disk is full, a quota is reached, or the file cannot be written for another reason of the
                system; the previous checkpoint is untouched.
            TypeError: `storage_options` is given, which local files do not have.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r}: checkpoints are local files, give None")
        try:
            # Temporary files of killed runs are as large as checkpoints, and rank 0 of one run is the only writer.
            remove_leftovers(path)
            with replace_atomically(path) as file:
                _write_with_checksum(checkpoint, file)
        except OSError as error:
            raise _not_written(Path(path), error) from error

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | torch.device | str | dict[str, str] | None = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Check a checkpoint's checksum and load it: tensors and plain containers only.

        Args:
            path: the file.
            map_location: where tensors go, as in `torch.load`.
            weights_only: True or None; both load plain containers only.

        Raises:
            UserError: the file is missing, cut, changed since it was written, or holds other things than tensors and
                plain containers.
            ValueError: `weights_only=False`.
        """
        if weights_only is False:
            raise ValueError("weights_only=False runs code from the file; checkpoints are loaded with True")
        verify_checkpoint(path)
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise UserError(
                f"{path}: cannot be loaded as a checkpoint of tensors and plain containers "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
                "Put a copy of it there, or start the run again."
            ) from error


def sound_checkpoint(candidates: Sequence[Path]) -> Path | None:
    """Return the first checkpoint that can be loaded, None where there is none at all.

    A run resumes exactly from any checkpoint of its own, so a damaged one costs the epochs since the next candidate.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    problems: list[str] = []
    for path in (candidate for candidate in candidates if candidate.is_file()):
        try:
            AtomicCheckpointIO().load_checkpoint(path, map_location="meta")
        except UserError as error:
            problems.append(str(error))
            continue
        if problems and is_first_process():
            warnings.warn(f"{problems[0]} This attempt goes on from {path} instead.", RunWarning, stacklevel=2)
        return path
    if problems:
        raise UserError("\n".join(problems))
    return None


def _write_with_checksum(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    stream = _HashingStream(file)
    try:
        torch.save(checkpoint, stream)  # type: ignore[arg-type]
    except Exception:
        # torch reports a failed write in its own words; the operating system's say what to do.
        if stream.error is not None:
            raise stream.error from None
        raise
    stream.close_with_comment()


class _HashingStream:
    """A stream for `torch.save` that hashes what passes and holds the last two bytes back.

    These are the archive's comment length, which must be in place before the checksum is final.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._file = file
        self._hash = hashlib.sha256()
        self._held = b""

    def write(self, block: Any) -> int:
        view = memoryview(block).cast("B")
        pending = self._held + bytes(view[-2:])
        passed = self._held[: max(0, len(self._held) + len(view) - 2)]
        self._pass_on(passed)
        self._pass_on(view[: max(0, len(view) - 2)])
        self._held = pending[-2:]
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def close_with_comment(self) -> None:
        if self._held != NO_COMMENT:
            raise RuntimeError(f"torch.save ended its archive with {self._held!r}, not with an empty comment")
        self._pass_on(LENGTH_FIELD)
        self._file.write(LABEL + self._hash.hexdigest().encode())

    def _pass_on(self, block: bytes | memoryview) -> None:
        if self.error is not None:
            raise self.error
        try:
            self._file.write(block)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(block)


def _not_written(path: Path, error: OSError) -> UserError:
    kept = "The previous checkpoint is untouched." if path.exists() else "No checkpoint was there before."
    if error.errno in NO_SPACE:
        what, mend = "no space left to write the checkpoint", "Free some space"
    else:
        what, mend = "the checkpoint cannot be written", f"Make {path.parent} writable"
    return UserError(
        f"{path}: {what} ({error.strerror}). {kept} "
        f"{mend} (or move the run's folder to another disk, which paths.output_dir names for new runs), then resume."
    )

"""What comparing every batch with all training images costs, and whether a device has that much memory left."""

from __future__ import annotations

from pathlib import Path

import torch

from records.errors import UserError

# A step holds at most this many floats for each pair of a batch's image with a bank's row: products, terms, gradients.
# Measured at the highest point of 64 x 60,000 pairs: 7 (ADSH) to 18 (IDHN with several labels an image).
FLOATS_PER_PAIR = 18
MEMORY_TABLE = Path("/proc/meminfo")


def step_bytes(images: int, size: int) -> int:
    """Return about what one step takes that compares a batch of `images` with a bank of `size` rows, in bytes."""
    return 4 * FLOATS_PER_PAIR * images * size


def check_fits(needed: int, device: torch.device, mend: str) -> None:
    """Raise a UserError where `device` has not `needed` bytes left; where it cannot be asked, nothing is raised."""
    free = free_bytes(device)
    if free is not None and needed > free:
        raise UserError(
            f"{readable_bytes(needed)} are needed on {device.type} and {readable_bytes(free)} are free: {mend}"
        )


def free_bytes(device: torch.device) -> int | None:
    """Return the memory left on a device in bytes, None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not MEMORY_TABLE.is_file():
        return None
    available = [line for line in MEMORY_TABLE.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(available[0].split()[1]) * 1024 if available else None


def readable_bytes(count: int) -> str:
    """Return a number of bytes for people, in GB, MB or kB."""
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size), ("kB", 1e3))
    return f"{count / size:.1f} {unit}"

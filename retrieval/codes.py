"""Binary codes: the one definition of a bit, and how bits are packed.

Bit ``j`` of a code lies in byte ``j // 8`` at place ``j % 8`` (lowest first); eight bytes make a word, lowest
first. So the bytes of ``pack_bytes`` are the bytes of the words of ``pack``, and codes of any length are
padded with zero bits, which add nothing to a Hamming distance.
"""

from typing import overload

import numpy as np
import torch

WORD_BITS = 64


@overload
def to_bits(values: np.ndarray) -> np.ndarray: ...
@overload
def to_bits(values: torch.Tensor) -> torch.Tensor: ...
def to_bits(values: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Return the bits of real-valued codes: ``h > 0``, so zero and NaN are bit 0.

    Args:
        values: any shape, real.

    Returns:
        bool, the same shape.
    """
    return values > 0


def num_words(bits: int) -> int:
    """Return how many 64-bit words hold a code of ``bits`` bits.

    Raises:
        ValueError: if ``bits`` is below 1.
    """
    if bits < 1:
        raise ValueError(f"bits={bits}: a code has at least 1 bit")
    return -(-bits // WORD_BITS)


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack bits into words.

    Args:
        bits: (N, K) bool, K >= 1.

    Returns:
        (N, ceil(K / 64)) uint64, the places beyond K zero.

    Raises:
        ValueError: if the shape is not (N, K) with K >= 1.
        TypeError: if the entries are not bool (real codes go through ``to_bits`` first).
    """
    _check_bits(bits.shape, bits.dtype == np.bool_, str(bits.dtype))
    return bytes_to_words(np.packbits(bits, axis=1, bitorder="little"))


def unpack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Undo ``pack``.

    Args:
        codes: (N, ceil(K / 64)) uint64.
        bits: K, the length of a code.

    Returns:
        (N, K) bool.

    Raises:
        ValueError: if the codes are not packed codes of K bits.
    """
    check_codes(codes, bits)
    return np.unpackbits(words_to_bytes(codes), axis=1, count=bits, bitorder="little").astype(bool)


def pack_bytes(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits into bytes, on the device the tensor is on.

    Args:
        bits: (N, K) bool, K >= 1.

    Returns:
        (N, ceil(K / 8)) uint8, the places beyond K zero.

    Raises:
        ValueError: if the shape is not (N, K) with K >= 1.
        TypeError: if the entries are not bool.
    """
    _check_bits(tuple(bits.shape), bits.dtype == torch.bool, str(bits.dtype))
    rows, length = bits.shape
    padded = torch.nn.functional.pad(bits, (0, -length % 8)).reshape(rows, -(-length // 8), 8)
    place_values = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (padded * place_values).sum(dim=2, dtype=torch.uint8)


def bytes_to_words(code_bytes: np.ndarray) -> np.ndarray:
    """Join bytes into words.

    Args:
        code_bytes: (N, B) uint8, B >= 1.

    Returns:
        (N, ceil(B / 8)) uint64, missing bytes zero.
    """
    rows, length = code_bytes.shape
    padded = np.zeros((rows, -(-length // 8) * 8), dtype=np.uint8)
    padded[:, :length] = code_bytes
    return padded.view("<u8").astype(np.uint64, copy=False)


def words_to_bytes(codes: np.ndarray) -> np.ndarray:
    """Split words into bytes.

    Args:
        codes: (N, W) uint64.

    Returns:
        (N, 8 W) uint8.
    """
    return np.ascontiguousarray(codes.astype("<u8", copy=False)).view(np.uint8)


def check_codes(codes: np.ndarray, bits: int, name: str = "codes") -> None:
    """Make sure that an array holds packed codes of ``bits`` bits.

    Raises:
        ValueError: if the shape is not (N, ceil(bits / 64)), or a place beyond ``bits`` is set.
        TypeError: if the entries are not uint64.
    """
    words = num_words(bits)
    if codes.dtype != np.uint64:
        raise TypeError(f"{name} has dtype {codes.dtype}: packed codes are uint64, make them with retrieval.codes.pack")
    if codes.ndim != 2 or codes.shape[1] != words:
        raise ValueError(f"{name} has shape {codes.shape}: codes of {bits} bits are packed into (N, {words})")
    spare = words * WORD_BITS - bits
    if spare and np.any(codes[:, -1] >> np.uint64(WORD_BITS - spare)):
        raise ValueError(f"{name} has bits set beyond bits={bits}: these are longer codes, or not packed by pack()")


def _check_bits(shape: tuple[int, ...], is_bool: bool, dtype: str) -> None:
    if not is_bool:
        raise TypeError(f"bits have dtype {dtype}: they are bool, turn real-valued codes into bits with to_bits")
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"bits have shape {shape}: they are (N, K) with K >= 1")

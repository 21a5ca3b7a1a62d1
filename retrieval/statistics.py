"""What a set of codes is like, apart from any ranking: balance, correlation, distinct codes, quantization.

All of it comes from whole-number counts that add up, so codes may come in parts of any size and order.
"""

from dataclasses import dataclass

import numpy as np
import torch

from retrieval.codes import unpack

BLOCK = 8192


@dataclass(frozen=True)
class BitCounts:
    """How often each bit, and each pair of bits, is 1. Parts of a set add up with ``+``.

    Attributes:
        items: number of codes, N.
        both: (K, K) int64, codes in which both bits are 1; the diagonal counts single bits.
    """

    items: int
    both: np.ndarray

    def __add__(self, other: "BitCounts") -> "BitCounts":
        if self.both.shape != other.both.shape:
            raise ValueError(f"counts of {len(self.both)}-bit and {len(other.both)}-bit codes do not add up")
        return BitCounts(self.items + other.items, self.both + other.both)


def count_bits(codes: np.ndarray, bits: int) -> BitCounts:
    """Count ones in each bit and pair of bits.

    Args:
        codes: (N, ceil(K / 64)) uint64, from ``retrieval.codes.pack``.
        bits: K.

    Raises:
        ValueError: if the codes are not packed codes of K bits.
    """
    both = np.zeros((bits, bits), dtype=np.int64)
    for start in range(0, len(codes), BLOCK):
        # float32 for the fast product: sums of at most BLOCK ones are exact
        ones = unpack(codes[start : start + BLOCK], bits).astype(np.float32)
        both += (ones.T @ ones).astype(np.int64)
    return BitCounts(len(codes), both)


def ones_shares(counts: BitCounts) -> np.ndarray:
    """Return the share of codes in which each bit is 1, (K,) in [0, 1].

    Raises:
        ValueError: if no code was counted.
    """
    _check_not_empty(counts)
    shares: np.ndarray = np.diag(counts.both) / counts.items
    return shares


def bit_products(counts: BitCounts) -> np.ndarray:
    """Return the sum over the N codes of b_i b_j for every two bits, b in {-1, +1}: (K, K) int64, in [-N, N].

    Raises:
        ValueError: if no code was counted.
    """
    _check_not_empty(counts)
    ones = np.diag(counts.both)
    products: np.ndarray = 4 * counts.both - 2 * ones[:, None] - 2 * ones[None, :] + counts.items
    return products


def bit_balance(counts: BitCounts) -> float:
    """Return how evenly bits split the set: the mean over bits of 1 - |2 p - 1|, p being the share of ones.

    Returns:
        in [0, 1]; 1 if every bit is 1 in half of the codes, 0 if every bit is constant.

    Raises:
        ValueError: if no code was counted.
    """
    return float(np.mean(1 - np.abs(2 * ones_shares(counts) - 1)))


def bit_correlation(counts: BitCounts) -> float:
    """Return how much bits repeat each other: the mean of |b_i . b_j| / N over pairs of bits, b in {-1, +1}.

    The off-diagonal part of B^T B / N, which decorrelated codes have at zero (Weiss et al., Spectral Hashing,
    2008, eq. 2). The bits' means are not taken off, so constant bits count as repeating each other and the
    value always exists.

    Returns:
        in [0, 1]; 0 if all pairs are orthogonal, 1 if all bits are equal, opposite or constant; 0 for a
        single bit.

    Raises:
        ValueError: if no code was counted.
    """
    _check_not_empty(counts)
    bits = len(counts.both)
    if bits == 1:
        return 0.0
    off_diagonal = np.abs(bit_products(counts)).sum() - bits * counts.items
    return float(off_diagonal / (bits * (bits - 1) * counts.items))


def distinct_codes(codes: np.ndarray) -> int:
    """Return how many different codes there are.

    Args:
        codes: (N, W) uint64.

    Returns:
        from 0 (no code) to N.
    """
    if len(codes) == 0:
        return 0
    if codes.shape[1] == 1:
        return len(np.unique(codes))
    return len(np.unique(codes, axis=0))


def quantization_errors(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over bits of (|h| - 1)^2 of each real-valued code.

    Halves are added to halves, in an order that the size of the batch and the device do not change, so the
    same sample gives the same digits in every batch.

    Args:
        values: (B, K) real, K >= 1, before the sign.

    Returns:
        (B,) float64, at least 0; NaN or infinite where a value is.
    """
    bits = values.shape[1]
    terms = (values.detach().to(torch.float64).abs() - 1).square()
    while terms.shape[1] > 1:
        padded = torch.nn.functional.pad(terms, (0, terms.shape[1] % 2))
        half = padded.shape[1] // 2
        terms = padded[:, :half] + padded[:, half:]
    return terms[:, 0] / bits


def _check_not_empty(counts: BitCounts) -> None:
    if counts.items == 0:
        raise ValueError("there is no code to take statistics of")

"""Hash centres: one code for each class, far from every other, for any number of bits and classes.

Hadamard matrices where they are large enough, otherwise the best of several linear codes: the smallest distance within
a linear code is its smallest weight, so a code of 65,536 words is judged without looking at a pair of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from retrieval.codes import pack, unpack

CentreRule = Literal["best", "half", "bernoulli"]

WORK = 2**23
MAX_CANDIDATES = 2048
MIN_CANDIDATES = 16
MAX_PUNCTURINGS = 256


@dataclass(frozen=True)
class Centres:
    """A code for each class.

    Attributes:
        signs: (C, K) int8, -1 or 1.
        min_distance: any two centres differ in at least this many bits; K for a single class.
        construction: what they are made of, in words.
    """

    signs: np.ndarray
    min_distance: int
    construction: str


@dataclass(frozen=True)
class _LinearCode:
    """All sums of some words: `words` (2^k, W) uint64 of `length` bits, the zero word first."""

    words: np.ndarray
    length: int
    min_distance: int
    construction: str


def make_centres(num_classes: int, bits: int, seed: int, rule: CentreRule = "best", share: float = 0.5) -> Centres:
    """Return a centre for each class, a pure function of the arguments.

    Args:
        num_classes: C, at least 1 and at most 2^K.
        bits: K, at least 1.
        seed: of every random choice.
        rule: ``best``, rows of a Hadamard matrix and their negatives for up to 2 K classes (Yuan et al., CSQ, CVPR
            2020, algorithm 1), the linear code of the largest minimum distance found beyond that or where no such
            matrix is known; ``half``, a random ``share`` of each centre's bits is -1; ``bernoulli``, each bit is -1
            with probability ``share``.
        share: for the two random rules, in (0, 1).

    Raises:
        ValueError: a value is out of range, or there are more classes than codes.
    """
    _check(num_classes, bits, rule, share)
    if rule == "best":
        return _best_centres(num_classes, bits, seed)
    random = np.random.default_rng([seed, num_classes, bits])
    draws = random.random((num_classes, bits))
    if rule == "half":
        signs = np.where(draws.argsort(axis=1).argsort(axis=1) < int(bits * share), -1, 1)
    else:
        signs = np.where(draws < share, -1, 1)
    signs = signs.astype(np.int8)
    return Centres(signs, minimum_distance(signs), f"random signs ({rule})")


def assign_centres(label: torch.Tensor, centres: torch.Tensor, tie: torch.Tensor) -> torch.Tensor:
    """Return the centre of each sample.

    A sample of several classes takes the majority of their centres' bits; a bit without a majority is that of `tie`,
    one random code for all samples (CSQ, CVPR 2020), so equal labels have equal centres.

    Args:
        label: (B,) int64, or (B, C) multi-hot.
        centres: (C, K) of -1 and 1.
        tie: (K,) of -1 and 1.

    Returns:
        (B, K) of -1 and 1 in the type of ``centres``; zeros for a sample without any class.
    """
    if label.ndim == 1:
        return centres[label]
    present = (label > 0).to(centres.dtype)
    votes = present @ centres
    majority = torch.where(votes == 0, tie, votes.sign())
    return majority * present.any(dim=1, keepdim=True)


def random_signs(bits: int, seed: int) -> np.ndarray:
    """Return (K,) int8 of -1 and 1, each with probability one half."""
    return np.random.default_rng([seed, bits]).choice(np.array([-1, 1], dtype=np.int8), size=bits)


def minimum_distance(signs: np.ndarray) -> int:
    """Return the smallest Hamming distance of two rows of (C, K) signs, by looking at every pair; K for one row."""
    words = pack(np.asarray(signs) > 0)
    smallest = signs.shape[1]
    rows = max(1, WORK // len(words))
    for start in range(0, len(words) - 1, rows):
        block, others = words[start : start + rows], words[start:]
        distances = _weights(block[:, None] ^ others[None])
        distances[np.arange(len(block)), np.arange(len(block))] = smallest
        smallest = min(smallest, int(distances.min()))
    return smallest


def gilbert_varshamov_distance(num_codes: int, bits: int) -> int:
    """Return the largest d for which the Gilbert-Varshamov bound promises `num_codes` codes of distance d.

    A code taken greedily from all words of K bits reaches C words of distance d if
    (C - 1) * sum_{i < d} binom(K, i) < 2^K (Gilbert 1952; used by Wang et al., MDSH, CVPR 2023).
    """
    if num_codes == 1:
        return bits
    ball, distance = 1, 0
    while distance < bits and (num_codes - 1) * ball < 2**bits:
        distance += 1
        ball += math.comb(bits, distance)
    return distance


def hadamard(order: int) -> np.ndarray | None:
    """Return a Hadamard matrix (order, order) int8 of -1 and 1, rows pairwise orthogonal; None where we know none.

    Sylvester's doubling of Paley's matrices (1933) for primes: every power of two, and of the multiples of four up to
    100 all but 52, 92 and 100.
    """
    if order in (1, 2):
        return np.array([[1, 1], [1, -1]], dtype=np.int8)[:order, :order]
    if order < 4 or order % 4:
        return None
    half = hadamard(order // 2)
    if half is not None:
        return np.block([[half, half], [half, -half]])
    if _is_prime(order - 1):
        return _paley_one(order - 1)
    if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        return _paley_two(order // 2 - 1)
    return None


def _check(num_classes: int, bits: int, rule: str, share: float) -> None:
    if bits < 1 or num_classes < 1:
        raise ValueError(f"{num_classes} centres of {bits} bits: both must be at least 1")
    if num_classes > 2**bits:
        raise ValueError(
            f"bits={bits}: there are {2**bits} codes for {num_classes} classes; "
            f"take at least {math.ceil(math.log2(num_classes))} bits"
        )
    if rule not in get_args(CentreRule):
        raise ValueError(f"centres={rule!r}: choose {', '.join(get_args(CentreRule))}")
    if not 0 < share < 1:
        raise ValueError(f"share={share}: it lies between 0 and 1")


def _best_centres(num_classes: int, bits: int, seed: int) -> Centres:
    matrix = hadamard(bits)
    if matrix is not None and num_classes <= 2 * bits:
        signs = np.concatenate([matrix, -matrix])[:num_classes]
        return Centres(signs, minimum_distance(signs), f"rows of a Hadamard matrix of order {bits}")
    random = np.random.default_rng([seed, num_classes, bits])
    dimension = math.ceil(math.log2(num_classes))
    codes = [_greedy_code(dimension, bits, random), *_bch_codes(dimension, bits, random)]
    best = max(codes, key=lambda code: code.min_distance)
    chosen = random.permutation(len(best.words))[:num_classes]
    signs = np.where(unpack(best.words[chosen], bits), 1, -1).astype(np.int8)
    return Centres(signs, best.min_distance, best.construction)


def _greedy_code(dimension: int, bits: int, random: np.random.Generator) -> _LinearCode:
    """Add one word at a time, the one of many random words that is farthest from all words so far and their sums."""
    words = pack(np.zeros((1, bits), dtype=bool))
    smallest = bits
    for _ in range(dimension):
        number = int(np.clip(WORK // words.size, MIN_CANDIDATES, MAX_CANDIDATES))
        candidates = pack(random.random((number, bits)) < 0.5)
        weights = np.concatenate(
            [_weights(part[:, None] ^ words[None]).min(axis=1) for part in _parts(candidates, WORK // words.size)]
        )
        best = int(weights.argmax())
        smallest = min(smallest, int(weights[best]))
        words = np.concatenate([words, words ^ candidates[best]])
    return _LinearCode(words, bits, smallest, "greedy linear code")


def _bch_codes(dimension: int, bits: int, random: np.random.Generator) -> Iterator[_LinearCode]:
    """Yield a code of `bits` bits from each extended BCH code of the next two powers of two that is large enough.

    Its dimension is cut first (shortening, which cuts the length as well and never the distance), then columns are
    left out (puncturing), those of several random choices that leave the largest distance.
    """
    first = max(3, math.ceil(math.log2(bits)))
    for degree in (first, first + 1):
        for generator in _bch_generators(degree):
            length = 2**degree
            surplus = length - 1 - (len(generator) - 1) - dimension
            if surplus < 0:
                break
            shortened = length - min(surplus, length - bits)
            code = _extended_cyclic_code(generator, dimension, shortened)
            yield _punctured(code, bits, random, f"extended BCH code of length {length}")


def _bch_generators(degree: int) -> Iterator[list[int]]:
    """Yield the generator polynomials (coefficients, lowest first) of the narrow-sense primitive BCH codes.

    They are products of the minimal polynomials of powers of a primitive element of GF(2^degree), degree by degree
    (MacWilliams and Sloane, 1977, chapter 7).
    """
    order = 2**degree - 1
    powers = _field_powers(degree)
    logarithms = {element: exponent for exponent, element in enumerate(powers)}
    generator, covered = [1], set[int]()
    for exponent in range(1, order, 2):
        if exponent in covered:
            continue
        coset = sorted({exponent * 2**j % order for j in range(degree)})
        covered |= set(coset)
        generator = _multiply_mod_2(generator, _minimal_polynomial(coset, powers, logarithms))
        yield generator


def _field_powers(degree: int) -> list[int]:
    """Return the powers 0 .. 2^degree - 2 of a primitive element of GF(2^degree), as bit patterns."""
    for polynomial in range(2**degree + 1, 2 ** (degree + 1), 2):
        powers = [1]
        while len(powers) < 2**degree:
            shifted = powers[-1] << 1
            shifted ^= polynomial if shifted >> degree else 0
            if shifted == 1:
                break
            powers.append(shifted)
        if len(powers) == 2**degree - 1:
            return powers
    raise AssertionError(f"GF(2^{degree}) has a primitive polynomial")


def _minimal_polynomial(coset: list[int], powers: list[int], logarithms: dict[int, int]) -> list[int]:
    """Return the product of (x - a^e) over the exponents e of a cyclotomic coset; its coefficients are 0 or 1."""
    order = len(powers)
    polynomial = [1]
    for exponent in coset:
        times_root = [powers[(logarithms[c] + exponent) % order] if c else 0 for c in polynomial]
        polynomial = [low ^ high for low, high in zip([*times_root, 0], [0, *polynomial], strict=True)]
    return polynomial


def _multiply_mod_2(left: list[int], right: list[int]) -> list[int]:
    product = [0] * (len(left) + len(right) - 1)
    for position, coefficient in enumerate(left):
        if coefficient:
            for shift, other in enumerate(right):
                product[position + shift] ^= other
    return product


def _extended_cyclic_code(generator: list[int], dimension: int, length: int) -> _LinearCode:
    """Return the sums of the first `dimension` shifts of a generator, with a parity bit, within `length` bits."""
    rows = np.zeros((dimension, length), dtype=bool)
    for shift in range(dimension):
        rows[shift, shift : shift + len(generator)] = generator
    rows[:, -1] = rows[:, :-1].sum(axis=1) % 2
    words = pack(np.zeros((1, length), dtype=bool))
    for row in pack(rows):
        words = np.concatenate([words, words ^ row])
    return _LinearCode(words, length, _min_weight(words, length), "")


def _punctured(code: _LinearCode, bits: int, random: np.random.Generator, name: str) -> _LinearCode:
    """Return the code on `bits` of its columns."""
    if code.length == bits:
        return _LinearCode(code.words, bits, code.min_distance, name)
    number = int(np.clip(WORK // code.words.size, MIN_CANDIDATES, MAX_PUNCTURINGS))
    choices = random.random((number, code.length)).argsort(axis=1)[:, :bits]
    masks = np.zeros((number, code.length), dtype=bool)
    np.put_along_axis(masks, choices, True, axis=1)
    distances = [_min_weight(code.words & mask, bits) for mask in pack(masks)]
    best = int(np.argmax(distances))
    words = np.concatenate(
        [pack(unpack(part, code.length)[:, masks[best]]) for part in _parts(code.words, WORK // code.length)]
    )
    return _LinearCode(words, bits, distances[best], f"{name}, shortened and punctured")


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), max(1, size)):
        yield rows[start : start + max(1, size)]


def _weights(words: np.ndarray) -> np.ndarray:
    """Return the ones of each word (..., W) uint64, as (...) uint16."""
    if words.shape[-1] == 1:
        return np.bitwise_count(words[..., 0]).astype(np.uint16)
    return np.bitwise_count(words).sum(axis=-1, dtype=np.uint16)


def _min_weight(words: np.ndarray, bits: int) -> int:
    """Return the smallest weight of all words but the first, which is zero; `bits` where there is no other."""
    return int(_weights(words[1:]).min(initial=bits))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _jacobsthal(prime: int) -> np.ndarray:
    """Return (p, p) of the Legendre symbol of i - j modulo p: 0, 1 for squares, -1 otherwise."""
    symbol = np.full(prime, -1, dtype=np.int8)
    symbol[np.arange(1, prime) ** 2 % prime] = 1
    symbol[0] = 0
    positions = np.arange(prime)
    return symbol[(positions[:, None] - positions[None, :]) % prime]


def _paley_one(prime: int) -> np.ndarray:
    """Return the matrix of order p + 1 for a prime p = 3 modulo 4."""
    bordered = np.ones((prime + 1, prime + 1), dtype=np.int8)
    bordered[0, 0] = 0
    bordered[1:, 0] = -1
    bordered[1:, 1:] = _jacobsthal(prime)
    return bordered + np.eye(prime + 1, dtype=np.int8)


def _paley_two(prime: int) -> np.ndarray:
    """Return the matrix of order 2 (p + 1) for a prime p = 1 modulo 4."""
    bordered = np.ones((prime + 1, prime + 1), dtype=np.int8)
    bordered[0, 0] = 0
    bordered[1:, 1:] = _jacobsthal(prime)
    block = np.array([[1, 1], [1, -1]], dtype=np.int8)
    on_diagonal = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    return np.kron(bordered, block) + np.kron(np.eye(prime + 1, dtype=np.int8), on_diagonal)

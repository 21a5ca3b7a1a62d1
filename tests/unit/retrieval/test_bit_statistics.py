import numpy as np
import pytest
import torch

from retrieval.codes import pack
from retrieval.statistics import (
    BLOCK,
    bit_balance,
    bit_correlation,
    bit_products,
    count_bits,
    distinct_codes,
    ones_shares,
    quantization_errors,
)


def slow_statistics(bits):
    signs = np.where(bits, 1, -1)
    length = bits.shape[1]
    balance = np.mean([1 - abs(signs[:, j].mean()) for j in range(length)])
    pairs = [abs(np.mean(signs[:, i] * signs[:, j])) for i in range(length) for j in range(i)]
    return balance, np.mean(pairs)


@pytest.mark.parametrize("bits", [2, 12, 65])
def test_balance_and_correlation(bits):
    codes = np.random.default_rng(bits).random((31, bits)) < 0.3
    balance, correlation = slow_statistics(codes)
    counts = count_bits(pack(codes), bits)
    assert bit_balance(counts) == pytest.approx(balance, rel=1e-12)
    assert bit_correlation(counts) == pytest.approx(correlation, rel=1e-12)
    signs = np.where(codes, 1, -1)
    products = [[sum(signs[:, i] * signs[:, j]) for j in range(bits)] for i in range(bits)]
    np.testing.assert_array_equal(bit_products(counts), products)
    np.testing.assert_array_equal(ones_shares(counts), [sum(codes[:, j]) / 31 for j in range(bits)])


def test_the_ends_of_the_ranges():
    every_code = np.array([[i >> j & 1 for j in range(4)] for i in range(16)], dtype=bool)
    best = count_bits(pack(every_code), 4)
    assert (bit_balance(best), bit_correlation(best)) == (1.0, 0.0)
    collapsed = count_bits(pack(np.ones((9, 4), dtype=bool)), 4)
    assert (bit_balance(collapsed), bit_correlation(collapsed)) == (0.0, 1.0)
    assert bit_correlation(count_bits(pack(every_code[:, :1]), 1)) == 0.0


def test_parts_add_up_to_the_whole():
    codes = pack(np.random.default_rng(0).random((BLOCK + 77, 20)) < 0.4)
    whole = count_bits(codes, 20)
    parts = count_bits(codes[:5], 20) + count_bits(codes[5:], 20)
    assert parts.items == whole.items
    np.testing.assert_array_equal(parts.both, whole.both)
    with pytest.raises(ValueError, match="do not add up"):
        parts + count_bits(pack(np.ones((1, 4), dtype=bool)), 4)


def test_no_code_has_no_statistics():
    empty = count_bits(pack(np.ones((0, 4), dtype=bool)), 4)
    for function in (bit_balance, bit_correlation, bit_products, ones_shares):
        with pytest.raises(ValueError, match="no code"):
            function(empty)


@pytest.mark.parametrize("bits", [3, 70])
def test_distinct_codes(bits):
    codes = np.random.default_rng(bits).random((40, bits)) < 0.5
    codes[20:] = codes[:20]
    assert distinct_codes(pack(codes)) == len({tuple(row) for row in codes.tolist()})
    assert distinct_codes(pack(codes[:0])) == 0


@pytest.mark.parametrize("bits", [1, 2, 3, 48, 65])
def test_quantization_errors(bits):
    values = torch.randn(7, bits, generator=torch.Generator().manual_seed(bits))
    errors = quantization_errors(values)
    assert errors.dtype == torch.float64
    for error, row in zip(errors.tolist(), values.tolist(), strict=True):
        assert error == pytest.approx(sum((abs(h) - 1) ** 2 for h in row) / bits, rel=1e-13)


def test_a_quantization_error_does_not_depend_on_the_batch():
    values = torch.randn(50, 48, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([quantization_errors(row[None]) for row in values])
    assert torch.equal(quantization_errors(values), alone)
    assert quantization_errors(torch.sign(values)).max() == 0

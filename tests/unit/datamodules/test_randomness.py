from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.sampling.randomness import (
    Stream,
    random_bits,
    random_generator,
    random_integers,
    random_order,
    random_seed,
)

MASK = 2**64 - 1


def slow_mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def slow_bits(seed: int, epoch: int, stream: int, index: int) -> int:
    golden = 0x9E3779B97F4A7C15
    key = 0
    for part in (seed, epoch, stream):
        key = slow_mix(((key ^ (part & MASK)) + golden) & MASK)
    return slow_mix(slow_mix((index * golden + key) & MASK) ^ key)


def test_the_slow_mixer_gives_the_published_first_output_of_splitmix64() -> None:
    assert slow_mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 0), (0, 1), (-5, 199), (2**63, 7)])
def test_bits_equal_a_loop_over_python_integers(seed: int, epoch: int) -> None:
    index = [0, 1, 2, 1000, 2**40]
    for stream in Stream:
        expected = [slow_bits(seed, epoch, stream, number) for number in index]
        assert random_bits(seed, epoch, stream, index).tolist() == expected


def test_bits_do_not_depend_on_the_company() -> None:
    whole = random_bits(3, 4, Stream.FLIP, np.arange(100))
    assert random_bits(3, 4, Stream.FLIP, [17])[0] == whole[17]
    assert (random_bits(3, 4, Stream.FLIP, np.arange(100)[::-1]) == whole[::-1]).all()


def test_seeds_epochs_streams_and_indices_all_change_the_bits() -> None:
    drawn = {
        int(random_bits(seed, epoch, stream, [index])[0])
        for seed in range(5)
        for epoch in range(5)
        for stream in Stream
        for index in range(5)
    }
    assert len(drawn) == 5 * 5 * len(Stream) * 5


def test_integers_are_in_range_and_uniform() -> None:
    drawn = random_integers(9, 0, 0, Stream.CROP_ROW, np.arange(90_000))
    counts = np.bincount(drawn, minlength=9)
    assert len(counts) == 9
    chi_square = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_square < 26.1  # 99.9 % of the distribution with 8 degrees of freedom


def test_every_bit_is_balanced_and_neighbours_are_uncorrelated() -> None:
    bits = np.unpackbits(random_bits(0, 0, Stream.FLIP, np.arange(20_000)).view(np.uint8)).reshape(-1, 64) * 1.0
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.016
    assert abs(np.corrcoef(bits[:-1].ravel(), bits[1:].ravel())[0, 1]) < 0.004


@pytest.mark.parametrize("high", [0, -1, 2**31 + 1])
def test_integers_refuse_an_impossible_range(high: int) -> None:
    with pytest.raises(ValueError, match=str(high)):
        random_integers(high, 0, 0, Stream.FLIP, [0])


def test_the_order_is_a_permutation_by_slow_keys() -> None:
    keys = [slow_bits(7, 2, Stream.ORDER, index) for index in range(50)]
    assert random_order(50, 7, 2, Stream.ORDER).tolist() == sorted(range(50), key=keys.__getitem__)
    assert random_order(0, 7, 2, Stream.ORDER).tolist() == []


def test_generators_are_pure_functions_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = torch.rand(4, generator=random_generator(0, 1, Stream.SAMPLE, 5))
    second = torch.rand(4, generator=random_generator(0, 1, Stream.SAMPLE, 5))
    other = torch.rand(4, generator=random_generator(0, 1, Stream.SAMPLE, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
    assert 0 <= random_seed(0, 1, Stream.SAMPLE, 5) < 2**63

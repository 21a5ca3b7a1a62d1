import numpy as np
import pytest
import torch

from retrieval.codes import (
    bytes_to_words,
    check_codes,
    num_words,
    pack,
    pack_bytes,
    to_bits,
    unpack,
    words_to_bytes,
)

LENGTHS = (1, 7, 8, 12, 48, 63, 64, 65, 128, 130)


def test_a_bit_is_one_exactly_above_zero():
    values = [-1.0, -0.0, 0.0, 1e-38, 2.0, float("nan")]
    expected = [False, False, False, True, True, False]
    assert to_bits(np.array(values)).tolist() == expected
    assert to_bits(torch.tensor(values)).tolist() == expected
    assert to_bits(torch.tensor(values)).dtype == torch.bool


@pytest.mark.parametrize("bits", LENGTHS)
def test_packing_puts_bit_j_at_value_two_to_the_j(bits):
    rng = np.random.default_rng(bits)
    original = rng.random((5, bits)) < 0.5
    codes = pack(original)
    assert codes.dtype == np.uint64
    assert codes.shape == (5, num_words(bits))
    for row, code in zip(original, codes, strict=True):
        whole = sum(int(word) << (64 * place) for place, word in enumerate(code))
        assert whole == sum(1 << j for j in range(bits) if row[j])
    np.testing.assert_array_equal(unpack(codes, bits), original)


@pytest.mark.parametrize("bits", LENGTHS)
def test_bytes_of_torch_are_the_bytes_of_the_words(bits):
    original = np.random.default_rng(bits).random((4, bits)) < 0.5
    packed = pack_bytes(torch.from_numpy(original))
    assert packed.dtype == torch.uint8
    assert packed.shape == (4, -(-bits // 8))
    np.testing.assert_array_equal(bytes_to_words(packed.numpy()), pack(original))
    np.testing.assert_array_equal(words_to_bytes(pack(original))[:, : packed.shape[1]], packed.numpy())


def test_no_rows_keep_their_width():
    assert pack(np.zeros((0, 70), dtype=bool)).shape == (0, 2)
    assert unpack(np.zeros((0, 2), dtype=np.uint64), 70).shape == (0, 70)
    assert pack_bytes(torch.zeros(0, 70, dtype=torch.bool)).shape == (0, 9)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="K >= 1"):
        pack(np.zeros(shape, dtype=bool))
    with pytest.raises(ValueError, match="K >= 1"):
        pack_bytes(torch.zeros(shape, dtype=torch.bool))


def test_real_codes_are_not_bits():
    with pytest.raises(TypeError, match="to_bits"):
        pack(np.ones((2, 3)))
    with pytest.raises(TypeError, match="to_bits"):
        pack_bytes(torch.ones(2, 3))


def test_codes_of_another_length_are_refused():
    codes = pack(np.ones((2, 48), dtype=bool))
    check_codes(codes, 48)
    with pytest.raises(ValueError, match="beyond bits=47"):
        check_codes(codes, 47)
    with pytest.raises(ValueError, match=r"packed into \(N, 2\)"):
        check_codes(codes, 65)
    with pytest.raises(ValueError, match="at least 1 bit"):
        check_codes(codes, 0)
    with pytest.raises(TypeError, match="uint64"):
        check_codes(codes.astype(np.int64), 48)

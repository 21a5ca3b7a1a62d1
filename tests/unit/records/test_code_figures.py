import numpy as np
import pytest

from records.code_figures import bits_picture


def test_shares_and_products_are_drawn_as_they_are():
    shares = np.array([0.25, 0.5, 1.0])
    products = np.array([[1, 0.5, -0.5], [0.5, 1, 0], [-0.5, 0, 1]])
    picture = bits_picture(shares, products)
    left, right = picture.figure.axes[:2]
    assert [bar.get_height() for bar in left.patches] == shares.tolist()
    assert np.array_equal(right.images[0].get_array(), products)
    assert right.images[0].get_clim() == (-1, 1)
    assert (left.get_xlabel(), left.get_ylabel()) == ("Bit", "Share of ones (fraction)")
    assert "0.333 in the mean and 0.500 at most" in picture.description
    assert "never change: 1." in picture.description


def test_one_bit_has_no_correlation_and_many_bits_are_drawn(tmp_path):
    assert "absolute" not in bits_picture(np.array([0.5]), np.ones((1, 1))).description
    bits_picture(np.full(256, 0.5), np.eye(256)).save(tmp_path / "bits.png")
    assert (tmp_path / "bits.png").is_file()


@pytest.mark.parametrize("shape", [(2, 3), (3, 3)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="do not go with"):
        bits_picture(np.zeros(2), np.zeros(shape))

import numpy as np
import pytest

from retrieval.bootstrap import mean_interval


def slow_interval(values, samples, seed):
    """One drawn set after the other, and order statistics by linear interpolation."""
    generator = np.random.default_rng(seed)
    means = sorted(
        sum(values[n] for n in draw) / len(values)
        for draw in generator.integers(len(values), size=(samples, len(values)))
    )

    def quantile(q):
        place = q * (samples - 1)
        below = int(place)
        return means[below] + (place - below) * (means[min(below + 1, samples - 1)] - means[below])

    return quantile(0.025), quantile(0.975)


@pytest.mark.parametrize("samples", [1, 7, 200])
def test_percentiles_of_drawn_means(samples):
    values = np.random.default_rng(1).random(30)
    assert mean_interval(values, samples, seed=5) == pytest.approx(
        slow_interval(values.tolist(), samples, 5), rel=1e-12
    )


def test_blocks_of_draws_are_one_stream(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = mean_interval(values, 300, seed=3)
    monkeypatch.setattr("retrieval.bootstrap.BLOCK", 50 * 17)
    assert mean_interval(values, 300, seed=3) == whole
    assert mean_interval(values, 300, seed=4) != whole


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(3).random(2000)
    low, high = mean_interval(values, 4000)
    half_width = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.05)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.1 * half_width)


def test_one_query_and_equal_values_have_no_width():
    assert mean_interval(np.array([0.25])) == (0.25, 0.25)
    assert mean_interval(np.ones(10)) == (1.0, 1.0)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no query"):
        mean_interval(np.zeros(0))
    with pytest.raises(ValueError, match="samples=0"):
        mean_interval(np.ones(3), 0)
    with pytest.raises(ValueError, match="bootstrap=-1"):
        mean_interval(np.ones(3), -1)
    with pytest.raises(ValueError, match="confidence=1"):
        mean_interval(np.ones(3), confidence=1)

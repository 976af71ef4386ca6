import numpy as np
import pytest
from scipy.stats import norm

from samtune.evaluation.bootstrap import mean_interval


def bca(values, confidence, resamples, seed):
    """Efron 1987, equations 2.3, 6.6 and 7.3, written out."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.sort(values[rng.integers(n, size=(resamples, n))].mean(1))
    bias = norm.ppf(np.mean(means < values.mean()))
    jackknife = np.array([np.delete(values, i).mean() for i in range(n)])
    spread = jackknife.mean() - jackknife
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    corrected = norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    return np.quantile(means, corrected)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_interval_is_bca(rng, confidence):
    values = rng.gamma(2.0, size=25)  # skewed: the correction matters
    found = mean_interval(values, confidence=confidence, resamples=40_000)
    expected = bca(values, confidence, 40_000, seed=5)
    assert found.mean == pytest.approx(values.mean())
    width = expected[1] - expected[0]
    assert found.low == pytest.approx(expected[0], abs=0.02 * width)
    assert found.high == pytest.approx(expected[1], abs=0.02 * width)


def test_it_holds_the_mean_as_often_as_it_says(rng):
    held = [
        (i := mean_interval(rng.normal(3, 1, size=30), resamples=500)).low <= 3 <= i.high
        for _ in range(300)
    ]
    assert 0.90 <= np.mean(held) <= 0.98


def test_values_that_are_not_finite_are_left_out_and_counted():
    found = mean_interval([0.5, np.nan, 0.7, np.inf, 0.6])
    assert found == mean_interval([0.5, 0.7, 0.6])
    assert found.n == 3


def test_few_and_equal_values():
    assert mean_interval([]).n == 0
    one = mean_interval([0.4])
    assert (one.mean, one.n) == (0.4, 1)
    assert np.isnan([one.low, one.high]).all()
    same = mean_interval([0.4, 0.4, 0.4])
    assert (same.low, same.high) == (same.mean, same.mean)


def test_same_seed_same_interval(rng):
    values = rng.normal(size=10)
    assert mean_interval(values) == mean_interval(values)


def test_confidence_out_of_range():
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 95"):
        mean_interval([1, 2], confidence=95)

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm

from samtune.evaluation import bootstrap
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


def test_ends_are_those_of_scipy(rng):
    values = rng.gamma(2.0, size=23)
    for method, few in (("BCa", values), ("percentile", values[:7])):  # percentiles below eight
        scipys = stats.bootstrap(
            (few,), np.mean, n_resamples=2000, method=method, rng=np.random.default_rng(3)
        ).confidence_interval
        found = mean_interval(few, resamples=2000, seed=3)
        assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_drawing_patients_is_drawing_whole_groups(rng):
    """SciPy's paired bootstrap of the patients' sums and counts."""
    values, patients = rng.normal(size=30), [f"p{i % 11}" for i in range(30)]
    sums = [values[i::11].sum() for i in range(11)]
    counts = [len(values[i::11]) for i in range(11)]
    scipys = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        n_resamples=2000,
        paired=True,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = mean_interval(values, groups=patients, resamples=2000)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)
    assert found.mean == pytest.approx(values.mean())


def test_copies_of_a_patients_case_add_no_certainty(rng):
    values = rng.normal(size=12)
    alone = mean_interval(values, resamples=500)
    copied = mean_interval(np.repeat(values, 5), groups=np.repeat(range(12), 5), resamples=500)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    believed = mean_interval(np.repeat(values, 5), resamples=500)
    assert believed.high - believed.low < 0.6 * (alone.high - alone.low)


def test_cases_of_a_single_patient_have_no_interval():
    found = mean_interval([0.1, 0.5, 0.9], groups=["p", "p", "p"])
    assert found.mean == pytest.approx(0.5)
    assert np.isnan([found.low, found.high]).all()
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        mean_interval([0.1, 0.5, 0.9], groups=["p", "q"])


def test_batches_change_nothing(rng, monkeypatch):
    values = rng.normal(size=20)
    whole = mean_interval(values, resamples=300)
    monkeypatch.setattr(bootstrap, "_CACHED_NUMBERS", 0)
    monkeypatch.setattr(bootstrap, "_BATCH_NUMBERS", 20 * 7)
    batched = mean_interval(values, resamples=300)
    assert (batched.low, batched.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_it_holds_a_skewed_mean_better_than_percentiles_would():
    """BCa's purpose: coverage on a skewed distribution, exponential with mean 1."""
    rng = np.random.default_rng(11)
    held = [
        (i := mean_interval(rng.exponential(size=40), resamples=500)).low <= 1 <= i.high
        for _ in range(300)
    ]
    assert 0.88 <= np.mean(held) <= 0.98

"""Paired statistics against SciPy, the textbook and numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.paired import (
    cohens_dz,
    compare_pair,
    holm,
    rank_biserial,
    signed_rank_p,
)

DICE, HD95, ERROR = (metric_kind(m) for m in ("dice", "hd95_mm", "volume_error_ml"))
NAN, INF = np.nan, np.inf


def test_which_columns_are_scores():
    assert metric_kind("nsd_1.5mm") == metric_kind("dice") == metric_kind("nsd_2px")
    assert not metric_kind("assd_mm").higher_is_better
    assert metric_kind("volume_error_ml").is_signed
    for column in ("case", "status", "volume_ref_ml", "diagonal_mm", "dice_mean"):
        assert metric_kind(column) is None


def test_p_is_scipys_with_pratts_zeros(rng):
    a, b = rng.normal(size=(2, 15)).round(1)
    b[:3] = a[:3]  # zeros
    found = compare_pair(a, b, DICE, resamples=50)
    assert found.p == stats.wilcoxon(b, a, zero_method="pratt").pvalue
    assert found.p != stats.wilcoxon(b, a, zero_method="wilcox").pvalue
    assert found.ties == 3


def test_exact_p_of_six_of_six():
    """All six signs equal: 2 of the 64 sign patterns are as extreme."""
    assert signed_rank_p(np.arange(1.0, 7.0)) == pytest.approx(2 / 2**6)


def test_identical_values_give_p_1_and_zero_differences(rng):
    values = np.append(rng.uniform(size=9), [0.0])
    found = compare_pair(values, values.copy(), DICE, resamples=50)
    assert found.p == 1.0
    assert (found.mean_difference, found.low, found.high, found.median_difference) == (0, 0, 0, 0)
    assert (found.rank_biserial, found.cohens_dz, found.better) == (0, 0, 0)
    assert (found.wins_b, found.ties, found.losses_b) == (0, 10, 0)


def test_effect_sizes_by_hand():
    """Ranks of 1, -2, 3, 4 are 1 to 4: (1 + 3 + 4 - 2) / 10."""
    difference = np.array([1.0, -2.0, 3.0, 4.0])
    assert rank_biserial(difference) == pytest.approx(0.6)
    # mean 1.5, squared deviations 0.25 + 12.25 + 2.25 + 6.25 = 21
    assert cohens_dz(difference) == pytest.approx(1.5 / (21 / 3) ** 0.5)
    # Pratt: the zero takes rank 1 and is dropped: ranks 2, 3
    assert rank_biserial(np.array([0.0, 1.0, -2.0])) == pytest.approx((2 - 3) / 5)
    assert np.isnan(rank_biserial(np.array([])))
    assert np.isnan(cohens_dz(np.array([1.0])))
    assert cohens_dz(np.array([2.0, 2.0])) == INF


def test_mean_difference_and_interval_are_those_of_the_differences(rng):
    a, b = rng.uniform(size=(2, 20))
    found = compare_pair(a, b, DICE, resamples=999, seed=4)
    scipys = stats.bootstrap(
        (b - a,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    assert found.mean_difference == pytest.approx((b - a).mean())
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_swapping_the_methods_swaps_signs_alone(rng):
    a, b = rng.uniform(size=(2, 20))
    a[2], b[5], a[7] = INF, NAN, NAN
    one, other = (compare_pair(x, y, HD95, resamples=300) for x, y in ((a, b), (b, a)))
    assert one.p == other.p
    assert (one.wins_b, one.losses_b) == (other.losses_b, other.wins_b)
    assert one.better == -other.better
    for name in ("mean_difference", "median_difference", "rank_biserial", "cohens_dz"):
        assert getattr(one, name) == pytest.approx(-getattr(other, name))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_infinite_distances_are_ranked_and_counted():
    a = np.array([1.0, INF, INF, 2.0, 3.0])
    b = np.array([2.0, INF, 1.0, INF, 1.0])
    found = compare_pair(a, b, HD95, resamples=50)
    # differences 1, 0, -inf, inf, -2: of size 0, 1, 2, inf, inf, ranks 1, 2, 3, 4.5, 4.5
    assert found.rank_biserial == pytest.approx((2 + 4.5 - 3 - 4.5) / 14)
    assert found.p == stats.wilcoxon([1, 0, -1e9, 1e9, -2], zero_method="pratt").pvalue
    assert (found.n, found.n_inf_a, found.n_inf_b, found.n_finite) == (5, 2, 2, 2)
    assert found.mean_difference == pytest.approx((1 - 2) / 2)
    assert (found.wins_b, found.ties, found.losses_b) == (2, 1, 2)
    assert found.better == 1  # shorter distances, by signed ranks


def test_a_false_positive_is_not_dropped_with_the_other_methods_nan():
    """Case 1: a rightly leaves the class out, b predicts it. Case 2: neither."""
    a, b = np.array([0.5, NAN, NAN]), np.array([0.6, 0.0, NAN])
    statuses = ["ok", "both_empty", "both_empty"], ["ok", "ref_empty", "both_empty"]
    found = compare_pair(a, b, DICE, statuses_a=statuses[0], statuses_b=statuses[1], resamples=50)
    assert (found.n, found.n_left_out) == (2, 1)
    assert (found.n_correct_empty_a, found.n_correct_empty_b) == (1, 0)
    assert found.mean_difference == pytest.approx((0.1 - 1.0) / 2)
    assert (found.wins_b, found.losses_b) == (1, 1)
    distance = compare_pair(
        np.array([2.0, NAN]),
        np.array([2.0, INF]),
        HD95,
        statuses_a=statuses[0][:2],
        statuses_b=statuses[1][:2],
        resamples=50,
    )
    assert (distance.ties, distance.losses_b, distance.n_inf_b) == (1, 1, 1)


def test_nan_without_that_reason_is_left_out_and_counted():
    found = compare_pair(np.array([0.5, NAN, 0.1]), np.array([0.6, 0.2, NAN]), DICE, resamples=50)
    assert (found.n, found.n_left_out) == (1, 2)
    nothing = compare_pair(np.array([NAN]), np.array([0.2]), DICE, resamples=50)
    assert nothing.n == 0
    assert np.isnan([nothing.p, nothing.mean_difference, nothing.rank_biserial]).all()
    assert nothing.better == 0


def test_errors_count_by_magnitude_and_a_crash_is_the_worst():
    a, b = np.array([-3.0, 1.0, 2.0]), np.array([2.0, -1.0, NAN])
    found = compare_pair(
        a, b, ERROR, statuses_a=["ok"] * 3, statuses_b=["ok", "ok", "missing_pred"], resamples=50
    )
    assert (found.wins_b, found.ties, found.losses_b) == (1, 1, 1)
    assert found.mean_difference == pytest.approx((-1 + 0) / 2)
    assert found.n_inf_b == 1


def test_cases_of_a_patient_are_one_observation():
    a = np.zeros(6)
    b = np.array([0.1, 0.3, 0.2, 0.2, 0.4, 0.5])
    found = compare_pair(a, b, DICE, groups=["p", "p", "q", "r", "s", "s"], resamples=50)
    means = np.array([0.2, 0.2, 0.2, 0.45])
    assert found.num_units == 4
    assert found.p == stats.wilcoxon(means, zero_method="pratt").pvalue
    assert found.cohens_dz == pytest.approx(means.mean() / means.std(ddof=1))
    assert found.mean_difference == pytest.approx(b.mean())
    assert found.n == 6


def test_holm_by_hand():
    """0.01 * 4, 0.02 * 3, max(0.03 * 2, 0.06), max(0.5 * 1, 0.06); NaN is no test."""
    corrected = holm([0.03, 0.01, NAN, 0.5, 0.02])
    assert corrected[:2] + corrected[3:] == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert np.isnan(corrected[2])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_alarms_rare():
    """Family-wise error of 5 true hypotheses: at most 5 %, where uncorrected it is 23 %."""
    rng = np.random.default_rng(5)
    alarms = [min(holm(rng.uniform(size=5))) < 0.05 for _ in range(2000)]
    assert np.mean(alarms) < 0.07

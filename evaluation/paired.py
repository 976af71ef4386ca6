"""Two methods on the same cases: differences, intervals, a rank test and how large the effect is.

Differences are *second minus first*. What isn't a number keeps its order: both infinite is no
difference, one infinite is the largest difference there is, which a rank test takes as it is.
"""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from samtune.evaluation.bootstrap import RESAMPLES, mean_interval, unit_index
from samtune.evaluation.metric_kinds import MetricKind
from samtune.evaluation.summary_statistics import quantile

Floats: TypeAlias = npt.NDArray[np.float64]
BOTH_EMPTY = "both_empty"
NO_PREDICTION = ("missing_pred", "failed")


@dataclass(frozen=True)
class PairedResult:
    """Statistics of the paired differences, second minus first.

    Attributes:
        n: pairs in the statistics.
        n_left_out: pairs in which a value is undefined, most often a class that neither has.
        n_correct_empty_a, n_correct_empty_b: pairs in which this method alone rightly left out
            the class, counted as perfect against the other's false positive.
        n_inf_a, n_inf_b: infinite values among the pairs.
        n_finite: pairs whose difference is finite; mean, interval and ``cohens_dz`` are over these.
        num_units: patients where several cases are one's, else pairs: the units of the test.
        wins_b, ties, losses_b: pairs in which the second is better, equal, worse.
        mean_difference, low, high: with its bootstrap interval.
        median_difference: over all pairs.
        rank_biserial: (R+ - R-) / (R+ + R-) of the signed ranks, in [-1, 1]; 0 if all are equal.
        cohens_dz: mean over standard deviation of the differences of the units.
        p: two-sided Wilcoxon signed-rank test; 1 if no pair differs, NaN without pairs.
        p_holm: after Holm's correction over all tests of the comparison.
        better: 1 if the second is better by signed ranks, -1 if the first, 0 if neither.
    """

    n: int
    n_left_out: int
    n_correct_empty_a: int
    n_correct_empty_b: int
    n_inf_a: int
    n_inf_b: int
    n_finite: int
    num_units: int
    wins_b: int
    ties: int
    losses_b: int
    mean_difference: float
    low: float
    high: float
    median_difference: float
    rank_biserial: float
    cohens_dz: float
    p: float
    p_holm: float
    better: int


def compare_pair(
    a: Floats,
    b: Floats,
    kind: MetricKind,
    *,
    statuses_a: Sequence[str] | None = None,
    statuses_b: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedResult:
    """Compare two methods on one metric and class.

    Args:
        a, b: one value a case, in the same order of cases; of signed errors the magnitude counts.
        kind: which way is better.
        statuses_a, statuses_b: status of each case, to tell a class rightly left out.
        groups: patient of each case; None: each case is its own.
        resamples, seed: of the bootstrap.
    """
    a, b = settled(a, kind, statuses_a), settled(b, kind, statuses_b)
    a, only_a = fill_correct_empty(a, b, kind, statuses_a)
    b, only_b = fill_correct_empty(b, a, kind, statuses_b)
    kept = ~(np.isnan(a) | np.isnan(b))
    units = unit_index(groups, len(a))[kept]
    a, b = a[kept], b[kept]
    difference = differences(a, b)
    worse = differences(_badness(a, kind), _badness(b, kind))
    finite = np.where(np.isinf(a) | np.isinf(b), np.nan, difference)
    interval = mean_interval(finite, groups=units.tolist(), resamples=resamples, seed=seed)
    of_units, worse_of_units = _unit_means(difference, units), _unit_means(worse, units)
    biserial = rank_biserial(of_units)
    return PairedResult(
        n=len(a),
        n_left_out=int((~kept).sum()),
        n_correct_empty_a=int(only_a[kept].sum()),
        n_correct_empty_b=int(only_b[kept].sum()),
        n_inf_a=int(np.isinf(a).sum()),
        n_inf_b=int(np.isinf(b).sum()),
        n_finite=interval.n,
        num_units=len(of_units),
        wins_b=int((worse < 0).sum()),
        ties=int((worse == 0).sum()),
        losses_b=int((worse > 0).sum()),
        mean_difference=interval.mean,
        low=interval.low,
        high=interval.high,
        median_difference=quantile(sorted(difference.tolist()), 0.5),
        rank_biserial=biserial,
        cohens_dz=cohens_dz(_unit_means(finite[np.isfinite(finite)], units[np.isfinite(finite)])),
        p=signed_rank_p(of_units),
        p_holm=math.nan,
        better=int(-np.sign(np.nan_to_num(rank_biserial(worse_of_units)))),
    )


def settled(values: Floats, kind: MetricKind, statuses: Sequence[str] | None) -> Floats:
    """Values as they are compared: errors without sign, no prediction the worst there is.

    Only what has no number for a missing prediction is filled, as the error of its volume.
    """
    if kind.is_signed:
        values = np.abs(values)
    if statuses is None:
        return values
    crashed = np.isnan(values) & np.isin(np.array(statuses), NO_PREDICTION)
    return np.where(crashed, 0.0 if kind.higher_is_better else np.inf, values)


def fill_correct_empty(
    values: Floats, others: Floats, kind: MetricKind, statuses: Sequence[str] | None
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Undefined values of cases whose class was rightly left out, where another method erred.

    Without this a false positive would be dropped together with the case that it is in.

    Args:
        values: of one method.
        others: of another method, or the number of others that are defined: NaN where nobody is.
        kind: says what is perfect.
        statuses: of the method's cases; None: nothing is filled.

    Returns:
        The values with the perfect one in such cases, and where these are.
    """
    empty = np.zeros(len(values), bool) if statuses is None else np.array(statuses) == BOTH_EMPTY
    filled = np.isnan(values) & empty & ~np.isnan(others)
    return np.where(filled, kind.perfect, values), filled


def differences(a: Floats, b: Floats) -> Floats:
    """``b - a``; 0 where both are the same infinity."""
    same = a == b
    result: Floats = np.where(same, 0.0, np.subtract(b, a, where=~same, out=np.zeros_like(a)))
    return result


def signed_rank_p(difference: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, zeros ranked and then dropped (Pratt 1959)."""
    if not len(difference):
        return math.nan
    if not difference.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few pairs for the normal approximation, where ties are
        return float(stats.wilcoxon(difference, zero_method="pratt").pvalue)


def rank_biserial(difference: Floats) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014), with Pratt's ranks."""
    if not len(difference):
        return math.nan
    ranks = stats.rankdata(np.abs(difference))
    plus, minus = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    return float((plus - minus) / (plus + minus)) if plus + minus else 0.0


def cohens_dz(difference: Floats) -> float:
    """Mean difference in standard deviations of the differences; 0 if all are 0.

    NaN below two values, infinite if all are the same and not 0.
    """
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) == 0:
        return float(np.copysign(np.inf, difference[0])) if difference[0] else 0.0
    return float(difference.mean() / difference.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction; NaN is no test and stays NaN."""
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(tested, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(tested) - step)))
        corrected[index] = largest
    return corrected


def with_holm(results: Sequence[PairedResult]) -> list[PairedResult]:
    """The results with ``p_holm`` over all of them."""
    corrected = holm([result.p for result in results])
    return [replace(result, p_holm=p) for result, p in zip(results, corrected, strict=True)]


def _badness(values: Floats, kind: MetricKind) -> Floats:
    return np.array([kind.badness(value) for value in values.tolist()], dtype=np.float64)


def _unit_means(values: Floats, units: npt.NDArray[np.intp]) -> Floats:
    """Mean of each unit's values; opposite infinities of a unit cancel to 0."""
    means = []
    for unit in np.unique(units):
        own = values[units == unit]
        signs = np.sign(own[np.isinf(own)])
        if len(signs):
            means.append(np.inf * signs.sum() if signs.sum() else 0.0)
        else:
            means.append(own.mean())
    return np.array(means, dtype=np.float64)

"""One metric of one class over all cases, with every value that isn't a number counted."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from samtune.evaluation.bootstrap import RESAMPLES, mean_interval


@dataclass(frozen=True)
class MetricSummary:
    """A metric over cases. ``inf`` is summarised in three ways, none of which hides it.

    Attributes:
        n: rows, one a case.
        n_nan: undefined values (class in neither mask); in no statistic.
        n_inf: infinite distances.
        n_finite: the rest.
        mean_finite: mean of the finite values alone, ``inf`` left out: read with ``n_inf``.
        finite_low, finite_high: its bootstrap interval.
        median, q1, q3: infinite values counted as infinite, so they can be infinite themselves.
        mean_capped: mean with ``inf`` replaced by the diagonal of the case's volume, the longest
            distance there; NaN where a diagonal that is needed isn't known.
        capped_low, capped_high: its bootstrap interval.
    """

    n: int
    n_nan: int
    n_inf: int
    n_finite: int
    mean_finite: float
    finite_low: float
    finite_high: float
    median: float
    q1: float
    q3: float
    mean_capped: float
    capped_low: float
    capped_high: float


def summarise_metric(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    caps: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MetricSummary:
    """Summarise the values of one metric, one a case.

    Args:
        values: NaN and inf are allowed.
        groups: the patient of each case, for the intervals; None: each case its own.
        caps: what an infinite value of each case is replaced by; NaN or None where not known.
        resamples, seed: of the bootstrap.
    """
    array = np.asarray(values, dtype=np.float64)
    is_inf = np.isinf(array)
    finite = mean_interval(array, groups=groups, resamples=resamples, seed=seed)
    capped = finite
    if is_inf.any():
        known = np.full_like(array, np.nan) if caps is None else np.asarray(caps, np.float64)
        filled = np.where(is_inf, known, array)
        if np.isfinite(filled[is_inf]).all():
            capped = mean_interval(filled, groups=groups, resamples=resamples, seed=seed)
        else:
            capped = mean_interval([])
    defined = sorted(array[~np.isnan(array)].tolist())
    return MetricSummary(
        n=len(array),
        n_nan=len(array) - len(defined),
        n_inf=int(is_inf.sum()),
        n_finite=finite.n,
        mean_finite=finite.mean,
        finite_low=finite.low,
        finite_high=finite.high,
        median=quantile(defined, 0.5),
        q1=quantile(defined, 0.25),
        q3=quantile(defined, 0.75),
        mean_capped=capped.mean,
        capped_low=capped.low,
        capped_high=capped.high,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Quantile with linear interpolation; between a finite value and ``inf`` it is ``inf``.

    Args:
        ordered: ascending, without NaN; NaN is returned if there are none.
        share: in [0, 1].
    """
    if not ordered:
        return math.nan
    position = share * (len(ordered) - 1)
    low = ordered[math.floor(position)]
    high = ordered[math.ceil(position)]
    if low == high:  # also both infinite, whose difference is no number
        return low
    return low + (high - low) * (position - math.floor(position))

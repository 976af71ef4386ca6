"""Confidence intervals of a mean over cases (Efron 1987's BCa bootstrap, by SciPy)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: over the finite values.
        low, high: ends; NaN where fewer than two values are finite.
        n: how many are.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(
    values: Sequence[float] | ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """BCa interval of the mean: one value a case, cases being independent.

    Values that are not finite are left out; ``n`` says how many were used. With few cases (below
    about 10) the interval is too narrow more often than it should be.

    Args:
        values: any scale.
        confidence: in (0, 1).
        resamples: of the bootstrap.
        seed: of the resampling.
    """
    if not 0 < confidence < 1:
        msg = f"confidence must be in (0, 1), got {confidence}"
        raise ValueError(msg)
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, 1)
    if np.ptp(finite) == 0:  # BCa is undefined, and every resample is the same
        return Interval(mean, mean, mean, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate acceleration: the ends are NaN then
        result = stats.bootstrap(
            (finite,),
            np.mean,
            confidence_level=confidence,
            n_resamples=resamples,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high), n)

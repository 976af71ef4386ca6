"""Confidence intervals over cases or patients (Efron 1987's BCa bootstrap).

A statistic is a function of weights: how often each case (or patient) was drawn. That makes one
matrix product of thousands of resamples. With one value a case and the same seed the ends are those
of ``scipy.stats.bootstrap(..., method="BCa")``.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

Floats: TypeAlias = npt.NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]

RESAMPLES = 9999
FEWEST_FOR_BCA = 8  # below, the acceleration is guesswork: percentiles instead
_CACHED_NUMBERS = 5_000_000  # 40 MB of weights
_BATCH_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: over the finite values.
        low, high: ends; NaN where fewer than two values (or patients) are there.
        n: how many values are finite.
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
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """BCa interval of the mean over cases.

    Values that are not finite are left out; ``n`` says how many were used. Below eight cases (or
    patients) the ends are plain percentiles; with fewer than about ten any such interval is too
    narrow more often than it should be.

    Args:
        values: one a case, any scale.
        groups: the patient of each case: patients are drawn with all their cases. None: every
            case is a patient's only one.
        confidence: in (0, 1).
        resamples: of the bootstrap.
        seed: of the resampling.

    Raises:
        ValueError: ``confidence`` isn't in (0, 1), or groups and values differ in number.
    """
    all_values = np.asarray(values, dtype=np.float64)
    kept = np.isfinite(all_values)
    finite = all_values[kept]
    mean = float(finite.mean()) if len(finite) else np.nan
    index = unit_index(groups, len(all_values))[kept]
    sums, counts = unit_sums(finite, index), unit_sums(np.ones_like(finite), index)
    low, high = bca_ends(
        lambda weights: (weights @ sums) / (weights @ counts),
        len(sums),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    if len(finite) > 1 and np.ptp(finite) == 0 and len(sums) > 1:
        low = high = mean  # exactly, which a sum of rounded products need not be
    return Interval(mean, low, high, len(finite))


def unit_index(groups: Sequence[Hashable] | None, num_values: int) -> npt.NDArray[np.intp]:
    """Number of the resampled unit that each value belongs to, in order of first appearance.

    Raises:
        ValueError: not one group a value.
    """
    if groups is None:
        return np.arange(num_values)
    if len(groups) != num_values:
        raise ValueError(f"{len(groups)} groups for {num_values} values, expected one each")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups], dtype=np.intp)


def unit_sums(values: Floats, index: npt.NDArray[np.intp]) -> Floats:
    """Sum of the values (``n`` or ``n k``) of each unit that has any, in order of their numbers."""
    _, position = np.unique(index, return_inverse=True)
    sums = np.zeros((int(position.max(initial=-1)) + 1, *values.shape[1:]))
    np.add.at(sums, position, values)
    return sums


def bca_ends(
    statistic: Statistic,
    num_units: int,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Ends of the BCa interval of a statistic of weighted units.

    Args:
        statistic: weights ``b n`` (how often each unit was drawn) to values ``b``; NaN where
            undefined, and such draws are left out.
        num_units: n; below two there is no interval (NaN), below eight it is by percentiles.
        confidence: in (0, 1).
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: ``confidence`` isn't in (0, 1).
    """
    if not 0 < confidence < 1:
        msg = f"confidence must be in (0, 1), got {confidence}"
        raise ValueError(msg)
    if num_units < 2:
        return np.nan, np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = [statistic(weights) for weights in resample_weights(num_units, resamples, seed)]
        values = np.concatenate(drawn)
        values = values[np.isfinite(values)]
        observed = float(statistic(np.ones((1, num_units)))[0])
        if not len(values) or not np.isfinite(observed):
            return np.nan, np.nan
        tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        if num_units >= FEWEST_FOR_BCA:
            left_out = statistic(np.ones((num_units, num_units)) - np.eye(num_units))
            tails = _corrected(tails, values, observed, left_out)
    low, high = np.quantile(values, tails)
    return float(low), float(high)


def resample_weights(num_units: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each unit is drawn in each resample, ``b n``, in batches that fit in memory."""
    if num_units * resamples <= _CACHED_NUMBERS:
        yield _cached_weights(num_units, resamples, seed)
        return
    rng = np.random.default_rng(seed)
    batch = max(1, _BATCH_NUMBERS // num_units)
    for start in range(0, resamples, batch):
        yield _draw(rng, num_units, min(batch, resamples - start))


@lru_cache(maxsize=2)
def _cached_weights(num_units: int, resamples: int, seed: int) -> Floats:
    weights = _draw(np.random.default_rng(seed), num_units, resamples)
    weights.flags.writeable = False
    return weights


def _draw(rng: np.random.Generator, num_units: int, resamples: int) -> Floats:
    drawn = rng.integers(0, num_units, (resamples, num_units))  # as SciPy draws them
    drawn += np.arange(resamples)[:, None] * num_units
    counts = np.bincount(drawn.ravel(), minlength=resamples * num_units)
    return counts.reshape(resamples, num_units).astype(np.float64)


def _corrected(tails: Floats, values: Floats, observed: float, left_out: Floats) -> Floats:
    """Efron 1987, eq. 2.3, 6.6 and 7.3: tails shifted for bias and skewness; as they are if not."""
    below = ((values < observed).mean() + (values <= observed).mean()) / 2
    spread = left_out.mean() - left_out
    power = (spread**2).sum() ** 1.5
    if not 0 < below < 1 or not power > 0:  # also NaN: a unit without which nothing is left
        return tails
    acceleration = (spread**3).sum() / (6 * power)
    bias, z = ndtri(below), ndtri(tails)
    corrected: Floats = ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
    return corrected

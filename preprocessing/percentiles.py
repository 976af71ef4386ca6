"""Percentiles of the voxels > 0 of a volume, as ``numpy.percentile`` gives them, but faster."""

import math

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.volumes import Array

HISTOGRAM_TYPES = (np.int8, np.uint8, np.int16, np.uint16)


def positive_percentiles(
    array: Array, percentiles: tuple[float, float]
) -> tuple[float, float] | None:
    """Two percentiles of the values > 0; None if there is none.

    The same float64 numbers as ``numpy.percentile`` (linear between order statistics) of these
    values as float64. Integers of up to 16 bits are counted, not sorted; others are partitioned
    in their own type.

    Args:
        array: real numbers, finite, any shape.
        percentiles: each in [0, 100].
    """
    if array.dtype in HISTOGRAM_TYPES:
        counts = _positive_counts(array)
        number = int(counts.sum())
    else:
        values = array[array > 0]
        number = values.size
    if number == 0:
        return None
    positions = [(number - 1) * (percentile / 100) for percentile in percentiles]
    below = [math.floor(position) for position in positions]
    above = [min(index + 1, number - 1) for index in below]
    if array.dtype in HISTOGRAM_TYPES:
        cumulative = np.cumsum(counts)
        ordered = {
            index: float(np.searchsorted(cumulative, index, side="right"))
            for index in {*below, *above}
        }
    else:
        wanted = sorted({*below, *above})
        values.partition(wanted)
        ordered = {index: float(values[index]) for index in wanted}
    first, second = (
        _between(ordered[low], ordered[high], position - low)
        for low, high, position in zip(below, above, positions, strict=True)
    )
    return first, second


def _positive_counts(array: Array) -> npt.NDArray[np.int64]:
    """How often each value 0, 1, 2, ... occurs, with 0 for the value 0."""
    unsigned = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    size = np.iinfo(unsigned.dtype).max + 1
    counts = np.zeros(size, dtype=np.int64)
    for plane in unsigned if unsigned.ndim > 1 else [unsigned]:  # bincount copies to 64 bits
        counts += np.bincount(plane.ravel(), minlength=size)
    counts[0] = 0
    return counts[: np.iinfo(array.dtype).max + 1]  # what lies above were negative values


def _between(low: float, high: float, share: float) -> float:
    # from the nearer end, as numpy does, so that share 1 gives `high` exactly
    if share >= 0.5:
        return high - (high - low) * (1 - share)
    return low + (high - low) * share

"""Dice, IoU, Surface Dice and robust Hausdorff distance of two masks on one grid.

Surface metrics are those of google-deepmind/surface-distance (Nikolov et al. 2021,
doi:10.2196/26151), computed by that package. Masks without a voxel never reach it: what they score
is a convention, and this file decides it.

| situation                  | dice | iou | nsd | hd95 |
|----------------------------|------|-----|-----|------|
| both empty                 | nan  | nan | nan | nan  |
| one of the two empty       | 0    | 0   | 0   | inf  |
| no prediction, or unusable | 0    | 0   | 0   | inf  |
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import surface_distance

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Status: TypeAlias = Literal["ok", "both_empty", "pred_empty", "ref_empty", "missing_pred", "failed"]

# The smallest distance whose cumulative area reaches 95 %; the factor settles exact ties, which
# plain floating-point sums would settle by rounding noise.
HD_PERCENT = 95.0 * (1 - 1e-12)


@dataclass(frozen=True)
class MaskScores:
    """What one mask scores against another.

    Attributes:
        status: ``ok``, or why the numbers are a convention.
        dice: 2 |A and B| / (|A| + |B|), in [0, 1].
        iou: |A and B| / |A or B|, in [0, 1].
        nsd: tolerance in mm -> Surface Dice at it, in [0, 1].
        hd95_mm: 95th percentile by area of the surface distances, the larger of both directions.
        volume_ref_ml: volume of the reference mask; NaN for 2D masks or an unreadable reference.
        volume_pred_ml: volume of the predicted mask; NaN for 2D masks or without a prediction.
    """

    status: Status
    dice: float
    iou: float
    nsd: dict[float, float]
    hd95_mm: float
    volume_ref_ml: float
    volume_pred_ml: float


def score_masks(
    pred: BoolArray,
    ref: BoolArray,
    *,
    spacing: Sequence[float],
    tolerances_mm: Sequence[float] = (1.0,),
) -> MaskScores:
    """Score a predicted mask against the reference mask.

    Args:
        pred: predicted mask, bool, ``x y z`` or ``x y``.
        ref: reference mask, bool, on the same grid.
        spacing: voxel size in mm, one entry per array axis, each > 0; rounded to 6 decimals, so
            that a header's 0.4000000059604645 does not push 5 voxels past a tolerance of 2 mm.
        tolerances_mm: largest distances in mm that count as agreement, each >= 0, inclusive.

    Returns:
        The scores; the module's table says what empty masks score.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes differ, the masks are not 2D or 3D, or spacing or tolerances are wrong.
    """
    tolerances = check_tolerances(tolerances_mm)
    steps = _check_masks(pred, ref, spacing)
    num_pred, num_ref = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    volumes = (mask_volume_ml(num_ref, steps), mask_volume_ml(num_pred, steps))
    if num_pred == 0 and num_ref == 0:
        nans = dict.fromkeys(tolerances, math.nan)
        return MaskScores("both_empty", math.nan, math.nan, nans, math.nan, *volumes)
    if num_pred == 0 or num_ref == 0:
        return worst_scores("pred_empty" if num_pred == 0 else "ref_empty", tolerances, *volumes)

    common = int(np.count_nonzero(pred & ref))
    nsd, hd95_mm = _surface_scores(pred, ref, steps, tolerances)
    return MaskScores(
        status="ok",
        dice=2 * common / (num_pred + num_ref),
        iou=common / (num_pred + num_ref - common),
        nsd=nsd,
        hd95_mm=hd95_mm,
        volume_ref_ml=volumes[0],
        volume_pred_ml=volumes[1],
    )


def worst_scores(
    status: Status,
    tolerances_mm: Sequence[float],
    volume_ref_ml: float = math.nan,
    volume_pred_ml: float = math.nan,
) -> MaskScores:
    """The worst that can be scored: overlaps 0, distance infinite. ``status`` says why."""
    zeros = dict.fromkeys(check_tolerances(tolerances_mm), 0.0)
    return MaskScores(status, 0.0, 0.0, zeros, math.inf, volume_ref_ml, volume_pred_ml)


def mask_volume_ml(num_voxels: int, spacing: Sequence[float]) -> float:
    """Volume in ml, to 10 significant digits; NaN for pixels (two spacings), which have none."""
    if len(spacing) != 3:
        return math.nan
    return float(f"{num_voxels * math.prod(spacing) / 1000:.10g}")


def check_tolerances(tolerances_mm: Sequence[float]) -> tuple[float, ...]:
    """The tolerances as floats, in the order given.

    Raises:
        ValueError: none, a negative or infinite one, or two that print alike in a column name.
    """
    tolerances = tuple(float(value) for value in tolerances_mm)
    if not tolerances or not all(math.isfinite(t) and t >= 0 for t in tolerances):
        raise ValueError(f"tolerances {list(tolerances)} mm: expected at least one, each >= 0")
    if len({format(t, "g") for t in tolerances}) != len(tolerances):
        raise ValueError(f"tolerances {list(tolerances)} mm: one is listed twice")
    return tolerances


def check_spacing(spacing: Sequence[float], num_axes: int) -> tuple[float, ...]:
    """The spacing in mm rounded to 6 decimals.

    Raises:
        ValueError: not one entry per axis, or one that is not finite and > 0.
    """
    steps = tuple(round(float(step), 6) for step in spacing)
    if len(steps) != num_axes or not all(math.isfinite(step) and step > 0 for step in steps):
        raise ValueError(
            f"spacing {tuple(float(step) for step in spacing)} mm: expected {num_axes} entries, "
            "one per array axis, each > 0"
        )
    return steps


def _check_masks(pred: BoolArray, ref: BoolArray, spacing: Sequence[float]) -> tuple[float, ...]:
    for name, mask in (("pred", pred), ("ref", ref)):
        if mask.dtype != np.bool_:
            raise TypeError(f"{name} is {mask.dtype}, expected a boolean mask")
    if pred.shape != ref.shape:
        raise ValueError(f"pred has shape {pred.shape}, ref {ref.shape}: expected one grid")
    if ref.ndim not in (2, 3):
        raise ValueError(f"masks of shape {ref.shape}: expected 2 or 3 axes")
    return check_spacing(spacing, ref.ndim)


def _surface_scores(
    pred: BoolArray, ref: BoolArray, spacing: tuple[float, ...], tolerances: tuple[float, ...]
) -> tuple[dict[float, float], float]:
    """Surface Dice by tolerance and HD95 of two masks that both have voxels."""
    with warnings.catch_warnings():
        # The package calls scipy.ndimage by names that SciPy has moved; the results are the same.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        distances: dict[str, Any] = surface_distance.compute_surface_distances(
            np.ascontiguousarray(ref), np.ascontiguousarray(pred), spacing
        )
    nsd = {
        t: float(surface_distance.compute_surface_dice_at_tolerance(distances, t))
        for t in tolerances
    }
    return nsd, float(surface_distance.compute_robust_hausdorff(distances, HD_PERCENT))

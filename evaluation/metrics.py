"""Dice, IoU, Surface Dice and robust Hausdorff distance of two masks on one grid.

Surface metrics are those of google-deepmind/surface-distance (Nikolov et al. 2021,
doi:10.2196/26151), by our own computation; ``definition="monai"`` gives MONAI's. What masks without
a voxel score is a convention, and this file decides it, whatever the definition.

| situation                  | dice, iou, nsd, sensitivity, precision, cldice | hd95, assd |
|----------------------------|------------------------------------------------|------------|
| both empty                 | nan                                            | nan        |
| one of the two empty       | 0                                              | inf        |
| no prediction, or unusable | 0                                              | inf        |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from samtune.evaluation.boxes import foreground_box
from samtune.evaluation.centreline import cldice_score
from samtune.evaluation.surface_scores import (
    DEFAULT_DEFINITION,
    Definition,
    check_definition,
    surface_scores,
)

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Status: TypeAlias = Literal["ok", "both_empty", "pred_empty", "ref_empty", "missing_pred", "failed"]


@dataclass(frozen=True)
class MaskScores:
    """What one mask scores against another; lengths are in pixels where there is no spacing.

    Attributes:
        status: ``ok``, or why the numbers are a convention.
        dice: 2 |A and B| / (|A| + |B|), in [0, 1].
        iou: |A and B| / |A or B|, in [0, 1].
        nsd: tolerance in mm -> Surface Dice at it, in [0, 1].
        hd95_mm: 95th percentile by area of the surface distances, the larger of both directions.
        volume_ref_ml: volume of the reference mask; NaN for 2D masks, without spacing, or if the
            reference is unreadable.
        volume_pred_ml: volume of the predicted mask; NaN likewise or without a prediction.
        assd_mm: average distance of both surfaces together; NaN if it wasn't asked for.
        sensitivity: |A and B| / |B|, in [0, 1], B being the reference.
        precision: |A and B| / |A|, in [0, 1], A being the prediction.
        cldice: overlap of the centrelines, in [0, 1]; None if it wasn't asked for.
    """

    status: Status
    dice: float
    iou: float
    nsd: dict[float, float]
    hd95_mm: float
    volume_ref_ml: float
    volume_pred_ml: float
    assd_mm: float = math.nan
    sensitivity: float = math.nan
    precision: float = math.nan
    cldice: float | None = None


def score_masks(
    pred: BoolArray,
    ref: BoolArray,
    *,
    spacing: Sequence[float] | None,
    tolerances_mm: Sequence[float] = (1.0,),
    definition: Definition = DEFAULT_DEFINITION,
    assd: bool = True,
    cldice: bool = False,
) -> MaskScores:
    """Score a predicted mask against the reference mask.

    Args:
        pred: predicted mask, bool, ``x y z`` or ``x y``.
        ref: reference mask, bool, on the same grid.
        spacing: voxel size in mm, one entry per array axis, each > 0; rounded to 6 decimals, so
            that a header's 0.4000000059604645 does not push 5 voxels past a tolerance of 2 mm.
            None for an image without: lengths and tolerances are in pixels then.
        tolerances_mm: largest distances in mm that count as agreement, each >= 0, inclusive.
        definition: of the surface metrics, ``surface-distance`` or ``monai``.
        assd: compute the average surface distance; without it the others come sooner.
        cldice: compute clDice, which is slow and made for vessels and other tubes.

    Returns:
        The scores; the module's table says what empty masks score.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes differ, the masks are not 2D or 3D, or spacing, tolerances or definition
            are wrong.
    """
    tolerances = check_tolerances(tolerances_mm)
    check_definition(definition)
    steps = _check_masks(pred, ref, spacing)
    num_pred, num_ref = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    volumes = (
        (math.nan, math.nan)
        if spacing is None
        else (mask_volume_ml(num_ref, steps), mask_volume_ml(num_pred, steps))
    )
    if num_pred == 0 and num_ref == 0:
        return _same_scores("both_empty", math.nan, math.nan, tolerances, volumes, cldice)
    if num_pred == 0 or num_ref == 0:
        status: Status = "pred_empty" if num_pred == 0 else "ref_empty"
        return worst_scores(status, tolerances, *volumes, cldice=cldice)

    box = foreground_box(pred, ref)
    pred, ref = pred[box], ref[box]
    common = int(np.count_nonzero(pred & ref))
    surface = surface_scores(pred, ref, steps, tolerances, definition=definition, assd=assd)
    return MaskScores(
        status="ok",
        dice=2 * common / (num_pred + num_ref),
        iou=common / (num_pred + num_ref - common),
        nsd=surface.nsd,
        hd95_mm=surface.hd95,
        volume_ref_ml=volumes[0],
        volume_pred_ml=volumes[1],
        assd_mm=surface.assd,
        sensitivity=common / num_ref,
        precision=common / num_pred,
        cldice=cldice_score(pred, ref) if cldice else None,
    )


def worst_scores(
    status: Status,
    tolerances_mm: Sequence[float],
    volume_ref_ml: float = math.nan,
    volume_pred_ml: float = math.nan,
    *,
    cldice: bool = False,
) -> MaskScores:
    """The worst that can be scored: overlaps 0, distance infinite. ``status`` says why."""
    tolerances = check_tolerances(tolerances_mm)
    return _same_scores(status, 0.0, math.inf, tolerances, (volume_ref_ml, volume_pred_ml), cldice)


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


def _same_scores(
    status: Status,
    share: float,
    length: float,
    tolerances: tuple[float, ...],
    volumes: tuple[float, float],
    cldice: bool,
) -> MaskScores:
    return MaskScores(
        status,
        dice=share,
        iou=share,
        nsd=dict.fromkeys(tolerances, share),
        hd95_mm=length,
        volume_ref_ml=volumes[0],
        volume_pred_ml=volumes[1],
        assd_mm=length,
        sensitivity=share,
        precision=share,
        cldice=share if cldice else None,
    )


def _check_masks(
    pred: BoolArray, ref: BoolArray, spacing: Sequence[float] | None
) -> tuple[float, ...]:
    for name, mask in (("pred", pred), ("ref", ref)):
        if mask.dtype != np.bool_:
            raise TypeError(f"{name} is {mask.dtype}, expected a boolean mask")
    if pred.shape != ref.shape:
        raise ValueError(f"pred has shape {pred.shape}, ref {ref.shape}: expected one grid")
    if ref.ndim not in (2, 3):
        raise ValueError(f"masks of shape {ref.shape}: expected 2 or 3 axes")
    return (1.0,) * ref.ndim if spacing is None else check_spacing(spacing, ref.ndim)

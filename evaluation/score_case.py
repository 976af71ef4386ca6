"""Rows of one case: every class and region of a label array against the reference."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samtune.evaluation.metrics import (
    BoolArray,
    Status,
    check_spacing,
    mask_volume_ml,
    score_masks,
    worst_scores,
)
from samtune.evaluation.regions import Region
from samtune.evaluation.table import Row

LabelArray: TypeAlias = npt.NDArray[np.integer[Any]]


def score_case(
    case: str,
    pred_label: LabelArray,
    ref_label: LabelArray,
    spacing: Sequence[float],
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
) -> list[Row]:
    """Score a predicted class map.

    Args:
        case: case id.
        pred_label: predicted classes, integers, 0 is background.
        ref_label: reference classes on the same grid.
        spacing: voxel size in mm, one entry per array axis.
        regions: what to score; one row each, in this order.
        tolerances_mm: Surface Dice tolerances in mm.

    Raises:
        ValueError: shapes differ, or a class that no region lists is in either map.
    """
    if pred_label.shape != ref_label.shape:
        raise ValueError(
            f"case '{case}': prediction has shape {pred_label.shape}, reference {ref_label.shape}"
        )
    check_listed(ref_label, regions, what=f"case '{case}': the reference")
    check_listed(pred_label, regions, what=f"case '{case}': the prediction")
    pairs = (
        (region, region_mask(pred_label, region), region_mask(ref_label, region))
        for region in regions
    )
    return score_case_masks(case, pairs, spacing, tolerances_mm)


def score_case_masks(
    case: str,
    pairs: Iterable[tuple[Region, BoolArray, BoolArray]],
    spacing: Sequence[float],
    tolerances_mm: Sequence[float] = (1.0,),
) -> list[Row]:
    """Score masks that may overlap, as those of one prompt a class.

    Args:
        case: case id.
        pairs: region, predicted mask, reference mask; one row each, in this order.
        spacing: voxel size in mm, one entry per array axis.
        tolerances_mm: Surface Dice tolerances in mm.
    """
    return [
        Row.from_scores(
            case, region, score_masks(pred, ref, spacing=spacing, tolerances_mm=tolerances_mm)
        )
        for region, pred, ref in pairs
    ]


def missing_case_rows(
    case: str,
    ref_label: LabelArray,
    spacing: Sequence[float],
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
) -> list[Row]:
    """Rows of a case without a prediction: the worst score in every region."""
    return _worst_rows("missing_pred", case, ref_label, spacing, regions, tolerances_mm)


def failed_case_rows(
    case: str,
    ref_label: LabelArray | None,
    spacing: Sequence[float] | None,
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
) -> list[Row]:
    """Rows of a case that couldn't be scored: the worst; None for an unreadable reference."""
    return _worst_rows("failed", case, ref_label, spacing, regions, tolerances_mm)


def region_mask(label: LabelArray, region: Region) -> BoolArray:
    """Where any of the region's classes is."""
    mask: BoolArray = label == region.labels[0]
    for value in region.labels[1:]:
        mask |= label == value
    return mask


def label_values(label: LabelArray) -> list[int]:
    """The class values in a label array, sorted, without background."""
    return [int(value) for value in np.unique(label[label != 0])]


def check_listed(label: LabelArray, regions: Sequence[Region], *, what: str) -> None:
    """Refuse classes that no region lists: they would count as background without a word.

    Raises:
        ValueError: names ``what`` and the classes.
    """
    listed = sorted({value for region in regions for value in region.labels})
    unlisted = sorted(set(label_values(label)) - set(listed))
    if unlisted:
        raise ValueError(
            f"{what} has label {', '.join(map(str, unlisted))}, which is not listed; listed "
            f"labels are {', '.join(map(str, listed))}"
        )


def _worst_rows(
    status: Status,
    case: str,
    ref_label: LabelArray | None,
    spacing: Sequence[float] | None,
    regions: Sequence[Region],
    tolerances_mm: Sequence[float],
) -> list[Row]:
    rows = []
    for region in regions:
        volume_ml = math.nan
        if ref_label is not None and spacing is not None:
            num_voxels = int(np.count_nonzero(region_mask(ref_label, region)))
            volume_ml = mask_volume_ml(num_voxels, check_spacing(spacing, ref_label.ndim))
        rows.append(Row.from_scores(case, region, worst_scores(status, tolerances_mm, volume_ml)))
    return rows

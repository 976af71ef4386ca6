"""Rows of one case: every class and region of a label array against the reference."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samtune.evaluation.boxes import count_values, holds_only, region_pairs
from samtune.evaluation.boxes import region_mask as region_mask
from samtune.evaluation.metrics import (
    BoolArray,
    Status,
    check_spacing,
    mask_volume_ml,
    score_masks,
    worst_scores,
)
from samtune.evaluation.regions import Region
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition
from samtune.evaluation.table import Row, Unit

LabelArray: TypeAlias = npt.NDArray[np.integer[Any]]


def score_case(
    case: str,
    pred_label: LabelArray,
    ref_label: LabelArray,
    spacing: Sequence[float] | None,
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
    *,
    definition: Definition = DEFAULT_DEFINITION,
    ignore_label: int | None = None,
    assd: bool = True,
) -> list[Row]:
    """Score a predicted class map, all its classes in one pass.

    Args:
        case: case id.
        pred_label: predicted classes, integers, 0 is background.
        ref_label: reference classes on the same grid.
        spacing: voxel size in mm, one entry per array axis; None: lengths are in pixels.
        regions: what to score; one row each, in this order.
        tolerances_mm: Surface Dice tolerances in mm, of regions without their own.
        definition: of the surface metrics.
        ignore_label: voxels of this class in the reference count as background in both.
        assd: compute the average surface distance.

    Raises:
        ValueError: shapes differ, a class that no region lists is in either map, or
            ``ignore_label`` is a class to score.
    """
    if pred_label.shape != ref_label.shape:
        raise ValueError(
            f"case '{case}': prediction has shape {pred_label.shape}, reference {ref_label.shape}"
        )
    check_ignored(ignore_label, regions)
    if ignore_label is not None:
        is_ignored = ref_label == ignore_label
        pred_label = np.where(is_ignored | (pred_label == ignore_label), 0, pred_label)
        ref_label = np.where(is_ignored, 0, ref_label)
    check_listed(ref_label, regions, what=f"case '{case}': the reference")
    check_listed(pred_label, regions, what=f"case '{case}': the prediction")
    pairs = region_pairs(pred_label, ref_label, regions)
    return score_case_masks(case, pairs, spacing, tolerances_mm, definition=definition, assd=assd)


def score_case_masks(
    case: str,
    pairs: Iterable[tuple[Region, BoolArray, BoolArray]],
    spacing: Sequence[float] | None,
    tolerances_mm: Sequence[float] = (1.0,),
    *,
    definition: Definition = DEFAULT_DEFINITION,
    assd: bool = True,
) -> list[Row]:
    """Score masks that may overlap, as those of one prompt a class.

    Args:
        case: case id.
        pairs: region, predicted mask, reference mask; one row each, in this order.
        spacing: voxel size in mm, one entry per array axis; None: lengths are in pixels.
        tolerances_mm: Surface Dice tolerances in mm, of regions without their own.
        definition: of the surface metrics.
        assd: compute the average surface distance.
    """
    return [
        Row.from_scores(
            case,
            region,
            score_masks(
                pred,
                ref,
                spacing=spacing,
                tolerances_mm=region.tolerances_mm or tolerances_mm,
                definition=definition,
                assd=assd,
                cldice=region.cldice,
            ),
            unit="px" if spacing is None else "mm",
        )
        for region, pred, ref in pairs
    ]


def missing_case_rows(
    case: str,
    ref_label: LabelArray,
    spacing: Sequence[float] | None,
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
) -> list[Row]:
    """Rows of a case without a prediction: the worst score in every region."""
    unit: Unit = "px" if spacing is None else "mm"
    return _worst_rows("missing_pred", case, ref_label, spacing, regions, tolerances_mm, unit)


def failed_case_rows(
    case: str,
    ref_label: LabelArray | None,
    spacing: Sequence[float] | None,
    regions: Sequence[Region],
    tolerances_mm: Sequence[float] = (1.0,),
    *,
    unit: Unit = "mm",
) -> list[Row]:
    """Rows of a case that couldn't be scored: the worst; None for an unreadable reference."""
    return _worst_rows("failed", case, ref_label, spacing, regions, tolerances_mm, unit)


def label_values(label: LabelArray) -> list[int]:
    """The class values in a label array, sorted, without background."""
    return sorted(count_values(label))


def check_ignored(ignore_label: int | None, regions: Sequence[Region]) -> None:
    """Refuse to ignore a class that is scored.

    Raises:
        ValueError: it is one.
    """
    if any(ignore_label in region.labels for region in regions):
        raise ValueError(f"ignore_label {ignore_label} is also a class to score")


def check_listed(label: LabelArray, regions: Sequence[Region], *, what: str) -> None:
    """Refuse classes that no region lists: they would count as background without a word.

    Raises:
        ValueError: names ``what`` and the classes.
    """
    listed = sorted({value for region in regions for value in region.labels})
    if holds_only(label, listed):
        return
    unlisted = sorted(set(label_values(label)) - set(listed))
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
    unit: Unit,
) -> list[Row]:
    rows = []
    for region in regions:
        volume_ml = math.nan
        if ref_label is not None and spacing is not None:
            num_voxels = int(np.count_nonzero(region_mask(ref_label, region)))
            volume_ml = mask_volume_ml(num_voxels, check_spacing(spacing, ref_label.ndim))
        scores = worst_scores(
            status, region.tolerances_mm or tolerances_mm, volume_ml, cldice=region.cldice
        )
        rows.append(Row.from_scores(case, region, scores, unit=unit))
    return rows

"""Rows of one case from its files; runs in a worker process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.evaluation.label_grids import check_same_label_grid, is_same_grid, resample_label
from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import failed_case_rows, missing_case_rows, score_case
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition
from samtune.evaluation.table import Row, Unit
from samtune.preprocessing.volumes import Grid, Volume, read_grid, read_label

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        regions: what, a row each.
        tolerances_mm: of regions without their own, in ``unit``.
        definition: of the surface metrics.
        unit: ``px`` leaves the files' spacing out.
        ignore_label: voxels of this class in the reference count as background in both.
        resample_pred: put predictions on the reference's grid instead of refusing another one.
    """

    regions: tuple[Region, ...]
    tolerances_mm: tuple[float, ...]
    definition: Definition = DEFAULT_DEFINITION
    unit: Unit = "mm"
    ignore_label: int | None = None
    resample_pred: bool = False


def score_files(
    case: str, pred_path: Path | None, ref_path: Path, scoring: Scoring
) -> tuple[list[Row], str | None]:
    """Rows of a case, and why it failed if it did.

    Args:
        case: case id.
        pred_path: None for a missing prediction.
        ref_path: the reference.
        scoring: how.
    """
    regions, tolerances = scoring.regions, scoring.tolerances_mm
    label, spacing = None, None
    try:
        ref = read_label(ref_path)
        spacing = _spacing(ref, scoring.unit)
        label = _without_flat_axis(ref, ref.array)
        if pred_path is None:
            return missing_case_rows(case, label, spacing, regions, tolerances), None
        pred = read_label(pred_path)
        if scoring.resample_pred and not is_same_grid(pred, ref):
            array = resample_label(pred, ref)
        else:
            check_same_label_grid(pred, ref)
            array = pred.array
        rows = score_case(
            case,
            _without_flat_axis(ref, array),
            label,
            spacing,
            regions,
            tolerances,
            definition=scoring.definition,
            ignore_label=scoring.ignore_label,
        )
        return rows, None
    except (ValueError, OSError, MemoryError) as error:
        rows = failed_case_rows(case, label, spacing, regions, tolerances, unit=scoring.unit)
        return rows, " ".join(str(error).split()) or type(error).__name__


def find_unit(paths: list[Path]) -> Unit:
    """``px`` if the first file that can be read has no spacing, as pictures, else ``mm``."""
    for path in paths:
        try:
            return "mm" if _has_spacing(read_grid(path)) else "px"
        except (ValueError, OSError):
            continue
    return "mm"


def _spacing(ref: Volume, unit: Unit) -> tuple[float, ...] | None:
    if unit == "px":
        return None
    if not _has_spacing(ref):
        raise ValueError(f"{ref.path}: no spacing, as the first file has; measure all in pixels")
    return ref.spacing


def _without_flat_axis(grid: Grid, array: Labels) -> Labels:
    """A picture's third axis dropped: both sides of a lone slice would count as surface."""
    if _has_spacing(grid) or array.ndim != 3 or 1 not in array.shape:
        return array
    return np.ascontiguousarray(array.squeeze(array.shape.index(1)))


def _has_spacing(grid: Grid) -> bool:
    # formats without a spacing say so; a grid that doesn't know the attribute always has one
    return bool(getattr(grid, "has_spacing", True))

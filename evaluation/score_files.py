"""Rows of one case from its files; runs in a worker process."""

from dataclasses import dataclass
from pathlib import Path

from samtune.evaluation.label_files import LabelFile, label_grid, read_label_file
from samtune.evaluation.label_grids import check_same_label_grid, is_same_grid, resample_label
from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import failed_case_rows, missing_case_rows, score_case
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition
from samtune.evaluation.table import Row, Unit


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
        ref = read_label_file(ref_path)
        spacing = _spacing(ref, scoring.unit)
        label = ref.array
        if pred_path is None:
            return missing_case_rows(case, label, spacing, regions, tolerances), None
        pred = read_label_file(pred_path)
        if scoring.resample_pred and not is_same_grid(pred, ref):
            array = resample_label(pred, ref)
        else:
            check_same_label_grid(pred, ref)
            array = pred.array
        rows = score_case(
            case,
            array,
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
            return "px" if label_grid(path)[1] is None else "mm"
        except (ValueError, OSError):
            continue
    return "mm"


def _spacing(ref: LabelFile, unit: Unit) -> tuple[float, ...] | None:
    if unit == "px":
        return None
    if ref.spacing is None:
        raise ValueError(f"{ref.path}: has no spacing, others have; measure all in pixels")
    return ref.spacing

"""Pixels of a case, whatever its files are: the step between a dataset's layout and slicing."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.label_files import is_picture
from samtune.preprocessing.npz_case import (
    AXIS,
    is_npz,
    read_npz_grid,
    read_npz_image,
    read_npz_label,
)
from samtune.preprocessing.readers.dicom_files import find_label_object
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.readers.run_lengths import is_run_lengths
from samtune.preprocessing.volumes import (
    Grid,
    Volume,
    read_grid,
    read_image,
    read_label,
    volume_suffix,
)

UID = re.compile(r"\d+(\.\d+)+")
UID_DIGITS = 12


def read_case_image(source: CaseSource) -> Volume:
    """The image of a case; raises as :func:`~samtune.preprocessing.volumes.read_image`."""
    if is_npz(source.image):
        return read_npz_image(source.image)
    paths = source.image if len(source.images) == 1 else source.images
    return read_image(paths, frame=source.frame, series=source.series)


def read_case_label(
    source: CaseSource, *, rule: Mapping[str, Any] | None = None, like: Grid | None = None
) -> Volume | None:
    """The label of a case, None if it has none.

    Args:
        source: the case.
        rule: how stored values become classes, as ``LabelRule.from_mapping`` takes it.
        like: grid of the image, for labels that have none of their own.
    """
    if source.label is None:
        return None
    if is_npz(source.label):
        return read_npz_label(source.label)
    paths = source.label if len(source.labels) == 1 else source.labels
    return read_label(paths, rule=LabelRule.from_mapping(rule or {}), like=like)


def chosen_volume(sources: Sequence[CaseSource]) -> dict[str, Any]:
    """Which frame and series of their files the cases take, for a manifest; empty if they have one.

    A SeriesInstanceUID leads to a person and is not in it, but a hash that tells two apart.
    """
    frames = sorted({one.frame for one in sources if one.frame is not None})
    series = sorted({one.series for one in sources if one.series is not None})
    chosen: dict[str, Any] = {}
    if frames:
        chosen["frames"] = frames
    if series:
        chosen["series"] = [_without_uid(one) for one in series]
    return chosen


def _without_uid(series: str) -> str:
    if not UID.fullmatch(series):
        return series
    return f"UID of SHA-256 {hashlib.sha256(series.encode()).hexdigest()[:UID_DIGITS]}"


def with_ignored(
    rule: Mapping[str, Any] | None, ignore_label: int | None, source: CaseSource
) -> Mapping[str, Any] | None:
    """The rule that labels are read by if ``ignore_label`` is among their values.

    Without it a picture of 0 and 255 is a mask of class 1, even if 255 is what nobody judged. A
    rule that the user wrote says itself what values mean, and of one file a class each is a mask.
    """
    if rule or ignore_label is None or len(source.labels) != 1:
        return rule
    return {"ignore_label": ignore_label}


def label_grids(source: CaseSource) -> list[Grid]:
    """Grids of the label files that have their own, from their headers.

    Run lengths, contours and segmentation objects take that of the image, slice files share it.
    """
    return [read_grid(path) for path in source.labels if _has_grid(path)]


def _has_grid(path: Path) -> bool:
    if is_npz(path) or is_run_lengths(path):
        return False
    is_other = volume_suffix(path) is not None or is_picture(path)
    return is_other or find_label_object(path) is None


def case_grid(source: CaseSource) -> Grid:
    """Voxel grid of a case's image, without reading its values."""
    if is_npz(source.image):
        return read_npz_grid(source.image)
    return read_grid(source.image, frame=source.frame, series=source.series)


def fixed_axis(source: CaseSource, axis: int | None) -> int | None:
    """The axis to cut: files of slices are cut already, along their own.

    Raises:
        ValueError: another axis was asked for.
    """
    if not is_npz(source.image):
        return axis
    if axis not in (None, AXIS):
        raise ValueError(
            f"{source.image}: holds slices; they can't be cut along axis {axis}, expected auto"
        )
    return AXIS

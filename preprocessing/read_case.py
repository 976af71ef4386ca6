"""Pixels of a case, whatever its files are: the step between a dataset's layout and slicing."""

from collections.abc import Mapping
from typing import Any

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.npz_case import (
    AXIS,
    is_npz,
    read_npz_grid,
    read_npz_image,
    read_npz_label,
)
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.volumes import Grid, Volume, read_grid, read_image, read_label


def read_case_image(source: CaseSource) -> Volume:
    """The image of a case; raises as :func:`~samtune.preprocessing.volumes.read_image`."""
    if is_npz(source.image):
        return read_npz_image(source.image)
    paths = source.image if len(source.images) == 1 else source.images
    return read_image(paths, frame=source.frame)


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


def case_grid(source: CaseSource) -> Grid:
    """Voxel grid of a case's image, without reading its values."""
    if is_npz(source.image):
        return read_npz_grid(source.image)
    return read_grid(source.image, frame=source.frame)


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

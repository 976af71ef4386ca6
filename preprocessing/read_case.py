"""Pixels of a case, whatever its files are: the step between a dataset's layout and slicing."""

import numpy as np

from samtune.preprocessing.case_source import CaseSource
from samtune.preprocessing.npz_case import (
    AXIS,
    is_npz,
    read_npz_grid,
    read_npz_image,
    read_npz_label,
)
from samtune.preprocessing.volumes import Grid, Volume, read_grid, read_image, read_label


def read_case_image(source: CaseSource) -> Volume:
    """The image of a case; raises as :func:`~samtune.preprocessing.volumes.read_image`."""
    if is_npz(source.image):
        return read_npz_image(source.image)
    return read_image(source.images, frame=source.frame)


def read_case_label(source: CaseSource) -> Volume | None:
    """The label of a case, None if it has none.

    Raises:
        ValueError: as :func:`~samtune.preprocessing.volumes.read_label`; or several label files,
            one a class, have a voxel in common.
    """
    if source.label is None:
        return None
    if is_npz(source.label):
        return read_npz_label(source.label)
    if len(source.labels) == 1:
        return read_label(source.label)
    volumes = [read_label(path) for path in source.labels]
    joined = np.zeros(volumes[0].array.shape, np.uint8)
    for value, volume in enumerate(volumes, 1):
        mask = volume.array > 0
        if mask.shape != joined.shape or (joined[mask] > 0).any():
            raise ValueError(
                f"{volume.path}: differs in shape from, or overlaps with, the label files before "
                "it; expected one file a class, without a voxel in common"
            )
        joined[mask] = value
    first = volumes[0]
    return Volume(first.path, first.shape, first.affine, first.spacing, first.header, joined)


def case_grid(source: CaseSource) -> Grid:
    """Voxel grid of a case's image, without reading its values."""
    if is_npz(source.image):
        return read_npz_grid(source.image)
    return read_grid(source.image)


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

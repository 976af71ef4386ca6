"""DICOM segmentations as labels, through highdicom (extra ``dicom-seg``)."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from samtune.preprocessing.readers.grid import (
    RAS_OF_LPS,
    Array,
    Grid,
    Volume,
    make_grid,
    with_values,
)
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.readers.structure_names import classes_of

SAME_GRID = 1e-2  # voxels: how far a segmentation's voxel centres may lie from the image's


def segment_names(path: Path) -> dict[int, str]:
    """Number and label of the segments of a DICOM segmentation.

    Raises:
        ImportError: highdicom is missing.
        ValueError: not a readable segmentation.
    """
    segmentation = _open(path)
    return {
        number: str(segmentation.get_segment_description(number).segment_label)
        for number in segmentation.get_segment_numbers()
    }


def read_segmentation(path: Path, like: Grid | None, rule: LabelRule) -> Volume:
    """Label of a DICOM segmentation.

    Args:
        path: the file.
        like: grid of the image; the file often leaves out slices without an object. None gives
            the part that the file has.
        rule: ``structures`` or ``values`` say which segment is which class, ``overlap`` whether
            segments may overlap.

    Raises:
        ImportError: highdicom is missing.
        ValueError: fractional, several segments in a voxel although that is an error, or not on
            the image's grid.
    """
    segmentation = _open(path)
    kind = str(segmentation.SegmentationType)
    if kind == "FRACTIONAL":
        raise ValueError(f"{path}: a fractional segmentation; expected a binary one or a label map")
    classes = classes_of(path, segment_names(path), rule)
    label: Array | None = None
    for number in sorted(classes, key=lambda one: classes[one]):
        try:
            volume = segmentation.get_volume(
                segment_numbers=[number], combine_segments=True, dtype=np.uint32
            )
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: its frames make no volume ({reason})") from error
        mask = volume.array > 0
        if label is None:
            label = np.zeros(mask.shape, np.uint32)
            affine = np.asarray(RAS_OF_LPS @ volume.affine, dtype=np.float64)
        overlap = int((mask & (label > 0) & (label != classes[number])).sum())
        if overlap and rule.overlap == "error":
            raise ValueError(
                f"{path}: segment {number} overlaps an earlier class in {overlap} voxels; expected "
                "none, or a rule with overlap: later"
            )
        label[mask] = classes[number]
    if label is None:
        raise ValueError(f"{path}: no segment is of a class of the rule")
    # slice row column -> column row slice, as images are read
    label = label.astype(np.min_scalar_type(int(label.max()))).transpose(2, 1, 0)
    affine = affine[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:  # against the normal: highdicom counts it so
        affine[:3, 3] += affine[:3, 2] * (label.shape[2] - 1)
        affine[:3, 2] *= -1
        label = label[:, :, ::-1]
    own = with_values(make_grid(path, label.shape, affine), label)
    return own if like is None else place_on_grid(own, like)


def place_on_grid(label: Volume, like: Grid) -> Volume:
    """Move a label whose voxels are some of the image's onto the image's grid, exactly.

    Args:
        label: its axes may be in another order or direction.
        like: grid of the image; voxels that the label doesn't have are 0.

    Raises:
        ValueError: its voxel centres are not the image's, or lie outside it.
    """
    to_image = np.linalg.inv(like.affine) @ label.affine
    turn, offset = np.rint(to_image[:3, :3]), np.rint(to_image[:3, 3])
    farthest = max(label.shape)
    fits = (
        np.abs(to_image[:3, :3] - turn).max() * farthest < SAME_GRID * 10
        and np.abs(to_image[:3, 3] - offset).max() < SAME_GRID * 10
        and (np.abs(turn).sum(0) == 1).all()
        and (np.abs(turn).sum(1) == 1).all()
    )
    if not fits:
        raise ValueError(
            f"{label.path}: its voxels (spacing {label.spacing} mm) are not those of the image "
            f"{like.path.name} ({like.spacing} mm); resample it to the image's grid first"
        )
    where = np.argwhere(label.array)
    target = np.zeros(like.shape, label.array.dtype)
    indices = (where @ turn.T + offset).astype(int)
    if ((indices < 0) | (indices >= like.shape)).any():
        raise ValueError(f"{label.path}: has objects outside the image {like.path.name}")
    target[tuple(indices.T)] = label.array[tuple(where.T)]
    return with_values(dataclasses.replace(like, path=label.path, notes=label.notes), target)


def _open(path: Path) -> Any:
    try:
        from highdicom.seg import segread
    except ImportError as error:
        raise ImportError(
            f"{path}: DICOM segmentations need highdicom; pip install 'samtune[dicom-seg]'",
            name="highdicom",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters of the standard that writers break
            return segread(path)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable DICOM segmentation ({reason})") from error

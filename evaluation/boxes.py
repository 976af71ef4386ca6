"""Masks of all regions of a pair of label arrays, each cut to what it needs.

A class fills a small part of a volume, so every later step works on the box around it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samtune.evaluation.regions import Region

BoolArray: TypeAlias = npt.NDArray[np.bool_]
LabelArray: TypeAlias = npt.NDArray[np.integer[Any]]
Box: TypeAlias = tuple[slice, ...]

FEW = 6  # classes that are found by comparing; more are found in one pass over the labels
MAX_VALUE = 4096  # scipy.ndimage.find_objects makes a list as long as the largest value


def region_mask(label: LabelArray, region: Region) -> BoolArray:
    """Where any of the region's classes is."""
    mask: BoolArray = label == region.labels[0]
    for value in region.labels[1:]:
        mask |= label == value
    return mask


def region_pairs(
    pred: LabelArray, ref: LabelArray, regions: Sequence[Region]
) -> Iterator[tuple[Region, BoolArray, BoolArray]]:
    """Each region's masks in both arrays, on the box around both; empty ones have size 0.

    Args:
        pred, ref: class values >= 0 on one grid.
        regions: in the order wanted.
    """
    box = foreground_box(pred, ref)
    pred, ref = pred[box], ref[box]
    values = {value for region in regions for value in region.labels}
    boxes = None
    if len(values) > FEW and max(values) <= MAX_VALUE:
        boxes = [ndimage.find_objects(label, max_label=max(values)) for label in (pred, ref)]
    for region in regions:
        if boxes is None:
            masks = region_mask(pred, region), region_mask(ref, region)
            part = foreground_box(*masks)
            yield region, masks[0][part], masks[1][part]
        else:
            parts = [found[value - 1] for found in boxes for value in region.labels]
            part = _around(parts, ref.ndim)
            yield region, region_mask(pred[part], region), region_mask(ref[part], region)


def foreground_box(*arrays: npt.NDArray[Any]) -> Box:
    """Smallest box around everything that isn't 0; of size 0 where nothing is.

    Args:
        arrays: bool or integers >= 0, of one shape.
    """
    used = [_used(array.view(np.uint8) if array.dtype == bool else array) for array in arrays]
    box = []
    for axis in zip(*used, strict=True):
        where = np.flatnonzero(np.logical_or.reduce(axis))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0))
    return tuple(box)


def count_values(label: LabelArray) -> dict[int, int]:
    """How many voxels each class has, background left out."""
    part = label[foreground_box(label)]
    values, counts = np.unique(part[part != 0], return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def holds_only(label: LabelArray, values: Sequence[int]) -> bool:
    """Whether every voxel is 0 or one of ``values``; without a sort."""
    largest = int(label.max(initial=0))
    if largest <= MAX_VALUE and set(range(1, largest + 1)) <= set(values):
        return True
    part = label[foreground_box(label)]
    listed = sum(int(np.count_nonzero(part == value)) for value in set(values))
    return listed == int(np.count_nonzero(part))


def _used(array: LabelArray) -> list[BoolArray]:
    """For each axis, where along it anything isn't 0."""
    if array.ndim == 1:
        return [array != 0]
    rest = np.bitwise_or.reduce(array, axis=0)
    if array.flags.c_contiguous:
        first = array.reshape(len(array), math.prod(array.shape[1:])).max(axis=1, initial=0)
    else:
        first = array.max(axis=tuple(range(1, array.ndim)), initial=0)
    return [first != 0, *_used(rest)]


def _around(boxes: Sequence[Box | None], num_axes: int) -> Box:
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0),) * num_axes
    return tuple(
        slice(min(part.start for part in axis), max(part.stop for part in axis))
        for axis in zip(*found, strict=True)
    )

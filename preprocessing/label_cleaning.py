"""Removal of small objects from labels: specks of an annotation that no one meant.

An object is a connected component of one label value. Those of fewer voxels than a threshold are
removed, those of as many are kept, as in MedSAM's preprocessing (1000 voxels of connectivity 26,
then 100 pixels of connectivity 8). Components by Silversmith's ``connected-components-3d``
(doi:10.5281/zenodo.5719536).
"""

from typing import Literal

import cc3d
import numpy as np

from samtune.preprocessing.volumes import Array


def remove_small_volumes(
    label: Array, min_voxels: int, *, ignore_label: int | None = None
) -> Array:
    """Set objects of fewer than ``min_voxels`` voxels to 0; connectivity 26.

    Args:
        label: ``i j k`` uint8 or uint16.
        min_voxels: smallest number that is kept; 0 and 1 keep all.
        ignore_label: value that is left as it is.
    """
    return _dust(label, min_voxels, 26, ignore_label)


def remove_small_areas(slices: Array, min_pixels: int, *, ignore_label: int | None = None) -> Array:
    """Set objects of fewer than ``min_pixels`` pixels of a slice to 0; connectivity 8.

    Args:
        slices: ``n h w`` uint8 or uint16, each slice for itself.
        min_pixels: smallest number that is kept; 0 and 1 keep all.
        ignore_label: value that is left as it is.
    """
    if min_pixels <= 1:
        return slices
    return np.stack([_dust(one, min_pixels, 8, ignore_label) for one in slices])


def _dust(
    label: Array, threshold: int, connectivity: Literal[8, 26], ignore_label: int | None
) -> Array:
    if threshold <= 1 or not label.any():
        return label
    objects = label
    if ignore_label is not None:
        objects = np.where(label == ignore_label, label.dtype.type(0), label)
    cleaned: Array = cc3d.dust(objects, threshold, connectivity=connectivity, in_place=False)
    cleaned = np.ascontiguousarray(cleaned)
    if ignore_label is not None:
        cleaned[label == ignore_label] = ignore_label
    return cleaned

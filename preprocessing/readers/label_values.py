"""Stored pixels of a label to classes, by a :class:`LabelRule`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.readers.grid import Array, Volume
from samtune.preprocessing.readers.label_rule import LabelRule

WHOLE_TOLERANCE = 1e-3  # labels that were resampled or stored as float32 are this close to whole
SAME_AFFINE = 1e-3
MAX_NAMED = 5
LOSSY = (".jpg", ".jpeg")
MASK_NOTE = "a mask of 0 and 255 was read as 0 and 1"


def to_classes(stored: Volume, rule: LabelRule, *, is_picture: bool) -> Volume:
    """Classes of a label file.

    Args:
        stored: as its reader gives it, colour or grey.
        rule: what its pixels mean.
        is_picture: a PNG, JPEG, BMP or TIFF, where 0 and 255 alone are a mask of class 1 (255 kept
            if the rule names it) and equal red, green and blue are grey.

    Raises:
        ValueError: a value is not a whole number >= 0 or not in the rule, too many pixels match
            no colour, or the file is in colour and the rule has no colours.
    """
    array, path = stored.array, stored.path
    notes: tuple[str, ...] = ()
    if array.ndim == 4:
        is_grey = (array == array[..., :1]).all()
        if rule.colours:
            array, notes = match_colours(path, array, rule)
        elif is_grey:
            array = array[..., 0]
        else:
            raise ValueError(
                f"{path}: a label in colour; expected a colour table that says what its colours "
                "mean"
            )
        if rule.colours:
            return dataclasses.replace(stored, array=array, notes=stored.notes + notes)
    elif rule.colours:
        array, notes = match_colours(path, np.stack([array] * 3, axis=-1), rule)
        return dataclasses.replace(stored, array=array, notes=stored.notes + notes)
    if rule.threshold is not None:
        mask = array > rule.threshold
        kept = _ignored(array, rule)
        array = _with_ignored(mask.astype(np.uint8), kept, rule)
    elif rule.values:
        array = _map_values(path, array, rule)
    else:
        array = whole_labels(path, array)
        if path.name.lower().endswith(LOSSY) and len(found := np.unique(array)) > 2:
            raise ValueError(
                f"{path}: a label of {len(found)} values as JPEG, whose compression changes "
                "values; expected a rule with a threshold or colours, or a lossless file"
            )
        is_mask = is_picture and array.max() == 255 and rule.ignore_label != 255
        if is_mask and ((array == 0) | (array == 255)).all():
            array, notes = (array > 0).astype(np.uint8), (MASK_NOTE,)
    return dataclasses.replace(stored, array=array, notes=stored.notes + notes)


def match_colours(path: Path, array: Array, rule: LabelRule) -> tuple[Array, tuple[str, ...]]:
    """Class of the nearest colour of the rule's table for each pixel.

    Args:
        path: file, for messages.
        array: ``... 3`` uint8.
        rule: with ``colours``, ``tolerance``, ``unmatched_share``.

    Raises:
        ValueError: not 8 bits a colour, or more unmatched pixels than allowed; names the most
            frequent of them.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: colours are {array.dtype}; expected 8 bits for a colour table")
    table = dict(rule.colours)
    if 0 not in table and (0, 0, 0) not in table.values():
        table[0] = (0, 0, 0)
    packed = (array.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32)
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1).astype(np.float64)
    classes = np.array(list(table))
    steps = colours[:, np.newaxis] - np.array(list(table.values()), dtype=np.float64)
    distances = np.sqrt((steps**2).sum(-1))
    result = classes[distances.argmin(axis=1)]
    far = distances.min(axis=1) > rule.tolerance
    unmatched = int(counts[far].sum())
    notes: tuple[str, ...] = ()
    if unmatched:
        share = unmatched / packed.size
        if share > rule.unmatched_share:
            common = found[far][np.argsort(-counts[far])][:MAX_NAMED].tolist()
            named = ", ".join(f"#{value:06x}" for value in common)
            raise ValueError(
                f"{path}: {unmatched} pixels ({share:.2%}) are of no colour of the table, such as "
                f"{named}; expected at most {rule.unmatched_share:.2%} (tolerance "
                f"{rule.tolerance:g})"
            )
        other = rule.ignore_label or 0
        result[far] = other
        notes = (f"{unmatched} pixels of no colour of the table were read as {other}",)
    largest = int(max(classes.max(), result.max()))
    labels = result.astype(np.min_scalar_type(largest))[inverse.reshape(packed.shape)]
    return labels, notes


def whole_labels(path: Path, array: Array) -> Array:
    """Label values as integers: floats within 1e-3 of a whole number are rounded.

    Raises:
        ValueError: a value is not a whole number >= 0; names ``path``, the value and its voxel.
    """
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array)
        near = np.rint(np.where(wrong, 0, array))
        wrong |= np.abs(array - near) > WHOLE_TOLERANCE
        if wrong.any():
            refuse_label(path, array, wrong, "a whole number")
    if array.dtype.kind in "if" and array.min() <= -1 + WHOLE_TOLERANCE:
        refuse_label(path, array, array <= -1 + WHOLE_TOLERANCE, ">= 0")
    if array.dtype.kind == "f":
        if near.max() > np.iinfo(np.uint32).max:
            refuse_label(path, array, near > np.iinfo(np.uint32).max, "at most 4294967295")
        array = near.astype(np.min_scalar_type(int(near.max())))
    return array


def join_class_files(volumes: Sequence[Volume], rule: LabelRule) -> Volume:
    """One label from one file a class.

    Args:
        volumes: as stored; without ``rule.files`` they are classes 1, 2, 3 ... in their order.
        rule: ``files``, ``threshold``, ``overlap`` and ``ignore_label`` count.

    Raises:
        ValueError: grids differ, a file has more than one value besides 0 and no threshold was
            given, two files are of one class, or classes overlap although that is an error.
    """
    first = volumes[0]
    numbers = [
        rule.class_of_file(volume.path) if rule.files else index + 1
        for index, volume in enumerate(volumes)
    ]
    if len(set(numbers)) < len(numbers):
        twice = max(numbers, key=numbers.count)
        raise ValueError(f"{first.path}: class {twice} has several files; expected one")
    largest = max([*numbers, rule.ignore_label or 0])
    label = np.zeros(first.shape, np.min_scalar_type(largest))
    ignored = np.zeros(first.shape, bool)
    for number, volume in sorted(zip(numbers, volumes, strict=True), key=lambda pair: pair[0]):
        if volume.shape != first.shape or not np.allclose(
            volume.affine, first.affine, rtol=0, atol=SAME_AFFINE
        ):
            raise ValueError(
                f"{volume.path}: its grid, {volume.shape}, is not that of {first.path.name}, "
                f"{first.shape}; files of one label need one grid"
            )
        mask, kept = _class_mask(volume, rule)
        overlap = int((mask & (label > 0)).sum())
        if overlap and rule.overlap == "error":
            raise ValueError(
                f"{volume.path}: class {number} overlaps an earlier class in {overlap} pixels; "
                "expected none, or a rule with overlap: later"
            )
        label[mask] = number
        ignored |= kept
    array = _with_ignored(label, ignored, rule)
    return dataclasses.replace(first, path=first.path.parent, array=array)


def refuse_label(path: Path, array: Array, wrong: npt.NDArray[np.bool_], expected: str) -> None:
    """Raise a ValueError that names the first wrong voxel and counts all."""
    where = tuple(int(index) for index in np.argwhere(wrong)[0])
    raise ValueError(
        f"{path}: label value {array[where]} at voxel {where} ({int(wrong.sum())} such voxels); "
        f"every label value must be {expected}"
    )


def _class_mask(
    volume: Volume, rule: LabelRule
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    array = volume.array
    if array.ndim == 4:
        if not (array == array[..., :1]).all():
            raise ValueError(f"{volume.path}: in colour; expected a mask, as it is of one class")
        array = array[..., 0]
    ignored = _ignored(array, rule)
    if rule.threshold is not None:
        return (array > rule.threshold) & ~ignored, ignored
    array = whole_labels(volume.path, array)
    values = [int(value) for value in np.unique(array[~ignored]) if value]
    if len(values) > 1:
        named = ", ".join(str(value) for value in values[:MAX_NAMED])
        raise ValueError(
            f"{volume.path}: has the values {named}; expected one besides 0, as it is of one "
            "class, or a threshold"
        )
    return (array != 0) & ~ignored, ignored


def _map_values(path: Path, array: Array, rule: LabelRule) -> Array:
    """Stored values (negative ones too) to classes."""
    if array.dtype.kind == "f":
        shift = min(0, round(float(np.nanmin(array)))) if np.isfinite(array).any() else 0
        array = whole_labels(path, array - shift).astype(np.int64) + shift
    table = {0: 0, **rule.values}
    if rule.ignore_label is not None:
        table.setdefault(rule.ignore_label, rule.ignore_label)
    found, inverse = np.unique(array, return_inverse=True)
    for value in found.tolist():
        if value not in table:
            refuse_label(path, array, array == value, f"one of {', '.join(map(str, table))}")
    mapped = np.array([table[value] for value in found.tolist()])
    return mapped.astype(np.min_scalar_type(max(table.values())))[inverse.reshape(array.shape)]


def _ignored(array: Array, rule: LabelRule) -> npt.NDArray[np.bool_]:
    if rule.ignore_label is None:
        return np.zeros(array.shape, bool)
    return np.asarray(array == rule.ignore_label)


def _with_ignored(label: Array, ignored: npt.NDArray[np.bool_], rule: LabelRule) -> Array:
    if rule.ignore_label is None or not ignored.any():
        return label
    dtype = np.promote_types(label.dtype, np.min_scalar_type(rule.ignore_label))
    label = label.astype(dtype)
    label[ignored] = rule.ignore_label
    return label

"""Label files of predictions and references, whatever their format.

Volumes and pictures are read by :func:`samtune.preprocessing.volumes.read_label`, the ``.npz`` of
MedSAM and of our slices here. A folder counts as one of volumes if any is in it: what lies beside
them, as nnU-Net's ``.npz`` of probabilities, is no second prediction.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.volumes import Grid, find_volumes, read_grid, read_label, volume_suffix

PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
ARRAY_SUFFIX = ".npz"
SPACING_KEY = "spacing"
ITK_KEYS = ("segs", "gts")  # beside these, MedSAM stores ITK's spacing x y z, of arrays z y x
ARRAY_KEYS = ("segs", "gts", "label", "labels")  # MedSAM's predictions, MedSAM's and our labels

Labels = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Class values of a file on its own grid.

    Attributes:
        path: the file.
        array: integers >= 0, ``x y z`` or, for a picture, ``x y``.
        affine: ``4 4``, voxel index to world, mm; the identity for ``.npz``.
        spacing: voxel size in mm, one entry per array axis; None if the format has none.
    """

    path: Path
    array: Labels
    affine: npt.NDArray[np.float64]
    spacing: tuple[float, ...] | None


def find_labels(folder: Path) -> dict[str, Path]:
    """Label files directly in ``folder`` by case: volumes, or else pictures, or else ``.npz``.

    Raises:
        FileNotFoundError: no such folder, or nothing of these in it.
        ValueError: two files are one case.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not any(volume_suffix(path) for path in files):
        for suffixes in (PICTURE_SUFFIXES, (ARRAY_SUFFIX,)):
            found = [p for p in files if p.suffix.lower() in suffixes and p.name[0] != "."]
            cases: dict[str, Path] = {}
            for path in found:
                if path.stem in cases:
                    raise ValueError(
                        f"{folder}: case {path.stem!r} has two files, {cases[path.stem].name} and "
                        f"{path.name}; expected one"
                    )
                cases[path.stem] = path
            if cases:
                return cases
    return find_volumes(folder)


def read_label_file(path: Path) -> LabelFile:
    """Read a label file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, or a value that is no class; names the file.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        labels, steps = _read_npz(path)
        return LabelFile(path, labels, np.eye(4), steps)
    volume = read_label(path)
    array = volume.array
    if _is_flat(volume):
        array = np.ascontiguousarray(array.squeeze(array.shape.index(1)))
    return LabelFile(path, array, volume.affine, _grid_of(volume)[1])


def label_grid(path: Path) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Shape and spacing in mm of a label file, from its header alone where there is one.

    Returns:
        One entry per array axis each; spacing is None if the format has none.

    Raises:
        OSError, ValueError: it can't be read.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        labels, steps = _read_npz(path)
        return labels.shape, steps
    return _grid_of(read_grid(path))


def _grid_of(grid: Grid) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Shape and spacing of the axes that are scored."""
    flat = grid.shape.index(1) if _is_flat(grid) else None
    kept = [axis for axis in range(len(grid.shape)) if axis != flat]
    spacing = tuple(grid.spacing[axis] for axis in kept) if _has_spacing(grid) else None
    return tuple(grid.shape[axis] for axis in kept), spacing


def _is_flat(grid: Grid) -> bool:
    """A picture: with three axes, both sides of its only slice would count as surface."""
    is_picture = getattr(grid, "is_picture", False) or not _has_spacing(grid)
    return is_picture and len(grid.shape) == 3 and 1 in grid.shape


def _has_spacing(grid: Grid) -> bool:
    # formats without a spacing say so; a grid that doesn't know the attribute always has one
    return bool(getattr(grid, "has_spacing", True))


def _read_npz(path: Path) -> tuple[Labels, tuple[float, ...] | None]:
    """Class values, and spacing in mm along their axes where the file has it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys = [key for key in ARRAY_KEYS if key in stored]
            if len(keys) != 1:
                raise ValueError(f"arrays {stored.files}, expected one of {list(ARRAY_KEYS)}")
            array: Labels = stored[keys[0]]
            steps = np.asarray(stored[SPACING_KEY]) if SPACING_KEY in stored else None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz of labels ({error})") from None
    spacing = None if steps is None else _npz_spacing(path, steps, array, keys[0])
    if array.ndim == 3 and array.shape[0] == 1:  # one slice a file: a picture
        array, spacing = array[0], spacing and spacing[1:]
    if array.ndim not in (2, 3) or array.dtype.kind not in "bui" or (array < 0).any():
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; expected integers >= 0 on 2 or 3 axes"
        )
    kind = np.uint8 if array.dtype == bool else array.dtype
    return np.ascontiguousarray(array, dtype=kind), spacing


def _npz_spacing(path: Path, steps: Labels, array: Labels, key: str) -> tuple[float, ...]:
    is_number = steps.dtype.kind in "iuf" and steps.shape == (array.ndim,)
    if not is_number or not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(
            f"{path}: {SPACING_KEY} is {steps.tolist()}; expected {array.ndim} numbers > 0, one an "
            "axis"
        )
    found = tuple(round(float(step), 6) for step in steps)
    return found[::-1] if key in ITK_KEYS else found

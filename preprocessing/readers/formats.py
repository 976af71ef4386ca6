"""Which reader a path needs, by its name and, where the name says nothing, by its first bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from samtune.preprocessing.readers import dicom, itk, nifti
from samtune.preprocessing.readers.dicom_files import has_dicom, is_dicom
from samtune.preprocessing.readers.grid import Grid, Volume, affine_text, with_values

VOLUME_SUFFIXES = (*nifti.SUFFIXES, *itk.SUFFIXES)
SAME_AFFINE = 1e-3
R = TypeVar("R")


@dataclass(frozen=True)
class Format:
    """A file format: ``read_grid`` and ``read`` take ``(path, frame=, series=)``."""

    name: str
    read_grid: Callable[..., Grid]
    read: Callable[..., Volume]


def find_format(path: Path) -> Format:
    """Reader of a file or folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no reader for it; the message says what can be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; expected a {', '.join(VOLUME_SUFFIXES)} or other image"
        )
    name = path.name.lower()
    if path.is_file():
        if name.endswith(nifti.SUFFIXES):
            return Format("NIfTI", _without_series(nifti.read_grid), _without_series(nifti.read))
        if name.endswith(itk.SUFFIXES):
            return Format("ITK", _without_series(itk.read_grid), _without_series(itk.read))
    if is_dicom(path) if path.is_file() else has_dicom(path):
        return Format("DICOM", dicom.read_grid, dicom.read)
    found = "a folder without DICOM files" if path.is_dir() else "a file of another kind"
    raise ValueError(f"{path}: found {found}; expected {', '.join(VOLUME_SUFFIXES)}")


def read_several(paths: Sequence[Path], frame: int | None, series: str | None) -> Volume:
    """Read files that make up one image: volumes are its channels.

    Raises:
        ValueError: none, or their grids differ.
    """
    if not paths:
        raise ValueError("no image file given; expected at least one")
    if len(paths) > 1 and all(find_format(path).name == "DICOM" for path in paths):
        return dicom.read(paths, frame=frame, series=series)
    volumes = [find_format(path).read(path, frame=frame, series=series) for path in paths]
    if len(volumes) == 1:
        return volumes[0]
    first = volumes[0]
    for other in volumes[1:]:
        if other.array.shape != first.shape:
            raise ValueError(
                f"{other.path}: shape is {other.array.shape}, {first.path.name} has "
                f"{first.array.shape}; channels of one image need one grid"
            )
        if not np.allclose(first.affine, other.affine, rtol=0, atol=SAME_AFFINE):
            raise ValueError(
                f"{other.path}: affine is {affine_text(other.affine)}, {first.path.name} has "
                f"{affine_text(first.affine)}; channels of one image need one grid"
            )
    return with_values(first, np.stack([volume.array for volume in volumes], axis=-1))


def _without_series(read: Callable[..., R]) -> Callable[..., R]:
    def call(path: Path, *, frame: int | None = None, series: str | None = None) -> R:
        if series is not None:
            raise ValueError(
                f"{path}: series {series!r} was asked for; only DICOM folders have any"
            )
        return read(path, frame=frame)

    return call

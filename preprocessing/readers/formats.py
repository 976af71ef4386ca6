"""Which reader a path needs, by its name and, where the name says nothing, by its first bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from samtune.preprocessing.readers import dicom, itk, nifti, oct_files, pictures, tiff
from samtune.preprocessing.readers.dicom_files import has_dicom, is_dicom
from samtune.preprocessing.readers.grid import Grid, Volume, affine_text, make_grid, with_values

VOLUME_SUFFIXES = (*nifti.SUFFIXES, *itk.SUFFIXES)
PICTURE_SUFFIXES = (*pictures.SUFFIXES, *tiff.SUFFIXES)
PICTURES = ("picture", "TIFF")
SAME_AFFINE = 1e-3
R = TypeVar("R")


@dataclass(frozen=True)
class Format:
    """A file format: its functions take ``(path, frame=, series=)``.

    Attributes:
        name: for messages.
        read_grid: grid from the header.
        read: image.
        read_label: the same with the indices of a palette instead of its colours.
    """

    name: str
    read_grid: Callable[..., Grid]
    read: Callable[..., Volume]
    read_label: Callable[..., Volume]


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
        for suffixes, title, module in (
            (nifti.SUFFIXES, "NIfTI", nifti),
            (itk.SUFFIXES, "ITK", itk),
        ):
            if name.endswith(suffixes):
                read = _without_series(module.read)
                return Format(title, _without_series(module.read_grid), read, read)
        for endings, label, flat in (
            (pictures.SUFFIXES, PICTURES[0], pictures),
            (tiff.SUFFIXES, PICTURES[1], tiff),
        ):
            if name.endswith(endings):
                indices = _without_series(flat.read_indices)
                return Format(
                    label, _without_series(flat.read_grid), _without_series(flat.read), indices
                )
    if path.is_file() and name.endswith(oct_files.SUFFIXES):
        return Format("OCT", oct_files.read_grid, oct_files.read, oct_files.read)
    if is_dicom(path) if path.is_file() else has_dicom(path):
        return Format("DICOM", dicom.read_grid, dicom.read, dicom.read)
    if path.is_dir() and any(one.name.lower().endswith(PICTURE_SUFFIXES) for one in path.iterdir()):
        raise ValueError(
            f"{path}: a folder of pictures; they are one stack only if asked for: give the files"
        )
    found = "a folder without DICOM files" if path.is_dir() else "a file of another kind"
    raise ValueError(
        f"{path}: found {found}; expected {', '.join(VOLUME_SUFFIXES + PICTURE_SUFFIXES)} or DICOM"
    )


def read_class_files(paths: Sequence[Path], frame: int | None, series: str | None) -> list[Volume]:
    """Read label files, one a class, as stored.

    Raises:
        ValueError: there are none.
    """
    if not paths:
        raise ValueError("no label file given; expected at least one")
    return [find_format(path).read_label(path, frame=frame, series=series) for path in paths]


def grid_of_several(paths: Sequence[Path], frame: int | None, series: str | None) -> Grid:
    """Grid of :func:`read_several`, from the headers; that all of them fit is seen at reading.

    Raises:
        ValueError: none, or a header is damaged.
    """
    if not paths:
        raise ValueError("no image file given; expected at least one")
    first = find_format(paths[0])
    if len(paths) > 1 and first.name == "DICOM":
        return dicom.read_grid(paths, frame=frame, series=series)
    grid = first.read_grid(paths[0], frame=frame, series=series)
    if len(paths) == 1 or first.name not in PICTURES:
        return grid
    shape = (grid.shape[0], grid.shape[1], len(paths))
    return make_grid(
        paths[0].parent,
        shape,
        grid.affine,
        has_spacing=grid.has_spacing,
        is_picture=True,
        notes=grid.notes,
    )


def read_several(paths: Sequence[Path], frame: int | None, series: str | None) -> Volume:
    """Read files that make up one image: pictures and DICOM files are slices, volumes channels.

    Raises:
        ValueError: none, of different kinds, or their grids differ.
    """
    if not paths:
        raise ValueError("no image file given; expected at least one")
    formats = [find_format(path) for path in paths]
    names = {one.name for one in formats}
    if len(paths) > 1 and names == {"DICOM"}:
        return dicom.read(paths, frame=frame, series=series)
    volumes = [
        one.read(path, frame=frame, series=series) for one, path in zip(formats, paths, strict=True)
    ]
    if len(volumes) == 1:
        return volumes[0]
    if names <= set(PICTURES):
        return pictures.stack_pictures(volumes)
    if "DICOM" in names or names & set(PICTURES):
        raise ValueError(
            f"{paths[0]}: files of different kinds ({', '.join(sorted(names))}) make no image; "
            "expected slices of one kind, or volumes as channels"
        )
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

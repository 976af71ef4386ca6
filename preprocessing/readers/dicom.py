"""DICOM folders and files to volumes; nothing of a header but the geometry goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samtune.preprocessing.readers.dicom_files import (
    Header,
    Series,
    choose_series,
    find_series,
    group_series,
    is_image,
    named_damage,
    read_dataset,
)
from samtune.preprocessing.readers.dicom_pixels import read_pixels
from samtune.preprocessing.readers.dicom_planes import Plane, planes_of, stack_planes
from samtune.preprocessing.readers.grid import (
    Array,
    Grid,
    Volume,
    choose_frame,
    make_grid,
    picture_grid,
    with_values,
)

FILM_MODALITIES = ("ES", "GM", "RF", "US", "XA", "XC")  # their frames are moments, not slices
SPACING_KEYWORDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True, eq=False)
class Plan:
    """What to read: slices in order, or one file without positions.

    Attributes:
        grid: of the volume.
        planes: slices in order; empty for a file without positions.
        path, frame: file without positions and which of its frames; None takes all.
    """

    grid: Grid
    planes: tuple[Plane, ...] = ()
    path: Path | None = None
    frame: int | None = None


def read_grid(
    path: Path | Sequence[Path], *, frame: int | None = None, series: str | None = None
) -> Grid:
    """Voxel grid of a DICOM folder, file or list of files, from the headers."""
    return _plan(path, frame, series).grid


def read(
    path: Path | Sequence[Path], *, frame: int | None = None, series: str | None = None
) -> Volume:
    """Read a DICOM series or multi-frame file.

    Args:
        path: folder (its subfolders count), file, or the files of a series.
        frame: which frame of a film; multi-frame files with positions are volumes.
        series: description, SeriesInstanceUID or number; needed if there are several.

    Returns:
        ``i j k`` is column, row, slice in the direction of the slices' normal; a file without
        positions is row, column, frame, as pictures are. Colour has a fourth axis.

    Raises:
        ValueError: several series or frames without a choice, a damaged file, missing or double
            slices, slices that differ in size, direction or spacing, or a tilted gantry.
    """
    plan = _plan(path, frame, series)
    if plan.path is not None:
        array, notes = read_pixels(plan.path)
        if plan.frame is not None:
            array = array[plan.frame : plan.frame + 1]
        return with_values(plan.grid, np.moveaxis(array, 0, 2), *notes)
    slices: list[Array] = []
    notes_: dict[str, None] = {}
    current: tuple[Path, Array] | None = None
    for plane in plan.planes:
        if current is None or current[0] != plane.path:
            array, notes = read_pixels(plane.path)
            current = (plane.path, array)
            notes_.update(dict.fromkeys(notes))
        slices.append(current[1][plane.frame])
    dtype = np.result_type(*{one.dtype for one in slices})
    shapes = {one.shape for one in slices}
    if len(shapes) > 1:
        raise ValueError(f"{plan.grid.path}: some slices are grey, some in colour; expected one")
    array = np.stack([one.astype(dtype, copy=False) for one in slices])  # k j i
    return with_values(plan.grid, array.transpose(2, 1, 0, *range(3, array.ndim)), *notes_)


def _plan(path: Path | Sequence[Path], frame: int | None, series: str | None) -> Plan:
    if isinstance(path, Path):
        name = path
        found = find_series(path) if path.is_dir() else _series_of([path])
    else:
        name = path[0].parent
        found = _series_of(path)
    chosen = choose_series(name, found, series)
    headers = chosen.headers
    located: list[list[Plane] | None] = []
    for header in headers:
        with named_damage(header.path):
            located.append(planes_of(header))
    if len(headers) == 1 and located[0] is None:
        with named_damage(headers[0].path, name):
            return _plan_without_positions(name, headers[0], frame)
    unlocated = [h.path.name for h, planes in zip(headers, located, strict=True) if planes is None]
    if unlocated:
        raise ValueError(
            f"{name}: {len(unlocated)} of {len(headers)} files have no position, orientation or "
            f"pixel spacing ({unlocated[0]} first); expected all three in every slice"
        )
    planes = [plane for some in located if some is not None for plane in some]
    if frame not in (None, 0):
        choose_frame(name, (len(planes),), 1, frame)
    ordered, affine = stack_planes(name, planes)
    rows, columns = ordered[0].size
    with named_damage(headers[0].path):
        notes = _count_notes(headers)
    grid = make_grid(name, (columns, rows, len(ordered)), affine, notes=notes)
    return Plan(grid, tuple(ordered))


def _series_of(paths: Sequence[Path]) -> list[Series]:
    headers = [Header(path, read_dataset(path, pixels=False)) for path in paths]
    others = [header.path for header in headers if not is_image(header)]
    if others:
        raise ValueError(
            f"{others[0]}: a DICOM file without an image of a scan; expected one (segmentations "
            "and contours are read as labels)"
        )
    return group_series(headers)


def _plan_without_positions(name: Path, header: Header, frame: int | None) -> Plan:
    number = int(header.get("NumberOfFrames", 1))
    is_film = header.get("Modality") in FILM_MODALITIES or any(
        keyword in header.dataset for keyword in ("FrameTime", "FrameTimeVector", "CineRate")
    )
    rows, columns = int(header.dataset.Rows), int(header.dataset.Columns)
    if is_film or number == 1 or frame is not None:
        frame = choose_frame(name, (rows, columns, number), number, frame)
    spacing = next((header.get(key) for key in SPACING_KEYWORDS if header.get(key)), None)
    between = header.get("SpacingBetweenSlices", header.get("SliceThickness"))
    grid = picture_grid(
        name,
        (rows, columns, number if frame is None else 1),
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        None if between is None else float(between),
    )
    return Plan(grid, path=header.path, frame=frame)


def _count_notes(headers: Sequence[Header]) -> tuple[str, ...]:
    said = headers[0].get("ImagesInAcquisition")
    if len(headers) > 1 and said is not None and int(said) > len(headers):
        return (f"the headers speak of {said} images, {len(headers)} are there",)
    return ()

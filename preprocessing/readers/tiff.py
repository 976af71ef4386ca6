"""TIFF files: pages are slices, spacing from ImageJ's or OME's metadata or the resolution tags."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile

from samtune.preprocessing.readers.grid import (
    Array,
    Grid,
    Volume,
    choose_frame,
    picture_grid,
    with_values,
)
from samtune.preprocessing.readers.pictures import drop_alpha

SUFFIXES = (".tif", ".tiff")
DAMAGED = (
    AssertionError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, RuntimeError,
    MemoryError, ZeroDivisionError, struct.error, zlib.error, tifffile.TiffFileError,
)  # fmt: skip
MM_PER_UNIT = {
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0, "meter": 1000.0,
    "µm": 0.001, "μm": 0.001, "\\u00b5m": 0.001, "um": 0.001, "micron": 0.001, "microns": 0.001,
    "micrometer": 0.001, "nm": 1e-6, "nanometer": 1e-6, "inch": 25.4, "in": 25.4,
}  # fmt: skip
INCH, CENTIMETRE = 2, 3  # values of the tag ResolutionUnit
MIN_IS_WHITE, PALETTE = 0, 3  # values of the tag PhotometricInterpretation


@dataclass(frozen=True)
class Sizes:
    """Spacing of a TIFF file in mm: between rows and columns, and between pages."""

    pixel: tuple[float, float] | None
    between: float | None
    notes: tuple[str, ...] = ()


def read_grid(path: Path, *, frame: int | None = None) -> Grid:
    """Grid of a TIFF file, from its tags: axes are row, column, page."""
    try:
        with tifffile.TiffFile(path) as file:
            return _layout(path, file, frame)[0]
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a TIFF file: ``i j k`` is row, column, page; colour and channels are a fourth axis.

    Args:
        path: file.
        frame: which time point, if it has a time axis of several.

    Raises:
        ValueError: damaged, pages of different size, or several time points without a choice.
    """
    return _read(path, frame, keep_indices=False)


def read_indices(path: Path, *, frame: int | None = None) -> Volume:
    """Like :func:`read`, but a file with a palette gives its indices, which labels mean."""
    return _read(path, frame, keep_indices=True)


def _read(path: Path, frame: int | None, *, keep_indices: bool) -> Volume:
    try:
        with tifffile.TiffFile(path) as file:
            grid, axes, shape = _layout(path, file, frame)
            array = _values(path, file).reshape(shape)
            page = file.pages.first
            photometric, palette = int(page.photometric), page.colormap
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    notes: list[str] = []
    if "T" in axes:
        place = axes.index("T")
        array = np.take(array, choose_frame(path, shape, shape[place], frame), axis=place)
        axes = axes.replace("T", "")
    colour = [place for place, axis in enumerate(axes) if axis in "SC"]
    pages = [place for place, axis in enumerate(axes) if axis not in "SCYX"]
    array = array.transpose(axes.index("Y"), axes.index("X"), *pages, *colour)
    array = array.reshape(*grid.shape, -1)
    if photometric == PALETTE and palette is not None and not keep_indices:
        array = (palette[:, array[..., 0]] >> 8).astype(np.uint8)  # colours have 16 bits
        array = np.moveaxis(array, 0, -1)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * (1 if keep_indices else 255)
    if photometric == MIN_IS_WHITE and array.dtype.kind == "u":
        top = 1 if keep_indices and array.max() <= 1 else np.iinfo(array.dtype).max
        array = (top - array).astype(array.dtype)
        notes.append("stored with white as 0: turned round, high values are bright")
    if "S" in axes or array.shape[-1] == 1:
        array, more = drop_alpha(array)
        notes.extend(more)
    return with_values(grid, array, *notes)


def _values(path: Path, file: tifffile.TiffFile) -> Array:
    try:
        return np.asarray(file.series[0].asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
    # LZW and JPEG need a package that few have; ITK brings its own decoder
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def _layout(
    path: Path, file: tifffile.TiffFile, frame: int | None
) -> tuple[Grid, str, tuple[int, ...]]:
    """Grid, letters of the axes and sizes as stored."""
    series = file.series[0]
    if len(file.series) > 1:
        sizes = ", ".join(str(one.shape) for one in file.series[:4])
        raise ValueError(f"its pages are of {len(file.series)} different kinds: {sizes}")
    axes, shape = str(series.axes), tuple(int(size) for size in series.shape)
    sizes_of = dict(zip(axes, shape, strict=True))
    if "Y" not in sizes_of or "X" not in sizes_of or len(sizes_of) != len(axes):
        raise ValueError(f"its axes are {axes}; expected X and Y")
    if "S" in axes and "C" in axes:
        raise ValueError(f"its axes are {axes}; expected colours or channels, not both")
    choose_frame(path, shape, sizes_of.get("T", 1), frame)
    pages = int(np.prod([n for axis, n in sizes_of.items() if axis not in "TSCYX"], dtype=int))
    found = _sizes(file)
    grid = picture_grid(
        path,
        (sizes_of["Y"], sizes_of["X"], pages),
        found.pixel,
        found.between,
        notes=found.notes,
    )
    return grid, axes, shape


def _sizes(file: tifffile.TiffFile) -> Sizes:
    if file.is_ome:
        return _ome_sizes(file)
    tags = file.pages.first.tags
    resolution = [_ratio(tags.get(name)) for name in ("YResolution", "XResolution")]
    if file.is_imagej:
        metadata: dict[str, Any] = file.imagej_metadata or {}
        unit = MM_PER_UNIT.get(str(metadata.get("unit", "")).strip().lower())
        if unit is None:
            return Sizes(None, None)
        between = metadata.get("spacing")
        return Sizes(_pixel(resolution, unit), None if not between else float(between) * unit)
    unit_tag = tags.get("ResolutionUnit")
    kind = int(unit_tag.value) if unit_tag is not None else INCH
    pixel = _pixel(resolution, 10.0)
    if kind == CENTIMETRE:
        return Sizes(pixel, None)
    if kind == INCH and pixel is not None and min(resolution) > 1:
        return Sizes(None, None, ("its resolution an inch is about printing and gives no spacing",))
    return Sizes(None, None)


def _ome_sizes(file: tifffile.TiffFile) -> Sizes:
    text = file.ome_metadata
    images = tifffile.xml2dict(text)["OME"]["Image"] if text else []
    pixels = (images[0] if isinstance(images, list) else images)["Pixels"] if images else {}
    found: dict[str, float | None] = {}
    for axis in "YXZ":
        unit = MM_PER_UNIT.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")).lower())
        size = pixels.get(f"PhysicalSize{axis}")
        found[axis] = None if size is None or unit is None else float(size) * unit
    rows, columns = found["Y"], found["X"]
    return Sizes(None if not rows or not columns else (rows, columns), found["Z"])


def _ratio(tag: Any) -> float:
    if tag is None:
        return 0.0
    top, bottom = tag.value
    return float(top) / float(bottom) if bottom else 0.0


def _pixel(resolution: list[float], mm: float) -> tuple[float, float] | None:
    """Sizes of a pixel from pixels a unit of ``mm``."""
    rows, columns = resolution
    return (mm / rows, mm / columns) if rows > 0 and columns > 0 else None


def _unreadable(path: Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if reason.startswith(str(path)):
        return ValueError(reason)  # says already what is wrong
    return ValueError(f"{path}: not a readable TIFF file ({reason}); expected pages of one kind")

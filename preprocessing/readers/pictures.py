"""PNG, JPEG and BMP as volumes of one slice: axes are row, column, page."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from samtune.preprocessing.readers.grid import (
    Array,
    Grid,
    Volume,
    choose_frame,
    make_grid,
    picture_grid,
    with_values,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm")
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, Image.DecompressionBombError)
EXIF_ORIENTATION = 0x0112
ALPHA_NOTE = "an alpha channel that varies was dropped; colours are those stored below it"


def read_grid(path: Path, *, frame: int | None = None) -> Grid:
    """Grid of a picture, from its header; ``k`` has one entry."""
    with _open(path) as image:
        width, height = image.size
        _check_frames(path, image, frame)
    return picture_grid(path, (height, width, 1), None)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a picture: grey of 8 or 16 bits ``i j 1``, or RGB ``i j 1 3``.

    Resolution tags of these formats are about printing and don't give a spacing.

    Args:
        path: file.
        frame: only 0 is there.

    Raises:
        ValueError: damaged, or an animation.
    """
    return _read(path, frame, keep_indices=False)


def read_indices(path: Path, *, frame: int | None = None) -> Volume:
    """Like :func:`read`, but a picture with a palette gives its indices, which labels mean."""
    return _read(path, frame, keep_indices=True)


def drop_alpha(array: Array) -> tuple[Array, tuple[str, ...]]:
    """Colours or grey of ``... c``, 1 to 4 channels; a note if the alpha dropped was not constant.

    Returns:
        ``...`` for one or two channels, ``... 3`` for three or four.
    """
    channels = array.shape[-1]
    notes: tuple[str, ...] = ()
    if channels in (2, 4):
        alpha = array[..., -1]
        notes = () if (alpha == alpha.flat[0]).all() else (ALPHA_NOTE,)
        array = array[..., :-1]
    return (array[..., 0] if array.shape[-1] == 1 else array), notes


def stack_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Pictures directly in a folder in the order of the numbers in their names.

    ``slice_2`` comes before ``slice_10``; hidden files are ignored.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")
    ]
    if not found:
        raise FileNotFoundError(f"{folder}: found no picture; expected {', '.join(suffixes)}")
    return sorted(found, key=lambda path: (_natural(path.name), path.name))


def stack_pictures(volumes: Sequence[Volume]) -> Volume:
    """Pages of one size, one behind the other.

    Args:
        volumes: each ``i j 1`` or ``i j 1 c``.

    Raises:
        ValueError: sizes or channels differ, or a file has several pages.
    """
    first = volumes[0]
    for volume in volumes:
        if volume.shape[2] != 1:
            raise ValueError(f"{volume.path}: has {volume.shape[2]} pages; expected one a file")
        if volume.array.shape != first.array.shape:
            raise ValueError(
                f"{volume.path}: {_size(volume)}, {first.path.name} has {_size(first)}; slices of "
                "one stack need one size"
            )
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    shape = (first.shape[0], first.shape[1], len(volumes))
    grid = make_grid(
        first.path.parent,
        shape,
        first.affine,
        has_spacing=first.has_spacing,
        is_picture=True,
        notes=notes,
    )
    return with_values(grid, np.concatenate([volume.array for volume in volumes], axis=2))


def _read(path: Path, frame: int | None, *, keep_indices: bool) -> Volume:
    notes: list[str] = []
    with _open(path) as image:
        _check_frames(path, image, frame)
        try:
            array = _pixels(path, image, keep_indices)
            if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                notes.append("the camera's orientation tag was not applied; pixels are as stored")
        except DAMAGED as error:
            raise _unreadable(path, error) from error
    if array.ndim == 2:
        array = array[..., np.newaxis]
    array, more = drop_alpha(array)
    grid = picture_grid(path, (array.shape[0], array.shape[1], 1), None, notes=tuple(notes))
    return with_values(grid, array[:, :, np.newaxis], *more)


def _pixels(path: Path, image: Image.Image, keep_indices: bool) -> Array:
    image.load()  # all of it: a truncated file is an error here
    if image.format == "PNG" and path.read_bytes()[24:25] == b"\x10":
        # Pillow makes 8 bits of the 16 of a colour PNG
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * (1 if keep_indices else 255)
    if image.mode in ("P", "PA"):
        if keep_indices:
            return np.asarray(image if image.mode == "P" else image.getchannel("P"))
        has_alpha = image.mode == "PA" or "transparency" in image.info
        return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    if image.mode in ("L", "LA", "RGB", "RGBA", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))  # CMYK, YCbCr, LAB


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def _check_frames(path: Path, image: Image.Image, frame: int | None) -> None:
    number = int(getattr(image, "n_frames", 1))
    if number > 1:
        raise ValueError(f"{path}: an animation of {number} pictures; expected one")
    choose_frame(path, image.size, 1, frame)


def _unreadable(path: Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: not a complete picture ({reason}); expected a readable one")


def _size(volume: Volume) -> str:
    colours = f" of {volume.channels} channels" if volume.channels > 1 else ""
    return f"{volume.shape[0]} x {volume.shape[1]} pixels{colours}"


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

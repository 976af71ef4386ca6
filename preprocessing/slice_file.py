"""The slice file: ``.npz`` with ``imgs`` and, where labelled, ``gts``."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samtune.atomic import write_atomically
from samtune.preprocessing.volumes import Array

IMAGE_TYPES = (np.uint8, np.uint16)
LABEL_MAX = int(np.iinfo(np.uint16).max)

LabelArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def write_slice_file(
    path: Path, imgs: Array, gts: Array | None, reference: Array | None = None
) -> None:
    """Write a slice file, complete or not at all; equal arrays give equal bytes.

    Args:
        path: target, ``.npz``.
        imgs: ``N H W`` grey or ``N H W 3`` colour, uint8 or uint16.
        gts: ``N H W`` labels, uint8 or uint16, or None for unlabelled slices.
        reference: label of the whole case on its native slices, where ``gts`` are resampled and
            cannot give it back; read by :func:`read_reference`.

    Raises:
        ValueError: a type or shape that the format does not have.
    """
    path = Path(path)
    _check(path, imgs, gts)
    buffer = io.BytesIO()  # members of the archive are dated 1980-01-01 by zipfile
    if gts is None:
        np.savez_compressed(buffer, imgs=imgs)
    elif reference is None:
        np.savez_compressed(buffer, imgs=imgs, gts=gts)
    else:
        np.savez_compressed(buffer, imgs=imgs, gts=gts, reference=reference)
    write_atomically(path, buffer.getvalue())


def read_slice_file(path: Path) -> tuple[Array, LabelArray | None]:
    """Read a slice file, ours or one of a MedSAM-style tool.

    A single slice stored without its first axis gets it; labels of another type are turned into
    the smaller of uint8 and uint16 that holds them. Nothing is unpickled.

    Returns:
        ``imgs``: ``N H W`` or ``N H W 3``, uint8 or uint16; ``gts``: ``N H W``, or None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a complete ``.npz``, no ``imgs``, or a type or shape that the format does
            not have.
    """
    path = Path(path)
    arrays = _read(path, ("imgs", "gts"))
    imgs, gts = arrays.get("imgs"), arrays.get("gts")
    if imgs is None:
        raise ValueError(
            f"{path}: expected the array 'imgs', found {', '.join(_names(path)) or 'none'}"
        )
    if gts is not None:
        gts = _as_label(path, gts)
    if imgs.ndim == 2 or (imgs.ndim == 3 and gts is not None and gts.ndim == 2):
        imgs = imgs[None]
    if gts is not None and gts.ndim == 2:
        gts = gts[None]
    _check(path, imgs, gts)
    return imgs, gts


def read_reference(path: Path) -> LabelArray | None:
    """Native label slices ``N H W`` of a whole case from its first slice file, None if not there.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_slice_file`.
    """
    reference = _read(Path(path), ("reference",)).get("reference")
    return None if reference is None else _as_label(Path(path), reference)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such slice file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a complete .npz slice file ({error})") from error


def _names(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.files)


def _as_label(path: Path, gts: Array) -> LabelArray:
    if gts.dtype in (np.uint8, np.uint16):
        return gts
    if gts.dtype.kind not in "bui" or (gts.size and not 0 <= gts.min() <= gts.max() <= LABEL_MAX):
        raise ValueError(
            f"{path}: 'gts' is {gts.dtype}; expected whole numbers from 0 to {LABEL_MAX}"
        )
    small = not gts.size or gts.max() <= np.iinfo(np.uint8).max
    return gts.astype(np.uint8) if small else gts.astype(np.uint16)


def _check(path: Path, imgs: Array, gts: Array | None) -> None:
    if imgs.dtype not in IMAGE_TYPES:
        raise ValueError(f"{path}: 'imgs' is {imgs.dtype}; expected uint8 or uint16")
    if imgs.size == 0 or not (imgs.ndim == 3 or (imgs.ndim == 4 and imgs.shape[3] == 3)):
        raise ValueError(f"{path}: 'imgs' has shape {imgs.shape}; expected (N, H, W[, 3])")
    if gts is not None and gts.dtype not in IMAGE_TYPES:
        raise ValueError(f"{path}: 'gts' is {gts.dtype}; expected uint8 or uint16")
    if gts is not None and gts.shape != imgs.shape[:3]:
        raise ValueError(f"{path}: 'gts' has shape {gts.shape}; expected {imgs.shape[:3]}")

"""Slices of other tools in ``.npz`` as a volume: they are cut already and stay as they are.

Keys as MedSAM writes them: ``imgs`` (``N H W``, ``N H W 3``, ``H W 3`` or ``H W``), ``gts`` without
the channels, ``spacing`` in mm along W, H and N (SimpleITK's order). The file says nothing of
orientation and origin: the volume's axes are H, W, N, taken as R, A, S from a corner at 0, so that
cutting along axis 2 gives the stored slices back.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header

from samtune.preprocessing.slice_file import LabelArray, read_slice_file
from samtune.preprocessing.volumes import Array, Grid, Spacing, Volume

AXIS = 2


@dataclass(frozen=True, eq=False)
class NpzSlices:
    """Content of a file.

    Attributes:
        imgs: ``N H W`` grey or ``N H W 3``, uint8 or uint16; three equal channels are one grey.
        gts: ``N H W``, None if unlabelled.
        spacing: mm along N, H and W; 1 where the file has none.
    """

    imgs: Array
    gts: LabelArray | None
    spacing: Spacing


def is_npz(path: Path) -> bool:
    """Whether this is a file of slices by its name."""
    return path.name.lower().endswith(".npz")


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in a file, none of them read; empty if it is no complete ``.npz``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return list(archive.files)
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
    ):
        return []


def read_npz(path: Path) -> NpzSlices:
    """Read a file of slices.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`~samtune.preprocessing.slice_file.read_slice_file`, or a spacing
            that is not three numbers > 0.
    """
    imgs, gts = read_slice_file(path)
    if imgs.ndim == 4 and (imgs == imgs[..., :1]).all():
        imgs = np.ascontiguousarray(imgs[..., 0])
    return NpzSlices(imgs, gts, _spacing(path))


def read_npz_image(path: Path) -> Volume:
    """The images of a file as a volume ``H W N`` or, in colour, ``H W N 3``."""
    slices = read_npz(path)
    return _volume(path, slices.imgs, slices.spacing)


def read_npz_label(path: Path) -> Volume:
    """The labels of a file as a volume ``H W N``.

    Raises:
        ValueError: the file has no ``gts``.
    """
    slices = read_npz(path)
    if slices.gts is None:
        raise ValueError(f"{path}: has no labels 'gts'")
    return _volume(path, slices.gts, slices.spacing)


def read_npz_grid(path: Path) -> Grid:
    """Voxel grid of a file by the headers of its arrays; their values are not read.

    Raises:
        ValueError: not a complete ``.npz`` with ``imgs``, or a shape that slices don't have.
    """
    shapes = _shapes(path)
    if "imgs" not in shapes:
        raise ValueError(f"{path}: expected the array 'imgs', found {', '.join(shapes) or 'none'}")
    shape, labels = shapes["imgs"], shapes.get("gts")
    if len(shape) == 2 or (len(shape) == 3 and labels is not None and len(labels) == 2):
        shape = (1, *shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"{path}: 'imgs' has shape {shape}; expected (N, H, W[, 3])")
    return _grid(path, (shape[1], shape[2], shape[0]), _spacing(path))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name.removesuffix(".npy")] = read(file)[0]
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not a complete .npz slice file ({error})") from error
    return shapes


def _spacing(path: Path) -> Spacing:
    if "spacing" not in npz_keys(path):
        return (1.0, 1.0, 1.0)
    with np.load(path, allow_pickle=False) as archive:
        values = np.asarray(archive["spacing"], dtype=np.float64).reshape(-1)
    if values.size not in (2, 3) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"{path}: spacing is {values.tolist()}; expected 3 numbers > 0, in mm")
    w, h, n = [round(float(value), 6) for value in values] + [1.0] * (3 - values.size)
    return (n, h, w)


def _volume(path: Path, slices: Array, spacing: Spacing) -> Volume:
    array = np.ascontiguousarray(np.moveaxis(slices, 0, 2))  # n h w ... -> h w n ...
    rows, columns, number = array.shape[:3]
    grid = _grid(path, (rows, columns, number), spacing)
    return Volume(path, grid.shape, grid.affine, grid.spacing, grid.header, array)


def _grid(path: Path, shape: tuple[int, int, int], spacing: Spacing) -> Grid:
    n, h, w = spacing
    affine = np.diag([h, w, n, 1.0])
    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    return Grid(path, shape, affine, (h, w, n), header)

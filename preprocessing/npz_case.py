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
from samtune.preprocessing.volumes import Array, Spacing, Volume

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
    n, h, w = spacing
    affine = np.diag([h, w, n, 1.0])
    header = Nifti1Header()
    header.set_data_shape(array.shape[:3])
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    rows, columns, number = array.shape[:3]
    return Volume(path, (rows, columns, number), affine, (h, w, n), header, array)

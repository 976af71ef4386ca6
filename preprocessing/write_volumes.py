"""Volumes and labels as NIfTI, NRRD, MetaImage or PNG, complete or not at all."""

import gzip
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from samtune.atomic import write_atomically
from samtune.preprocessing.nifti_files import impersonal_header, nifti_bytes
from samtune.preprocessing.readers.grid import RAS_OF_LPS, Array, Volume, geometry_header
from samtune.preprocessing.readers.nifti import MM_PER_UNIT

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def output_files(path: Path, volume: Volume) -> list[Path]:
    """Files that :func:`write_volume` writes: one, or one a slice for PNG (``name_000.png``).

    Raises:
        ValueError: a suffix that can't be written.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith(SUFFIXES) or name in SUFFIXES:
        raise ValueError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    number = volume.shape[2]
    if not name.endswith(".png") or number == 1:
        return [path]
    digits = max(3, len(str(number - 1)))
    return [path.with_name(f"{path.stem}_{index:0{digits}d}.png") for index in range(number)]


def write_volume(path: Path, volume: Volume) -> list[Path]:
    """Write a volume by the suffix of ``path``; geometry in full where the format has any.

    Values and type are kept; float16 and bool, which none of the formats has, become float32 and
    uint8. Colours of 8 bits stay colours; other channels are the frames of a 4D NIfTI file and
    the components of an NRRD or MetaImage file. Nothing of a header is written but geometry,
    unit and, from NIfTI to NIfTI, its codes.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.png``.
        volume: any; for PNG of 8 or 16 bits without sign, grey or RGB of 8 bits.

    Returns:
        The files written.

    Raises:
        ValueError: a suffix or, for PNG, values that can't be written.
    """
    files = output_files(path, volume)
    array = volume.array
    if array.dtype in (np.float16, np.bool_):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.uint8)
    name = files[0].name.lower()
    if name.endswith(".png"):
        pages = [_png(path, volume, array[:, :, index]) for index in range(volume.shape[2])]
        for file, data in zip(files, pages, strict=True):
            write_atomically(file, data)
    elif name.endswith((".nii", ".nii.gz")):
        data = _nifti(volume, array)
        write_atomically(files[0], gzip.compress(data, 6, mtime=0) if name[-1] == "z" else data)
    else:
        write_atomically(files[0], _itk(files[0].suffix.lower(), volume, array))
    return files


def existing(files: Sequence[Path]) -> list[Path]:
    """Those of the files that are there already."""
    return [file for file in files if file.exists()]


def _nifti(volume: Volume, array: Array) -> bytes:
    header = impersonal_header(volume.header)
    if array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8:
        array = np.ascontiguousarray(array).view(RGB)[..., 0]
    if int(np.prod(header.get_data_shape())) != array.size:
        header = geometry_header(volume.shape, volume.affine)
        header.set_xyzt_units(volume.header.get_xyzt_units()[0])
        header.set_data_shape(array.shape)
    return nifti_bytes(array.reshape(header.get_data_shape()), volume.affine, header)


def _itk(suffix: str, volume: Volume, array: Array) -> bytes:
    order = (2, 1, 0, 3)[: array.ndim]
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(array.transpose(order)), isVector=array.ndim == 4
    )
    columns = volume.affine[:3, :3]
    norms = np.linalg.norm(columns, axis=0)
    to_mm = MM_PER_UNIT.get(volume.header.get_xyzt_units()[0], 1.0)
    lps = RAS_OF_LPS[:3, :3]
    image.SetSpacing((norms * to_mm).tolist())
    image.SetDirection((lps @ (columns / norms)).ravel().tolist())
    image.SetOrigin((lps @ volume.affine[:3, 3] * to_mm).tolist())
    return itk_file(image, suffix)


def itk_file(image: sitk.Image, suffix: str) -> bytes:
    """The compressed file that ITK writes of ``image``, by the format's suffix."""
    with tempfile.TemporaryDirectory() as folder:  # ITK writes by name only
        file = Path(folder) / f"volume{suffix}"
        sitk.WriteImage(image, str(file), useCompression=True)
        return file.read_bytes()


def _png(path: Path, volume: Volume, page: Array) -> bytes:
    colour = page.ndim == 3
    if page.dtype not in (np.uint8, np.uint16) or (
        colour and (page.dtype != np.uint8 or page.shape[2] != 3)
    ):
        channels = f" in {volume.channels} channels" if colour else ""
        raise ValueError(
            f"{path}: values are {page.dtype}{channels}, from {volume.array.min():g} to "
            f"{volume.array.max():g}; a PNG holds grey of 8 or 16 bits without sign, or RGB of 8"
        )
    if not volume.is_picture:
        page = page.swapaxes(0, 1)  # i of a scan is the column, j the row
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(page)).save(buffer, format="PNG")
    return buffer.getvalue()

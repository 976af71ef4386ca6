"""NIfTI-1, NIfTI-2 and MGH/MGZ through nibabel; the gzip checksum is verified."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError, MGHImage
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.spatialimages import HeaderDataError

from samtune.preprocessing.readers.grid import (
    Array,
    Grid,
    Volume,
    choose_frame,
    make_grid,
    with_values,
)

MGH_SUFFIXES = (".mgz", ".mgh")
SUFFIXES = (".nii.gz", ".nii", *MGH_SUFFIXES)
MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
DAMAGED = (
    ImageFileError,
    HeaderDataError,
    MGHError,
    OSError,
    EOFError,
    TypeError,  # a header too short for its fields
    ValueError,
    zlib.error,
)

Image = Nifti1Image | MGHImage  # Nifti2Image is a Nifti1Image too


def read_grid(path: Path, *, frame: int | None = None) -> Grid:
    """Voxel grid of a NIfTI or MGH file, without reading its values."""
    return _grid(path, _open(path), frame)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a NIfTI or MGH file, scale and offset of its header applied.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.mgh`` or ``.mgz``.
        frame: which volume of a 4D file.

    Raises:
        ValueError: damaged (a wrong gzip checksum included), 4D without a choice, complex voxels,
            or a geometry that cannot be inverted.
    """
    image = _open(path)
    grid = _grid(path, image, frame)
    stored = image.get_data_dtype()
    is_colour = stored.names is not None and stored.names[:3] == ("R", "G", "B")
    if stored.kind not in "buif" and not is_colour:
        raise ValueError(f"{path}: voxels are of type {stored}; expected one real number a voxel")
    try:
        if path.name.lower().endswith(".gz"):  # nibabel stops before the checksum
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        array = _one_frame(path, image, frame)
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    if is_colour:
        array = np.stack([array[name] for name in ("R", "G", "B")], axis=-1)
        return with_values(grid, array.reshape(*grid.shape, 3))
    return with_values(grid, array.reshape(grid.shape))


def _one_frame(path: Path, image: Image, frame: int | None) -> Array:
    number = int(np.prod(image.shape[3:]))
    if number == 1:
        return np.asanyarray(image.dataobj)
    index = choose_frame(path, image.shape, number, frame)
    return np.asanyarray(image.dataobj[..., index])  # the others are never converted


def _open(path: Path) -> Image:
    try:
        if path.name.lower().endswith(MGH_SUFFIXES):
            # nibabel leaves the file open if it is too short, so it is given the bytes
            data = path.read_bytes()
            packed = path.name.lower().endswith("z")
            return MGHImage.from_bytes(gzip.decompress(data) if packed else data)
        image = nib.load(path, mmap=False)
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, Nifti1Image):
        raise ValueError(f"{path}: expected a NIfTI volume, found {type(image).__name__}")
    return image


def _unreadable(path: Path, error: Exception) -> ValueError:
    kind = "MGH" if path.name.lower().endswith(MGH_SUFFIXES) else "NIfTI"
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: not a complete {kind} file ({reason}); expected a readable volume")


def _grid(path: Path, image: Image, frame: int | None) -> Grid:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) > 3 and set(shape[3:]) == {1}:
        shape = shape[:3]
        choose_frame(path, image.shape, 1, frame)
    if len(shape) == 4:
        choose_frame(path, shape, shape[3], frame)
    elif frame not in (None, 0):
        choose_frame(path, shape, 1, frame)
    affine = np.array(image.affine, dtype=np.float64)
    if not isinstance(image, Nifti1Image):
        return make_grid(path, shape[:3] if len(shape) == 4 else shape, affine)
    header = image.header
    if len(shape) == 4:
        header = header.copy()
        header.set_data_shape(shape[:3])
        shape = shape[:3]
    if header["sform_code"] == 0:
        affine[:3, :3] *= _stored_sizes(path, header) != 0
    unit = MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return make_grid(path, shape, affine, header=header, mm_per_unit=unit)


def _stored_sizes(path: Path, header: Nifti1Header) -> Array:
    """Voxel sizes as the file has them: nibabel takes 1 for a zero when it reads a header."""
    is_packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if is_packed else path.open("rb") as file:
        stored = type(header).from_fileobj(file, check=False)
    return np.asarray(stored["pixdim"][1:4])

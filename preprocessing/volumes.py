"""Reading and writing NIfTI volumes and labels, each on its file's own voxel grid."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.spatialimages import HeaderDataError

from samtune.atomic import write_atomically

SUFFIXES = (".nii.gz", ".nii")
AFFINE_TOLERANCE = 1e-3
MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of a file, known from its header alone.

    Attributes:
        path: the file.
        shape: number of voxels along the file's own array axes ``i j k``.
        affine: ``4 4`` float64, voxel index to world (RAS+) in the header's unit, mm as a rule.
        spacing: voxel size in mm, one entry per array axis: norms of the affine's columns,
            rounded to 6 decimals (float32 headers read 0.4 as 0.4000000059604645).
        header: the NIfTI header as stored.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: Affine
    spacing: Spacing
    header: Nifti1Header


@dataclass(frozen=True, eq=False)
class Volume(Grid):
    """A :class:`Grid` with its values.

    Attributes:
        array: ``i j k`` in the file's own order, C-contiguous.
    """

    array: Array


def volume_suffix(path: Path) -> str | None:
    """``.nii.gz`` or ``.nii`` as spelt in the name of ``path``; None for any other file."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[-len(suffix) :]
    return None


def case_id(path: Path) -> str:
    """Name of a volume file without ``.nii`` or ``.nii.gz``.

    Raises:
        ValueError: the name has another suffix.
    """
    suffix = volume_suffix(path)
    if suffix is None:
        raise ValueError(f"{path}: the name must end in .nii or .nii.gz")
    return path.name[: -len(suffix)]


def find_volumes(folder: Path) -> dict[str, Path]:
    """Volume files directly in ``folder``, sorted by case id; hidden files are ignored.

    Raises:
        FileNotFoundError: no such folder, or no ``.nii`` or ``.nii.gz`` file in it.
        ValueError: two files have the same case id (``a.nii`` and ``a.nii.gz``).
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(f"{folder}: expected a folder of volumes, found {found}")
    others: list[str] = []
    volumes: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() or volume_suffix(path) is None:
            others.append(path.name + ("/" if path.is_dir() else ""))
            continue
        case = case_id(path)
        if case in volumes:
            raise ValueError(
                f"{folder}: case {case!r} has two files, {volumes[case].name} and {path.name}; "
                "expected one"
            )
        volumes[case] = path
    if not volumes:
        found = "nothing"
        if others:
            more = ", ..." if len(others) > 3 else ""
            found = f"{len(others)} other entries ({', '.join(others[:3])}{more})"
        raise FileNotFoundError(
            f"{folder}: looked for *.nii and *.nii.gz directly in this folder, found {found}"
        )
    return dict(sorted(volumes.items()))


def read_grid(path: Path) -> Grid:
    """Voxel grid of a volume file, without reading its values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not NIfTI, damaged header, not 3D, or an affine that cannot be inverted.
    """
    path = Path(path)
    return _grid(path, _open(path))


def read_volume(path: Path) -> Volume:
    """Read a 3D image volume.

    A 4D file with one time point is read as 3D. Values are those of the header's scale and
    offset: integers keep their stored type if these are trivial, everything else is float32.

    Returns:
        The volume, array axes ``i j k`` as in the file. Values are not checked: they may be
        NaN or infinite where the file is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not NIfTI, truncated, not 3D, complex or colour voxels, or an affine that
            cannot be inverted.
    """
    path = Path(path)
    image = _open(path)
    grid = _grid(path, image)
    array = _values(path, image)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes inf, which users of the values refuse
            array = array.astype(np.float32)
    return _with_values(grid, array)


def read_image(
    path: Path | Sequence[Path], *, frame: int | None = None, series: str | None = None
) -> Volume:
    """Read the image of a case: :func:`read_volume` of its one file.

    Raises:
        ValueError: several files, a frame or a series; or as :func:`read_volume`.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    if len(paths) != 1 or frame is not None or series is not None:
        raise ValueError(f"{paths[0]}: {len(paths)} files, frame {frame}; expected one 3D volume")
    return read_volume(paths[0])


def read_label(path: Path) -> Volume:
    """Read a 3D label volume as integers.

    A stored integer type is kept; a float file is accepted if all its values are whole, as the
    smallest integer type that holds them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`read_volume`, or a value is not a whole number >= 0.
    """
    path = Path(path)
    image = _open(path)
    grid = _grid(path, image)
    array = _values(path, image)
    if array.dtype.kind == "f":
        whole = np.isfinite(array)
        whole[whole] = array[whole] == np.rint(array[whole])
        if not whole.all():
            _refuse_label(path, array, ~whole, "a whole number")
    if array.dtype.kind in "if" and array.min() < 0:
        _refuse_label(path, array, array < 0, ">= 0")
    if array.dtype.kind == "f":
        if array.max() > np.iinfo(np.uint32).max:
            _refuse_label(path, array, array > np.iinfo(np.uint32).max, "at most 4294967295")
        array = array.astype(np.min_scalar_type(int(array.max())))
    return _with_values(grid, array)


def write_label(path: Path, array: Array, like: Grid) -> None:
    """Write a label volume on the grid of ``like``, complete or not at all.

    Shape (a trailing time axis of length 1 included), affine, qform and sform with their codes
    and the unit are those of ``like``; voxels are the smallest unsigned integer type that holds
    the values. The bytes depend on nothing else: no time stamp.

    Args:
        path: target, ``.nii`` or ``.nii.gz``.
        array: ``i j k`` integer or bool, values >= 0, on the file grid of ``like``.
        like: image or label read from the file whose grid the array is on.

    Raises:
        ValueError: wrong suffix, shape or type, or a negative value.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    if suffix is None:
        raise ValueError(f"{path}: the name of a label file must end in .nii or .nii.gz")
    if array.shape != like.shape:
        raise ValueError(f"{path}: label has shape {array.shape}, {like.path} has {like.shape}")
    if array.dtype.kind not in "bui":
        raise ValueError(f"{path}: label must be of integer type, got {array.dtype}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{path}: label values must be >= 0, got {array.min()}")
    values = array.astype(np.min_scalar_type(int(array.max())))
    header = like.header.copy()
    header.extensions.clear()  # may hold names and dates of the scanned person
    header.set_data_offset(0)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # display range of the image, not of a label
    voxels = values.reshape(header.get_data_shape())
    if isinstance(header, nib.Nifti2Header):
        image: Nifti1Image = nib.Nifti2Image(voxels, like.affine, header)
    else:
        image = Nifti1Image(voxels, like.affine, header)
    data = image.to_bytes()
    write_atomically(path, gzip.compress(data, 6, mtime=0) if suffix[-1] in "zZ" else data)


def orientation(affine: Affine) -> str:
    """Directions in which the array axes increase, such as ``"RAS"``, of a ``4 4`` affine."""
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def check_same_grid(image: Grid, label: Grid) -> None:
    """Do nothing if both files have one shape and one affine (within 1e-3 per entry).

    Raises:
        ValueError: they differ; the message has both values.
    """
    if image.shape != label.shape:
        raise ValueError(
            f"{label.path}: label has shape {label.shape}, its image {image.path.name} has "
            f"{image.shape}; resample the label to the image's grid"
        )
    if not np.allclose(image.affine, label.affine, rtol=0, atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"{label.path}: label has affine {_affine_text(label.affine)}, its image "
            f"{image.path.name} has {_affine_text(image.affine)}; resample the label or correct "
            "its header"
        )


def _affine_text(affine: Affine) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])


def _open(path: Path) -> Nifti1Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a .nii or .nii.gz volume")
    try:
        image = nib.load(path, mmap=False)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, Nifti1Image):  # Nifti2Image is one too
        raise ValueError(f"{path}: expected a NIfTI volume, found {type(image).__name__}")
    return image


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{path}: not a complete NIfTI file ({reason}); expected a readable .nii or .nii.gz volume"
    )


def _values(path: Path, image: Nifti1Image) -> Array:
    stored = image.get_data_dtype()
    if stored.kind not in "buif":
        raise ValueError(f"{path}: voxels are of type {stored}; expected one real number a voxel")
    try:
        if path.name.lower().endswith(".gz"):  # nibabel stops before the checksum at the end
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _grid(path: Path, image: Nifti1Image) -> Grid:
    shape = tuple(int(size) for size in image.shape)
    if len(shape) > 3 and set(shape[3:]) == {1}:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{path}: shape is {image.shape}; expected a 3D volume")
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"{path}: affine {_affine_text(affine)} cannot be inverted")
    unit = MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    norms = np.linalg.norm(affine[:3, :3], axis=0) * unit
    i, j, k = (round(float(norm), 6) for norm in norms)
    return Grid(path, (shape[0], shape[1], shape[2]), affine, (i, j, k), image.header)


def _with_values(grid: Grid, array: Array) -> Volume:
    values = array.reshape(grid.shape)
    return Volume(grid.path, grid.shape, grid.affine, grid.spacing, grid.header, values)


def _refuse_label(path: Path, array: Array, wrong: npt.NDArray[np.bool_], expected: str) -> None:
    where = tuple(int(index) for index in np.argwhere(wrong)[0])
    raise ValueError(
        f"{path}: label value {array[where]} at voxel {where} ({int(wrong.sum())} such voxels); "
        f"every label value must be {expected}"
    )

"""Voxel grid and values of a file, whatever its format, and the checks that all of them pass."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header

BLOCK = (64, 32)  # of the first two axes, copied at once
NIFTI1_LARGEST = 32767  # sizes are int16 in NIfTI-1
SINGULAR = 1e-6  # volume of the cell that the three axis directions (unit vectors) span
RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM and ITK count towards left and posterior

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of a file, known from its header alone.

    Attributes:
        path: the file or folder.
        shape: number of voxels along the file's own array axes ``i j k``; ``k`` is 1 for a single
            2D image.
        affine: ``4 4`` float64, voxel index to world (RAS+) in the header's unit, mm as a rule.
        spacing: voxel size in mm, one entry per array axis: norms of the affine's columns,
            rounded to 6 decimals (float32 headers read 0.4 as 0.4000000059604645).
        header: the NIfTI header as stored; for another format one made from the geometry alone.
        has_spacing: False if the file doesn't say how large a pixel is; then it counts as 1 mm.
        is_picture: the axes are row, column, page, as of pictures, stacks and films; else ``i`` is
            what runs along a scan's rows.
        notes: what the reader changed or doubted, a sentence each; no value of a person.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: Affine
    spacing: Spacing
    header: Nifti1Header
    has_spacing: bool = field(default=True, kw_only=True)
    is_picture: bool = field(default=False, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, eq=False)
class Volume(Grid):
    """A :class:`Grid` with its values.

    Attributes:
        array: ``i j k`` in the file's own order, C-contiguous; colour images and images of
            several channels are ``i j k c``.
    """

    array: Array

    @property
    def channels(self) -> int:
        """Values a voxel: 1 for ``i j k``."""
        return 1 if self.array.ndim == 3 else int(self.array.shape[3])


def make_grid(
    path: Path,
    shape: tuple[int, ...],
    affine: Affine,
    *,
    header: Nifti1Header | None = None,
    mm_per_unit: float = 1.0,
    has_spacing: bool = True,
    is_picture: bool = False,
    notes: tuple[str, ...] = (),
) -> Grid:
    """Check a geometry and make a :class:`Grid` of it.

    Args:
        path: file the geometry is of, for messages.
        shape: three sizes.
        affine: ``4 4``, voxel index to world, RAS+.
        header: NIfTI header; made from shape and affine if there is none.
        mm_per_unit: length of the affine's unit.
        has_spacing, is_picture, notes: see :class:`Grid`.

    Raises:
        ValueError: not three sizes >= 1, a spacing of zero, or an affine that cannot be inverted.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{path}: shape is {tuple(shape)}; expected a 3D volume")
    affine = np.array(affine, dtype=np.float64)
    finite = bool(np.isfinite(affine).all())
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if finite and norms.min() == 0:
        sizes = ", ".join(f"{norm * mm_per_unit:g}" for norm in norms)
        raise ValueError(
            f"{path}: affine {affine_text(affine)} cannot be inverted: spacing is ({sizes}) mm; "
            "expected sizes > 0"
        )
    if not finite or abs(np.linalg.det(affine[:3, :3] / norms)) < SINGULAR:
        raise ValueError(f"{path}: affine {affine_text(affine)} cannot be inverted")
    i, j, k = (round(float(norm * mm_per_unit), 6) for norm in norms)
    if min(i, j, k) <= 0:
        raise ValueError(f"{path}: spacing is {(i, j, k)} mm; expected sizes >= 0.000001 mm")
    sizes_ = (int(shape[0]), int(shape[1]), int(shape[2]))
    if header is None:
        header = geometry_header(sizes_, affine)
    return Grid(
        path,
        sizes_,
        affine,
        (i, j, k),
        header,
        has_spacing=has_spacing,
        is_picture=is_picture,
        notes=notes,
    )


def with_values(grid: Grid, array: Array, *notes: str) -> Volume:
    """The grid with its values in native byte order, C-contiguous; ``notes`` are added."""
    native = array.dtype.newbyteorder("=")
    return Volume(
        grid.path,
        grid.shape,
        grid.affine,
        grid.spacing,
        grid.header,
        _c_contiguous(array, native),
        has_spacing=grid.has_spacing,
        is_picture=grid.is_picture,
        notes=(*grid.notes, *notes),
    )


def _c_contiguous(array: Array, dtype: Any) -> Array:
    """The array in C order, by blocks that fit in the cache: twice as fast as one copy."""
    if array.flags.c_contiguous or array.ndim < 2:
        return np.ascontiguousarray(array, dtype=dtype)
    copy: Array = np.empty(array.shape, dtype)
    for i in range(0, array.shape[0], BLOCK[0]):
        for j in range(0, array.shape[1], BLOCK[1]):
            part = np.s_[i : i + BLOCK[0], j : j + BLOCK[1]]
            copy[part] = array[part]
    return copy


def geometry_header(shape: tuple[int, int, int], affine: Affine) -> Nifti1Header:
    """NIfTI header that says shape, affine and mm, and nothing else."""
    header: Nifti1Header
    header = Nifti1Header() if max(shape) <= NIFTI1_LARGEST else nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    return header


def affine_of_lps(columns: Affine, origin: npt.ArrayLike) -> Affine:
    """Affine (RAS+) from the axes and the first voxel in DICOM's world.

    Args:
        columns: ``3 3`` float64, mm; column ``n`` is the step along array axis ``n``.
        origin: centre of voxel 0, mm.
    """
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = origin
    return np.asarray(RAS_OF_LPS @ affine, dtype=np.float64)


def picture_grid(
    path: Path,
    shape: tuple[int, int, int],
    spacing: tuple[float, float] | None,
    between: float | None = None,
    *,
    notes: tuple[str, ...] = (),
) -> Grid:
    """Grid of an image that lies nowhere in a body: axes are row, column, page.

    Rows run to the right (R), columns to the front (A) and pages up (S), so that a cut along axis
    2 gives each page as it is, rows down and columns across.

    Args:
        path, notes: see :class:`Grid`.
        shape: rows, columns, pages.
        spacing: between rows and between columns, mm; None if the file doesn't say.
        between: distance of pages, mm; the larger pixel side if the file doesn't say.
    """
    rows, columns = spacing or (1.0, 1.0)
    affine = np.diag([rows, columns, between or max(rows, columns), 1.0])
    return make_grid(
        path, shape, affine, has_spacing=spacing is not None, is_picture=True, notes=notes
    )


def choose_frame(path: Path, shape: tuple[int, ...], number: int, frame: int | None) -> int:
    """Index of the frame to read.

    Args:
        path: file, for messages.
        shape: as stored, for messages.
        number: frames in the file.
        frame: the caller's choice; needed if there are several.

    Raises:
        ValueError: several frames and no choice, or a choice that isn't there.
    """
    if frame is None:
        if number == 1:
            return 0
        raise ValueError(
            f"{path}: shape is {tuple(shape)}; expected a 3D volume, or a choice of one of its "
            f"{number} frames: {frame_list(number)}"
        )
    if not 0 <= frame < number:
        raise ValueError(f"{path}: there is no frame {frame}; its frames are {frame_list(number)}")
    return frame


def frame_list(number: int) -> str:
    """``"0, 1, 2"``, shortened where there are many."""
    if number > 8:
        return f"0, 1, 2, ..., {number - 1}"
    return ", ".join(str(index) for index in range(number))


def affine_text(affine: Affine) -> str:
    """The upper three rows, rounded, for messages."""
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])

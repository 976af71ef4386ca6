"""Volume to slices and back: reorientation to RAS and a cut along one axis, both exact."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from samtune.preprocessing.plane import Plane
from samtune.preprocessing.volumes import Affine, Array, Grid, Spacing, orientation

AXES = (0, 1, 2)
RAS = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
T = TypeVar("T")
SPACING_TIE = 1e-3  # relative; headers store spacing in float32


@dataclass(frozen=True, eq=False)
class CaseGeometry:
    """What is needed to cut a case into slices and to put slices back on the file's grid.

    Attributes:
        case: case id.
        shape: voxels along the file's array axes ``i j k``.
        affine: ``4 4`` float64, voxel index to world, RAS+.
        spacing: mm, one entry per array axis of the file.
        orientation: of the file's array axes, such as ``"LPS"``.
        axis: RAS axis that is cut: 0 left-right (sagittal slices), 1 posterior-anterior
            (coronal), 2 inferior-superior (axial).
        plane: of the stored slices, where they are not the volume's own ``H W``; else None.

    Raises:
        ValueError: a value is of the wrong size or range, or ``orientation`` is not the affine's.
    """

    case: str
    shape: tuple[int, int, int]
    affine: Affine
    spacing: Spacing
    orientation: str
    axis: int
    plane: Plane | None = None

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"case {self.case!r}: axis must be 0, 1 or 2, got {self.axis!r}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"case {self.case!r}: shape must be 3 sizes >= 1, got {self.shape}")
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"case {self.case!r}: spacing must be 3 mm > 0, got {self.spacing}")
        if self.affine.shape != (4, 4):
            raise ValueError(f"case {self.case!r}: affine must be 4x4, got {self.affine.shape}")
        if self.orientation != orientation(self.affine):
            raise ValueError(
                f"case {self.case!r}: orientation {self.orientation} is not that of the affine, "
                f"{orientation(self.affine)}"
            )
        if self.plane is not None and self.plane.native_hw != self.slices_shape[1:]:
            raise ValueError(
                f"case {self.case!r}: the plane is of slices of {self.plane.native_hw}, those of "
                f"the volume are {self.slices_shape[1:]}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaseGeometry) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.case, self.shape, self.spacing, self.axis))

    @classmethod
    def of(cls, grid: Grid, *, case: str, axis: int | None = None) -> "CaseGeometry":
        """Geometry of a file; ``axis=None`` takes :func:`choose_axis`."""
        if axis is None:
            axis = choose_axis(_to_ras_order(grid.spacing, grid.affine))
        return cls(case, grid.shape, grid.affine, grid.spacing, orientation(grid.affine), axis)

    @property
    def shape_ras(self) -> tuple[int, int, int]:
        """Voxels along left-right, posterior-anterior, inferior-superior."""
        return _to_ras_order(self.shape, self.affine)

    @property
    def spacing_ras(self) -> Spacing:
        """Voxel size in mm along left-right, posterior-anterior, inferior-superior."""
        return _to_ras_order(self.spacing, self.affine)

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """``(N, H, W)`` of :func:`volume_to_slices`: the volume's own."""
        height, width = _others(self.shape_ras, self.axis)
        return self.shape_ras[self.axis], height, width

    @property
    def image_hw(self) -> tuple[int, int]:
        """Size of a stored picture."""
        return self.slices_shape[1:] if self.plane is None else self.plane.tiles.tile_hw

    @property
    def num_tiles(self) -> int:
        """Stored pictures a slice: 1 unless it is tiled."""
        return 1 if self.plane is None else len(self.plane.tiles)

    @property
    def is_resampled(self) -> bool:
        """Whether stored pixels are others than the volume's."""
        return self.plane is not None and self.plane.size_hw is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; floats survive exactly."""
        plane = {} if self.plane is None else {"plane": self.plane.to_dict()}
        return {
            "case": self.case,
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "spacing": list(self.spacing),
            "orientation": self.orientation,
            "axis": self.axis,
            **plane,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CaseGeometry":
        """Inverse of :meth:`to_dict`."""
        i, j, k = (int(size) for size in data["shape"])
        si, sj, sk = (float(size) for size in data["spacing"])
        affine = np.array(data["affine"], dtype=np.float64)
        plane = None if data.get("plane") is None else Plane.from_dict(data["plane"])
        return cls(
            data["case"],
            (i, j, k),
            affine,
            (si, sj, sk),
            data["orientation"],
            data["axis"],
            plane,
        )


def choose_axis(spacing_ras: Spacing) -> int:
    """RAS axis with the largest spacing; 2 if several are equally large (within 0.1 %).

    Args:
        spacing_ras: mm along left-right, posterior-anterior, inferior-superior.
    """
    largest = max(spacing_ras)
    ties = [axis for axis in AXES if math.isclose(spacing_ras[axis], largest, rel_tol=SPACING_TIE)]
    return ties[0] if len(ties) == 1 else 2


def volume_to_slices(array: Array, geometry: CaseGeometry) -> Array:
    """Cut a volume on the file's grid into slices.

    Args:
        array: ``i j k`` with ``geometry.shape``, or ``i j k c``, any type.
        geometry: of the file.

    Returns:
        ``N H W`` (or ``N H W c``) of the same type, C-contiguous: N runs along ``geometry.axis`` of
        the RAS volume, H and W along its two other axes in order (axis 2: H is left-right, W is
        posterior-anterior). No value is changed or interpolated.

    Raises:
        ValueError: the array is not on the geometry's grid.
    """
    return np.ascontiguousarray(slices_view(array, geometry))


def slices_view(array: Array, geometry: CaseGeometry) -> Array:
    """What :func:`volume_to_slices` gives, as a view: what is written there is in ``array``."""
    if array.shape[:3] != geometry.shape or array.ndim > 4:
        raise ValueError(
            f"case {geometry.case!r}: array has shape {array.shape}, expected {geometry.shape}"
        )
    ras: Array = apply_orientation(array, io_orientation(geometry.affine))
    return np.moveaxis(ras, geometry.axis, 0)


def slices_to_volume(slices: Array, geometry: CaseGeometry) -> Array:
    """Exact inverse of :func:`volume_to_slices`.

    Args:
        slices: ``N H W`` or ``N H W c``, all slices of the case in order, any type.
        geometry: of the case.

    Returns:
        ``i j k`` or ``i j k c`` on the file's own grid, of the same type, C-contiguous.

    Raises:
        ValueError: the number or size of the slices is not the case's.
    """
    if slices.shape[:3] != geometry.slices_shape or slices.ndim > 4:
        raise ValueError(
            f"case {geometry.case!r}: slices have shape {slices.shape}, "
            f"expected {geometry.slices_shape}"
        )
    ras = np.moveaxis(slices, 0, geometry.axis)
    back = ornt_transform(RAS, io_orientation(geometry.affine))
    return np.ascontiguousarray(apply_orientation(ras, back))


def slice_spacing(geometry: CaseGeometry) -> tuple[float, float]:
    """Pixel size in mm along H and W of the case's native slices."""
    return _others(geometry.spacing_ras, geometry.axis)


def stored_spacing(geometry: CaseGeometry) -> tuple[float, float]:
    """Pixel size in mm along H and W of the case's stored slices."""
    height_mm, width_mm = slice_spacing(geometry)
    if geometry.plane is None:
        return height_mm, width_mm
    cropped, stored = geometry.plane.cropped_hw, geometry.plane.stored_hw
    return height_mm * cropped[0] / stored[0], width_mm * cropped[1] / stored[1]


def _others(values: tuple[T, T, T], axis: int) -> tuple[T, T]:
    first, second = (value for index, value in enumerate(values) if index != axis)
    return first, second


def _to_ras_order(values: tuple[T, T, T], affine: npt.NDArray[np.float64]) -> tuple[T, T, T]:
    ras_axis_of = nib.io_orientation(affine)[:, 0].astype(int).tolist()
    first, second, third = (values[ras_axis_of.index(axis)] for axis in AXES)
    return first, second, third

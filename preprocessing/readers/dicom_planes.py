"""DICOM slices in space: their order, the affine of the stack, and what forbids to stack them.

Coordinates here are DICOM's (LPS, mm) until :func:`stack_planes` gives an affine (RAS+).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from samtune.preprocessing.readers.dicom_files import Header
from samtune.preprocessing.readers.grid import Affine, affine_of_lps

Vector = npt.NDArray[np.float64]
SAME_DIRECTION = 1e-3  # per entry of a unit vector
SAME_POSITION_MM = 1e-3
GAP_TOLERANCE = 0.05  # of the usual distance; headers round positions
LATERAL_PIXELS = 0.5  # shift against the normal over the whole stack that rounding may explain
MAX_NAMED = 5


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice.

    Attributes:
        path: its file.
        frame: index in a multi-frame file, 0 else.
        size: ``(rows, columns)``.
        position: centre of the first pixel, mm.
        along_columns, along_rows: unit vectors in which column and row index increase.
        spacing: ``(between rows, between columns)``, mm.
        thickness: distance to the next slice as the header says it, mm; None if it doesn't.
    """

    path: Path
    frame: int
    size: tuple[int, int]
    position: Vector
    along_columns: Vector
    along_rows: Vector
    spacing: tuple[float, float]
    thickness: float | None

    @property
    def normal(self) -> Vector:
        """Unit vector across the slice."""
        return np.cross(self.along_columns, self.along_rows)


def planes_of(header: Header) -> list[Plane] | None:
    """Slices of a file, one a frame; None if it doesn't say where they lie.

    Raises:
        ValueError: only some frames say it, or a value is damaged.
    """
    dataset = header.dataset
    number = int(header.get("NumberOfFrames", 1))
    planes = []
    for frame in range(number):
        position = frame_value(dataset, frame, "PlanePositionSequence", "ImagePositionPatient")
        directions = frame_value(
            dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"
        )
        pixel = frame_value(dataset, frame, "PixelMeasuresSequence", "PixelSpacing")
        if position is None or directions is None or pixel is None:
            continue
        if number > 1 and "PerFrameFunctionalGroupsSequence" not in dataset:
            continue  # one position for all frames of a film
        thickness = None
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            value = frame_value(dataset, frame, "PixelMeasuresSequence", keyword)
            if thickness is None and value is not None and float(value) > 0:
                thickness = float(value)
        origin = _vector(header.path, "ImagePositionPatient", position, 3)
        axes = _vector(header.path, "ImageOrientationPatient", directions, 6)
        rows, columns = _vector(header.path, "PixelSpacing", pixel, 2).tolist()
        size = (int(dataset.Rows), int(dataset.Columns))
        planes.append(
            Plane(header.path, frame, size, origin, axes[:3], axes[3:], (rows, columns), thickness)
        )
    if not planes:
        return None
    if len(planes) != number:
        raise ValueError(
            f"{header.path}: {number - len(planes)} of {number} frames have no position; expected "
            "one for each"
        )
    return planes


def frame_value(dataset: Dataset, frame: int, sequence: str, keyword: str) -> Any:
    """An element of a frame: of its own functional group, the shared one, or the file."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    groups = [per_frame[frame]] if frame < len(per_frame) else []
    for group in [*groups, *shared[:1]]:
        items = group.get(sequence)
        if items and items[0].get(keyword) not in (None, ""):
            return items[0].get(keyword)
    value = dataset.get(keyword)
    return None if value == "" else value


def stack_planes(path: Path, planes: list[Plane]) -> tuple[list[Plane], Affine]:
    """Order slices along their normal.

    Args:
        path: folder or file, for messages.
        planes: at least one, in any order.

    Returns:
        The slices in the direction of their normal, and the affine (RAS+) of the array whose axes
        are column, row and slice.

    Raises:
        ValueError: sizes, directions or pixel spacings differ, slices are missing or lie on one
            another (positions named), or the gantry was tilted.
    """
    first = planes[0]
    _check_alike(path, planes)
    depths = [float(plane.position @ first.normal) for plane in planes]
    order = sorted(range(len(planes)), key=lambda index: depths[index])
    ordered = [planes[index] for index in order]
    depths = [depths[index] for index in order]
    _check_distances(path, depths)
    step = first.normal * (first.thickness or max(first.spacing))
    if len(ordered) > 1:
        step = (ordered[-1].position - ordered[0].position) / (len(ordered) - 1)
        _check_tilt(path, step, first, len(ordered))
    columns = np.stack(
        [first.along_columns * first.spacing[1], first.along_rows * first.spacing[0], step], axis=1
    )
    return ordered, affine_of_lps(columns, ordered[0].position)


def _check_alike(path: Path, planes: list[Plane]) -> None:
    first = planes[0]
    for plane in planes[1:]:
        if plane.size != first.size:
            raise ValueError(
                f"{path}: slices are of different size, {first.size} ({first.path.name}) and "
                f"{plane.size} ({plane.path.name}) rows and columns; expected one size"
            )
        for name in ("along_columns", "along_rows"):
            if not np.allclose(getattr(plane, name), getattr(first, name), atol=SAME_DIRECTION):
                raise ValueError(
                    f"{path}: slices have different directions ({first.path.name} and "
                    f"{plane.path.name}), as scouts and radial scans have; expected parallel ones"
                )
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-4):
            raise ValueError(
                f"{path}: slices have different pixel spacing, {first.spacing} and "
                f"{plane.spacing} mm; expected one"
            )
    dot = float(first.along_columns @ first.along_rows)
    norms = [float(np.linalg.norm(axis)) for axis in (first.along_columns, first.along_rows)]
    if abs(dot) > SAME_DIRECTION or max(abs(norm - 1) for norm in norms) > SAME_DIRECTION:
        raise ValueError(
            f"{first.path}: ImageOrientationPatient is not two unit vectors at a right angle"
        )
    if min(first.spacing) <= 0:
        raise ValueError(f"{first.path}: pixel spacing is {first.spacing} mm; expected sizes > 0")


def _check_distances(path: Path, depths: list[float]) -> None:
    """Positions are distances of the slices along their normal."""
    gaps = [after - before for before, after in pairwise(depths)]
    double = sorted({round(depths[n], 3) for n, gap in enumerate(gaps) if gap < SAME_POSITION_MM})
    if double:
        raise ValueError(
            f"{path}: {len(double)} of the slice positions occur more than once: "
            f"{_positions(double)}; expected one slice each (copies, or several time points or "
            "echoes in one series)"
        )
    if len(gaps) < 2:
        return
    usual = sorted(gaps)[(len(gaps) - 1) // 2]  # of an even number the smaller one: no mean
    missing: list[float] = []
    uneven: list[float] = []
    for start, gap in zip(depths, gaps, strict=False):
        count = round(gap / usual)
        if abs(gap - count * usual) > GAP_TOLERANCE * usual or count < 1:
            uneven += [round(start + gap, 3)]
        else:
            missing += [round(start + n * usual, 3) for n in range(1, count)]
    if uneven:
        raise ValueError(
            f"{path}: slices are usually {usual:g} mm apart, but not at {_positions(uneven)}; "
            "expected equal distances (is a slice missing or added?)"
        )
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} slices are missing, at {_positions(missing)}, as "
            f"slices are {usual:g} mm apart"
        )


def _check_tilt(path: Path, step: Vector, plane: Plane, count: int) -> None:
    lateral = step - (step @ plane.normal) * plane.normal
    shift = float(np.linalg.norm(lateral)) * (count - 1)
    if shift > LATERAL_PIXELS * min(plane.spacing):
        angle = np.degrees(np.arctan2(np.linalg.norm(lateral), abs(step @ plane.normal)))
        raise ValueError(
            f"{path}: slices are stacked at {angle:.1f} degrees to their normal (gantry tilt): the "
            "voxels are sheared, not a rectangular grid; correct the tilt first, for instance with "
            "dcm2niix, and read its NIfTI file"
        )


def _positions(values: list[float]) -> str:
    more = f" and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else ""
    return ", ".join(f"{value + 0.0:g} mm" for value in values[:MAX_NAMED]) + more


def _vector(path: Path, name: str, value: Any, length: int) -> Vector:
    try:
        vector = np.array([float(number) for number in value], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {name} is not {length} numbers") from error
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ValueError(f"{path}: {name} is not {length} numbers")
    return vector

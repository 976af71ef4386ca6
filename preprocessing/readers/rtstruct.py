"""Contours of a DICOM structure set (RTSTRUCT) as a label on the grid of their image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask

from samtune.preprocessing.readers.dicom_files import named_damage, read_dataset
from samtune.preprocessing.readers.grid import RAS_OF_LPS, Array, Grid, Volume, with_values
from samtune.preprocessing.readers.label_rule import LabelRule
from samtune.preprocessing.readers.structure_names import classes_of

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
OFF_SLICE = 0.25  # slices: how far a contour may lie from the slice it is drawn on

Points = npt.NDArray[np.float64]


def contour_names(path: Path) -> dict[int, str]:
    """Number and name of the regions of interest of a structure set.

    Raises:
        ValueError: not a readable DICOM file.
    """
    dataset = read_dataset(path, pixels=True)
    with named_damage(path):
        return {
            int(item.ROINumber): str(item.get("ROIName", ""))
            for item in dataset.get("StructureSetROISequence") or []
        }


def read_contours(path: Path, like: Grid, rule: LabelRule) -> Volume:
    """Fill the contours of a structure set.

    A voxel belongs to a region if its centre lies inside an odd number of the region's contours
    on its slice, so that inner contours are holes.

    Args:
        path: the file.
        like: grid of the image that the contours were drawn on.
        rule: ``structures`` or ``values`` say which region is which class, ``overlap`` whether
            regions may overlap.

    Raises:
        ValueError: a contour lies between two slices, across them or outside the image, or
            regions overlap although that is an error.
    """
    dataset = read_dataset(path, pixels=True)
    classes = classes_of(path, contour_names(path), rule)
    with named_damage(path):
        label, notes = _fill_all(path, dataset, classes, like, rule)
    return with_values(like, label.astype(np.min_scalar_type(int(label.max()))), *notes)


def _fill_all(
    path: Path, dataset: Dataset, classes: dict[int, int], like: Grid, rule: LabelRule
) -> tuple[Array, list[str]]:
    label = np.zeros(like.shape, np.uint32)
    notes: list[str] = []
    regions = {
        int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or []
    }
    for number in sorted(classes, key=lambda one: classes[one]):
        mask = np.zeros(like.shape, bool)
        open_ones = 0
        if number in regions:
            for points in _closed_contours(path, regions[number]):
                if points is None:
                    open_ones += 1
                else:
                    _fill(path, mask, points, like)
        if open_ones:
            notes.append(f"{open_ones} points or open contours of region {number} were left out")
        overlap = int((mask & (label > 0) & (label != classes[number])).sum())
        if overlap and rule.overlap == "error":
            raise ValueError(
                f"{path}: region {number} overlaps an earlier class in {overlap} voxels; expected "
                "none, or a rule with overlap: later"
            )
        label[mask] = classes[number]
    return label, notes


def _closed_contours(path: Path, region: Dataset) -> Iterator[Points | None]:
    """Points ``n 3`` (LPS, mm) of each contour; None for one that isn't closed."""
    for item in region.get("ContourSequence") or []:
        if item.get("ContourGeometricType") not in CLOSED:
            yield None
            continue
        values = np.array([float(value) for value in item.ContourData], dtype=np.float64)
        if values.size < 9 or values.size % 3 or not np.isfinite(values).all():
            raise ValueError(f"{path}: a closed contour of {values.size} numbers; expected x, y, z "
                             "of three points or more")  # fmt: skip
        yield values.reshape(-1, 3)


def _fill(path: Path, mask: npt.NDArray[np.bool_], points: Points, like: Grid) -> None:
    """Turn round the voxels of ``mask`` whose centres lie in a contour."""
    to_index = np.linalg.inv(like.affine) @ RAS_OF_LPS
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    spread = np.ptp(index, axis=0)
    axis = 2 if spread[2] < 2 * OFF_SLICE else int(spread.argmin())
    middle = float(index[:, axis].mean())
    number = round(middle)
    if spread[axis] > 2 * OFF_SLICE or abs(middle - number) > OFF_SLICE:
        raise ValueError(
            f"{path}: a contour lies at slice {middle:.2f} of axis {axis} and spans "
            f"{spread[axis]:.2f} slices; expected it on one slice of the image {like.path.name}"
        )
    if not 0 <= number < like.shape[axis]:
        raise ValueError(
            f"{path}: a contour lies on slice {number} of axis {axis}; the image {like.path.name} "
            f"has {like.shape[axis]}"
        )
    across = [other for other in range(3) if other != axis]
    shape = (like.shape[across[0]], like.shape[across[1]])
    page = np.moveaxis(mask, axis, 0)[number]
    page ^= polygon2mask(shape, index[:, across])  # type: ignore[no-untyped-call]

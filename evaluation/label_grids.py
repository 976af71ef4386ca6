"""Whether a prediction is on its reference's grid, and putting it there."""

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samtune.evaluation.label_files import ARRAY_SUFFIX, LabelFile
from samtune.preprocessing.volumes import AFFINE_TOLERANCE


def check_same_label_grid(pred: LabelFile, ref: LabelFile) -> None:
    """Refuse a prediction that isn't on the reference's grid.

    Raises:
        ValueError: shape or affine (beyond 1e-3) differs; names the prediction and both values.
    """
    if pred.array.shape != ref.array.shape:
        raise ValueError(
            f"{pred.path}: prediction has shape {pred.array.shape}, reference {ref.path} "
            f"{ref.array.shape}; expected the reference's grid{_orientations(pred, ref)}"
        )
    if not is_same_grid(pred, ref):
        raise ValueError(
            f"{pred.path}: prediction has affine {_affine_text(pred)}, spacing {pred.spacing} mm, "
            f"reference {ref.path} {_affine_text(ref)}, {ref.spacing} mm; expected the same within "
            f" {AFFINE_TOLERANCE:g}{_orientations(pred, ref)}"
        )


def is_same_grid(pred: LabelFile, ref: LabelFile) -> bool:
    """Same shape, and the same affine within 1e-3; of ``.npz``, spacing where both have it.

    A picture without a pixel size is on the grid of any picture of its shape.
    """
    is_flat = pred.array.ndim == 2
    if is_flat and (pred.spacing is None or ref.spacing is None):
        return pred.array.shape == ref.array.shape
    if {pred.path.suffix.lower(), ref.path.suffix.lower()} == {ARRAY_SUFFIX}:
        is_same = pred.array.shape == ref.array.shape
        if pred.spacing is None or ref.spacing is None:
            return is_same
        return is_same and np.allclose(pred.spacing, ref.spacing, rtol=0, atol=AFFINE_TOLERANCE)
    return pred.array.shape == ref.array.shape and bool(
        np.allclose(pred.affine, ref.affine, rtol=0, atol=AFFINE_TOLERANCE)
    )


def resample_label(pred: LabelFile, ref: LabelFile) -> npt.NDArray[Any]:
    """Class values of ``pred`` at the voxels of ``ref``: those of the nearest voxel, 0 outside.

    Both affines must be in one world; the orientation of the arrays may differ.
    """
    if pred.array.ndim != 3 or ref.array.ndim != 3:
        check_same_label_grid(pred, ref)  # pictures have no place in a common world
    to_pred = np.linalg.inv(pred.affine) @ ref.affine
    # a matrix a rounding away from whole numbers would look up the wrong side of a half voxel
    to_pred = np.round(to_pred, 9)
    resampled: npt.NDArray[Any] = ndimage.affine_transform(
        pred.array, to_pred[:3, :3], to_pred[:3, 3], output_shape=ref.array.shape, order=0
    )
    return resampled


def _orientations(pred: LabelFile, ref: LabelFile) -> str:
    codes = ["".join(nib.aff2axcodes(grid.affine)) for grid in (pred, ref)]
    if codes[0] == codes[1]:
        return ""
    return f"; prediction is oriented {codes[0]}, reference {codes[1]}"


def _affine_text(grid: LabelFile) -> str:
    return str([[round(float(value), 4) for value in row] for row in grid.affine[:3]])

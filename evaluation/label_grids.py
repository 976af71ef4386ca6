"""Whether a prediction is on its reference's grid, and putting it there."""

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samtune.preprocessing.volumes import AFFINE_TOLERANCE, Grid, Volume


def check_same_label_grid(pred: Grid, ref: Grid) -> None:
    """Refuse a prediction that isn't on the reference's grid.

    Raises:
        ValueError: shape or affine (beyond 1e-3) differs; names the prediction and both values.
    """
    if pred.shape != ref.shape:
        raise ValueError(
            f"{pred.path}: prediction has shape {pred.shape}, reference {ref.path} {ref.shape}; "
            f"expected the reference's grid{_orientations(pred, ref)}"
        )
    if not is_same_grid(pred, ref):
        raise ValueError(
            f"{pred.path}: prediction has affine {_affine_text(pred)}, spacing {pred.spacing} mm, "
            f"reference {ref.path} {_affine_text(ref)}, {ref.spacing} mm; expected the same "
            f"within {AFFINE_TOLERANCE:g}{_orientations(pred, ref)}"
        )


def is_same_grid(pred: Grid, ref: Grid) -> bool:
    """Same shape, and the same affine within 1e-3."""
    return pred.shape == ref.shape and bool(
        np.allclose(pred.affine, ref.affine, rtol=0, atol=AFFINE_TOLERANCE)
    )


def resample_label(pred: Volume, ref: Grid) -> npt.NDArray[Any]:
    """Class values of ``pred`` at the voxels of ``ref``: those of the nearest voxel, 0 outside.

    Both affines must be in one world; the orientation of the arrays may differ.
    """
    to_pred = np.linalg.inv(pred.affine) @ ref.affine
    # a matrix a rounding away from whole numbers would look up the wrong side of a half voxel
    to_pred = np.round(to_pred, 9)
    resampled: npt.NDArray[Any] = ndimage.affine_transform(
        pred.array, to_pred[:3, :3], to_pred[:3, 3], output_shape=ref.shape, order=0
    )
    return resampled


def _orientations(pred: Grid, ref: Grid) -> str:
    codes = ["".join(nib.aff2axcodes(grid.affine)) for grid in (pred, ref)]
    if codes[0] == codes[1]:
        return ""
    return f"; prediction is oriented {codes[0]}, reference {codes[1]}"


def _affine_text(grid: Grid) -> str:
    return str([[round(float(value), 4) for value in row] for row in grid.affine[:3]])

"""clDice: overlap of tubes by their centrelines (Shit et al. 2021, doi:10.1109/CVPR46437.2021)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def cldice_score(pred: BoolArray, ref: BoolArray) -> float:
    """Harmonic mean of topology precision and sensitivity, in [0, 1].

    Precision is the share of the prediction's centreline inside the reference, sensitivity that of
    the reference's centreline inside the prediction. Centrelines are those of scikit-image
    (Zhang and Suen 1984 in 2D, Lee et al. 1994 in 3D), on the voxel grid: spacing plays no part.

    Args:
        pred, ref: bool masks of one shape, 2D or 3D, each with a voxel.
    """
    pred_line, ref_line = _centreline(pred), _centreline(ref)
    precision = np.count_nonzero(pred_line & ref) / np.count_nonzero(pred_line)
    sensitivity = np.count_nonzero(ref_line & pred) / np.count_nonzero(ref_line)
    if precision + sensitivity == 0:
        return 0.0
    return float(2 * precision * sensitivity / (precision + sensitivity))


def _centreline(mask: BoolArray) -> BoolArray:
    from skimage.morphology import skeletonize  # takes long to import, and few tables need it

    thin: Callable[[BoolArray], BoolArray] = skeletonize  # has no types
    line = thin(np.pad(mask, 1)).astype(bool)  # the border counts as background
    inner = line[(slice(1, -1),) * mask.ndim]
    return inner if inner.any() else mask  # a blob so small that thinning leaves nothing

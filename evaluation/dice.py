"""Dice overlap of two masks."""

from typing import Any

import numpy as np
import numpy.typing as npt


def dice_score(pred: npt.NDArray[Any], ref: npt.NDArray[Any]) -> float:
    """2 |A and B| / (|A| + |B|) of bool masks of one shape, in [0, 1]; NaN if both are empty."""
    total = int(np.count_nonzero(pred)) + int(np.count_nonzero(ref))
    if total == 0:
        return float("nan")
    return 2 * int(np.count_nonzero(pred & ref)) / total

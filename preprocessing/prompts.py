"""Prompts made from a reference label, for evaluations with an oracle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def tight_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Smallest box around a mask ``h w``.

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 one past the last; ``None`` for an empty mask.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return None
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def oracle_boxes(label: npt.NDArray[Any], regions: Sequence[Sequence[int]]) -> Tensor:
    """One tight box a region, in pixels of the slice.

    Args:
        label: class map ``h w``.
        regions: class values of each region.

    Returns:
        ``p 4`` float32 XYXY; a row of NaN where the region is not in the slice.
    """
    boxes = torch.full((len(regions), 4), torch.nan)
    for i, values in enumerate(regions):
        box = tight_box(np.isin(label, list(values)))
        if box is not None:
            boxes[i] = torch.tensor(box)
    return boxes

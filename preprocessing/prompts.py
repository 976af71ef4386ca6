"""Boxes, regions and points of a mask: what prompts are made of."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as label_regions

Mask = npt.NDArray[np.bool_]
PointsXY = npt.NDArray[np.float32]
Region = Literal["whole", "all", "largest", "random"]


def tight_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Smallest box around a mask ``h w``.

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 one past the last; ``None`` for an empty mask.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return None
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def connected_regions(
    mask: Mask,
    which: Region = "all",
    *,
    number: int = 1,
    generator: np.random.Generator | None = None,
) -> list[Mask]:
    """Parts of a mask ``h w``, largest first; pixels that touch at a corner are connected.

    Args:
        which: ``whole``: the mask as it is; ``all`` parts; the ``largest``; ``random`` ones.
        number: of ``largest`` or ``random`` parts at most.
        generator: for ``random``.

    Returns:
        Bool masks ``h w``; none for an empty mask. Of equal parts the upper one comes first.
    """
    if not mask.any():
        return []
    if which == "whole":
        return [mask]
    labels: npt.NDArray[np.int64] = np.asarray(label_regions(mask, connectivity=2))  # type: ignore[no-untyped-call]
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(-sizes, kind="stable")
    if which == "largest":
        order = order[:number]
    elif which == "random":
        if generator is None:
            msg = "random regions need a generator"
            raise ValueError(msg)
        chosen = generator.choice(len(order), min(number, len(order)), replace=False)
        order = order[np.sort(chosen)]
    return [labels == index + 1 for index in order]


def inner_distance(mask: Mask) -> npt.NDArray[np.float64]:
    """Distance in pixels to the nearest pixel outside the mask; the border counts as outside."""
    return np.asarray(distance_transform_edt(np.pad(mask, 1)), np.float64)[1:-1, 1:-1]


def inner_part(mask: Mask, fraction: float) -> Mask:
    """The given share of a mask's pixels that lie deepest, those as deep as the last included."""
    distance = inner_distance(mask)
    depths = np.sort(distance[mask])[::-1]
    last = depths[max(1, math.ceil(fraction * depths.size)) - 1]
    deep: Mask = mask & (distance >= last)
    return deep


def random_points(
    mask: Mask, number: int, *, generator: np.random.Generator, replace: bool = False
) -> PointsXY:
    """Pixels of a mask at random, each as likely as any other.

    Args:
        replace: a pixel may come twice; otherwise a mask of fewer pixels gives fewer points.

    Returns:
        ``n 2`` (x, y) pixel indices; none for an empty mask.
    """
    rows, cols = np.nonzero(mask)
    size = number if replace else min(number, rows.size)
    if rows.size == 0 or size == 0:
        return np.zeros((0, 2), np.float32)
    chosen = generator.choice(rows.size, size, replace=replace)
    return np.stack([cols[chosen], rows[chosen]], 1).astype(np.float32)


def centre_point(mask: Mask) -> PointsXY:
    """The deepest pixel of a mask, ``1 2`` (x, y); of several the one nearest to their mean.

    None for an empty mask. Unlike the centroid it lies within the mask.
    """
    if not mask.any():
        return np.zeros((0, 2), np.float32)
    distance = inner_distance(mask)
    rows, cols = np.nonzero(distance == distance.max())
    from_mean = (rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2
    best = int(np.argmin(from_mean))
    return np.array([[cols[best], rows[best]]], np.float32)

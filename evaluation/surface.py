"""Surface of a mask as weighted points on a padded grid, by either of the two definitions.

``corners``: the corners of the voxel grid between inside and outside, weighted by the area of the
surface there (google-deepmind/surface-distance). ``voxels``: the mask's outermost voxels, each of
weight 1 (MONAI, MedPy). Everything outside the array is background.

Both masks of a pair are put on one grid with ``reach`` empty voxels around it, so that a neighbour
is a flat index plus a constant and never the other end of another row.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samtune.evaluation.surface_area import area_table

BoolArray = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of one mask's surface.

    Attributes:
        grid: size of the padded grid.
        is_on: flat, whether a grid point is on the surface.
        index: the flat indices where it is, ascending.
        area: weight of each, mm2 (mm in 2D) or 1.
    """

    grid: tuple[int, ...]
    is_on: BoolArray
    index: Indices
    area: Floats


def corner_surface(mask: BoolArray, reach: tuple[int, ...], spacing: tuple[float, ...]) -> Surface:
    """Corners between inside and outside; a grid point is the corner before the voxel after it.

    Args:
        mask: ``x y z`` or ``x y``.
        reach: empty voxels at both ends of each axis, at least 1.
        spacing: voxel size in mm, one entry per array axis.
    """
    grid = tuple(size + 1 + 2 * pad for size, pad in zip(mask.shape, reach, strict=True))
    size, strides = math.prod(grid), flat_strides(grid)
    codes = np.zeros(-(-(size + sum(strides)) // 8) * 8, np.uint8)
    inside = tuple(slice(pad + 1, pad + 1 + n) for pad, n in zip(reach, mask.shape, strict=True))
    codes[:size].reshape(grid)[inside] = mask
    shifted = np.empty_like(codes)
    for power, stride in enumerate(reversed(strides)):  # bits of a pair, of four, of eight voxels
        # eight bytes a word: none of them has a bit that could cross into its neighbour
        np.left_shift(codes.view(np.uint64), 1 << power, out=shifted.view(np.uint64))
        np.bitwise_or(shifted[:-stride], codes[stride:], out=shifted[:-stride])
        codes, shifted = shifted, codes
    codes, shifted = codes[:size], shifted[:size]
    if len(grid) == 3:
        np.add(codes, 1, out=shifted)  # all inside, 255, becomes 0
        is_on = shifted > 1
    else:
        is_on = (codes != 0) & (codes != 15)
    index = np.flatnonzero(is_on)
    return Surface(grid, is_on, index, area_table(spacing).take(codes.take(index)))


def voxel_surface(mask: BoolArray, reach: tuple[int, ...]) -> Surface:
    """Voxels of the mask with a background voxel behind one of their faces; each counts 1."""
    grid = tuple(size + 2 * pad for size, pad in zip(mask.shape, reach, strict=True))
    padded = np.zeros(grid, bool)
    padded[tuple(slice(pad, pad + n) for pad, n in zip(reach, mask.shape, strict=True))] = mask
    flat = padded.ravel()
    interior = flat.copy()
    for stride in flat_strides(grid):
        interior[:-stride] &= flat[stride:]
        interior[stride:] &= flat[:-stride]
    is_on = flat & ~interior
    index = np.flatnonzero(is_on)
    return Surface(grid, is_on, index, np.ones(len(index)))


def flat_strides(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Distance in the flat array of neighbours along each axis."""
    return tuple(math.prod(grid[axis + 1 :]) for axis in range(len(grid)))

"""Area of a mask's surface between 2x2x2 voxels, and its length between 2x2 pixels.

A corner of the voxel grid belongs to the surface if its 2x2x2 neighbours are neither all inside nor
all outside; its code is those eight bits in C order, the first voxel the highest. Its area is that
of the marching-cubes triangles in there (Lorensen and Cline 1987), as in surface-distance.
"""

import itertools
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# One code of each symmetry class -> normals of its triangles, in eighths of a voxel's faces; the
# other codes follow by turning and mirroring the axes and by swapping inside and outside.
_TRIANGLES = {
    1: ["111"],
    3: ["220"] * 2,
    6: ["111"] * 2,
    24: ["111"] * 2,
    7: ["111", "222", "400"],
    22: ["111"] * 3,
    25: ["022", "022", "111"],
    15: ["400"] * 2,
    23: ["111", "111", "222", "222"],
    27: ["022", "111", "202", "333"],
    30: ["111", "111", "222", "400"],
    60: ["220"] * 4,
    105: ["111"] * 4,
}
_MOST_TRIANGLES = 4


@lru_cache(maxsize=64)
def area_table(spacing: tuple[float, ...]) -> Array:
    """Surface area of each code in mm2: 256 entries for three axes.

    Two axes give 16 entries, lengths in mm.

    Args:
        spacing: voxel size along each array axis, mm.
    """
    if len(spacing) == 2:
        return _length_table(*spacing)
    s0, s1, s2 = spacing
    faces = np.array([s1 * s2, s0 * s2, s0 * s1]) / 8
    table: Array = np.linalg.norm(_normals() * faces, axis=2).sum(axis=1)
    table.setflags(write=False)
    return table


def _length_table(s0: float, s1: float) -> Array:
    diagonal = math.hypot(s0, s1) / 2  # cuts one corner of the four pixels
    table = np.full(16, diagonal)
    table[[0, 15]] = 0
    table[[3, 12]] = s1
    table[[5, 10]] = s0
    table[[6, 9]] = 2 * diagonal
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def _normals() -> Array:
    """``256 4 3``: normals of each code's triangles, zero where it has fewer than four."""
    normals = np.zeros((256, _MOST_TRIANGLES, 3))
    for code, triangles in _TRIANGLES.items():
        bits = np.array([code >> (7 - bit) & 1 for bit in range(8)]).reshape(2, 2, 2)
        own = np.array([[int(digit) for digit in triangle] for triangle in triangles])
        for order in itertools.permutations(range(3)):
            for flips in itertools.product((1, -1), repeat=3):
                turned = bits.transpose(order)[:: flips[0], :: flips[1], :: flips[2]]
                new = int("".join(map(str, turned.ravel())), 2)
                for same in (new, 255 - new):
                    normals[same] = 0
                    normals[same, : len(own)] = own[:, order]
    return normals

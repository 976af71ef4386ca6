"""Tiles of a large slice and back: equal tiles that overlap, blended by distance from their edges.

Along a side of L pixels, tiles of s pixels that overlap by at least o need
n = ceil((L - o) / (s - o)) tiles; the k-th starts at round(k (L - s) / (n - 1)). A side shorter
than s has one tile of its own length: nothing is padded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.volumes import Array

SizeHW = tuple[int, int]


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a slice are, row by row.

    Attributes:
        size_hw: of the slice, pixels.
        tile_hw: of every tile.
        tops, lefts: first row and column of each row and column of tiles.
    """

    size_hw: SizeHW
    tile_hw: SizeHW
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, size_hw: SizeHW, tile_size: int, overlap: int) -> "TileGrid":
        """Tiles of ``tile_size`` pixels that overlap by ``overlap`` or more.

        Raises:
            ValueError: not 0 <= overlap < tile_size.
        """
        if not 0 <= overlap < tile_size:
            raise ValueError(
                f"tiles: expected 0 <= overlap < size, got overlap {overlap}, size {tile_size}"
            )
        height, tops = _starts(size_hw[0], tile_size, overlap)
        width, lefts = _starts(size_hw[1], tile_size, overlap)
        return cls(size_hw, (height, width), tops, lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of each tile."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def cut(self, slices: Array) -> Array:
        """Slices ``n h w ...`` as ``n * tiles h w ...``, the tiles of a slice in a row."""
        height, width = self.tile_hw
        if len(self) == 1:
            return slices
        tiles = [slices[:, t : t + height, w : w + width] for t, w in self.corners]
        return np.stack(tiles, axis=1).reshape(-1, height, width, *slices.shape[3:])

    def weights(self) -> npt.NDArray[np.float32]:
        """Weight of each pixel of a tile: grows linearly from every edge, never 0."""
        rows, columns = (
            np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) / n for n in self.tile_hw
        )
        return np.outer(rows, columns).astype(np.float32)

    def blend(self, tiles: Mapping[int, Array]) -> npt.NDArray[np.float32]:
        """Weighted mean of values ``... h w``, by tile number; pixels of no tile are NaN."""
        first = next(iter(tiles.values()))
        total = np.zeros((*first.shape[:-2], *self.size_hw), dtype=np.float32)
        weight = np.zeros(self.size_hw, dtype=np.float32)
        for number, values in tiles.items():
            at = self._place(number)
            total[..., at[0], at[1]] += values * self.weights()
            weight[at] += self.weights()
        with np.errstate(invalid="ignore"):
            return np.asarray(total / weight, dtype=np.float32)

    def paste(self, tiles: Mapping[int, Array]) -> Array:
        """Labels ``h w`` by tile number: the tile a pixel lies deepest in decides; else 0."""
        label = np.zeros(self.size_hw, dtype=next(iter(tiles.values())).dtype)
        depth = np.zeros(self.size_hw, dtype=np.float32)
        for number, values in tiles.items():
            at = self._place(number)
            deeper = self.weights() > depth[at]
            label[at][deeper] = values[deeper]
            depth[at][deeper] = self.weights()[deeper]
        return label

    def _place(self, number: int) -> tuple[slice, slice]:
        top, left = self.corners[number]
        return slice(top, top + self.tile_hw[0]), slice(left, left + self.tile_hw[1])


def _starts(length: int, tile: int, overlap: int) -> tuple[int, tuple[int, ...]]:
    if length <= tile:
        return length, (0,)
    number = math.ceil((length - overlap) / (tile - overlap))
    step = (length - tile) / (number - 1)
    return tile, tuple(round(index * step) for index in range(number))

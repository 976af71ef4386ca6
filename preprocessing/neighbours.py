"""2.5D: the slices before and after a slice as first and third channel, read when it is loaded."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from samtune.preprocessing.manifest import Manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slice_transforms import image_tensor
from samtune.preprocessing.volumes import Array

Item = dict[Hashable, Any]


class StackNeighboursd(Transform):
    """Replace ``image`` (``1 h w``) by ``3 h w``: the slices at ``index`` - d, ``index``, + d.

    Neighbours are of the same case and, where slices are tiled, the same tile; at an end of the
    volume the end's slice stands in. Nothing of it is stored.

    Args:
        manifest: where the slices are.
        distance: d, slices; 0: the item stays as it is.

    Raises:
        ValueError: ``distance`` is negative; called on a slice in colour.
    """

    def __init__(self, manifest: Manifest, distance: int = 1) -> None:
        self.distance = check_distance(distance)
        self._at: dict[tuple[str, int, int], tuple[Path, int]] = {}
        self._last: dict[str, int] = {}
        if self.distance > 0:
            self._at = {
                (row.case, row.index, row.tile): (manifest.path(row), row.position)
                for row in manifest.slices
            }
            self._last = {case: row.num_slices - 1 for case, row in manifest.cases.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Stack the channels."""
        item = dict(data)
        if self.distance == 0:
            return item
        case, index, tile = str(item["case"]), int(item["index"]), int(item.get("tile", 0))
        before, after = neighbours(index, self._last[case], self.distance)
        images = [self._read(case, before, tile), item["image"], self._read(case, after, tile)]
        item["image"] = stack(images, case)
        return item

    def _read(self, case: str, index: int, tile: int) -> torch.Tensor:
        path, position = self._at[case, index, tile]
        images, _ = read_slice_file(path)
        return image_tensor(images[position])


def neighbours(index: int, last: int, distance: int) -> tuple[int, int]:
    """Slices before and after ``index``, within 0..``last``."""
    return max(index - distance, 0), min(index + distance, last)


def stacked_slice(slices: Array, number: int, *, num_tiles: int, distance: int) -> torch.Tensor:
    """What :class:`StackNeighboursd` gives, from all stored slices of a case in memory.

    Args:
        slices: ``n h w``, slice after slice, the tiles of each in a row.
        number: of the slice or tile within these.
        num_tiles: tiles a slice.
        distance: 0: the slice alone, in colour or not.

    Returns:
        ``3 h w``, or with distance 0 ``1|3 h w``.
    """
    if distance == 0:
        return image_tensor(slices[number])
    index, tile = divmod(number, num_tiles)
    before, after = neighbours(index, len(slices) // num_tiles - 1, distance)
    chosen = [at * num_tiles + tile for at in (before, index, after)]
    return stack([image_tensor(np.asarray(slices[at])) for at in chosen], "of the scan")


def stack(images: list[torch.Tensor], case: str) -> torch.Tensor:
    """Grey slices ``1 h w`` as channels.

    Raises:
        ValueError: a slice is in colour.
    """
    if any(len(image) != 1 for image in images):
        raise ValueError(
            f"case {case}: neighbouring slices are channels of grey slices, not colour"
        )
    return torch.cat(images)


def check_distance(distance: int) -> int:
    """``distance`` as a number of slices.

    Raises:
        ValueError: it is negative.
    """
    if int(distance) < 0:
        raise ValueError(f"neighbours must be a distance of 0 or more slices, got {distance}")
    return int(distance)

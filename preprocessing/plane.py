"""The plane of a case's stored slices where it is not the volume's own: cropped, resampled, tiled.

Stored slices come from the native ones (:mod:`samtune.preprocessing.slicing`) by a crop, then a
resize, then a cut into tiles; each step has its way back. Pixel i of n covers [i / n, (i + 1) / n]
of the side, before and after a resize: edges stay where they are, centres move.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from samtune.preprocessing.tiles import SizeHW, TileGrid
from samtune.preprocessing.volumes import Array


@dataclass(frozen=True)
class Plane:
    """How native slices ``H W`` become stored ones.

    Attributes:
        native_hw: of the native slices, pixels.
        crop: top, left, height and width of the part that is kept, native pixels; None: all.
        size_hw: of that part after resampling; None: not resampled.
        tile: size and least overlap of the tiles, pixels after resampling; None: one piece.

    Raises:
        ValueError: the crop is not within the slice, or a size is below 1.
    """

    native_hw: SizeHW
    crop: tuple[int, int, int, int] | None = None
    size_hw: SizeHW | None = None
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.crop is not None:
            top, left, height, width = self.crop
            inside = 0 <= top <= top + height <= self.native_hw[0]
            if not (
                inside and 0 <= left <= left + width <= self.native_hw[1] and min(height, width) > 0
            ):
                raise ValueError(f"crop {self.crop} is not within a slice of {self.native_hw}")
        if self.size_hw is not None and min(self.size_hw) < 1:
            raise ValueError(f"resampled size must be >= 1 pixel, got {self.size_hw}")

    @property
    def cropped_hw(self) -> SizeHW:
        """Size after the crop."""
        return self.native_hw if self.crop is None else self.crop[2:]

    @property
    def stored_hw(self) -> SizeHW:
        """Size after crop and resampling, before tiling."""
        return self.size_hw or self.cropped_hw

    @property
    def tiles(self) -> TileGrid:
        """Tiles of a stored slice; one if it is not tiled."""
        if self.tile is None:
            return TileGrid(self.stored_hw, self.stored_hw, (0,), (0,))
        return TileGrid.of(self.stored_hw, *self.tile)

    def store_images(self, slices: Array) -> Array:
        """Native slices ``n H W [3]`` uint8 or uint16 to stored ones: bilinear, antialiased."""
        part = self._cut(slices)
        if self.size_hw is not None:
            part = resize_images(part, self.size_hw)
        return self.tiles.cut(part)

    def store_labels(self, slices: Array) -> Array:
        """Native label slices ``n H W`` to stored ones: nearest, never a new value."""
        part = self._cut(slices)
        if self.size_hw is not None:
            part = resize_labels(part, self.size_hw)
        return self.tiles.cut(part)

    def restore_label(self, tiles: Mapping[int, Array]) -> Array:
        """Stored label of a slice, by tile number, as native ``H W``; 0 outside the crop."""
        label = self.tiles.paste(tiles)
        if self.size_hw is not None:
            label = resize_labels(label[None], self.cropped_hw)[0]
        return self._uncut(label, 0)

    def restore_logits(self, tiles: Mapping[int, Array]) -> npt.NDArray[np.float32]:
        """Stored logits ``c h w``, by tile number, as native ``c H W``; -inf outside the crop.

        Tiles are blended, then the slice is resized (bilinear): what is no object at a stored
        pixel is decided once, on the native ones.
        """
        logits = self.tiles.blend(tiles)
        if self.size_hw is not None:
            logits = np.stack([_resize(channel, self.cropped_hw) for channel in logits])
        return np.asarray(self._uncut(logits, -np.inf))

    def restore_image(self, tiles: Mapping[int, Array]) -> Array:
        """Stored image of a slice ``h w [3]``, by tile number, native; 0 outside the crop."""
        dtype = next(iter(tiles.values())).dtype
        first = {number: np.moveaxis(np.atleast_3d(tile), 2, 0) for number, tile in tiles.items()}
        image = np.moveaxis(np.rint(self.tiles.blend(first)).astype(dtype), 0, 2)
        if next(iter(tiles.values())).ndim == 2:
            image = image[:, :, 0]
        if self.size_hw is not None:
            image = resize_images(image[None], self.cropped_hw)[0]
        if self.crop is None:
            return np.ascontiguousarray(image)
        whole = np.zeros((*self.native_hw, *image.shape[2:]), dtype=dtype)
        top, left, height, width = self.crop
        whole[top : top + height, left : left + width] = image
        return whole

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {key: None if value is None else list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plane":
        """Inverse of :meth:`to_dict`."""
        native, crop, size, tile = (
            None if data[key] is None else tuple(data[key])
            for key in ("native_hw", "crop", "size_hw", "tile")
        )
        assert native is not None
        return cls(native, crop, size, tile)

    def _cut(self, slices: Array) -> Array:
        if slices.shape[1:3] != self.native_hw:
            raise ValueError(f"slices are {slices.shape[1:3]}, expected {self.native_hw}")
        if self.crop is None:
            return slices
        top, left, height, width = self.crop
        return slices[:, top : top + height, left : left + width]

    def _uncut(self, values: Array, fill: float) -> Array:  # ... h w
        if self.crop is None:
            return values
        whole = np.full((*values.shape[:-2], *self.native_hw), fill, dtype=values.dtype)
        top, left, height, width = self.crop
        whole[..., top : top + height, left : left + width] = values
        return whole


def resize_images(slices: Array, size_hw: SizeHW) -> Array:
    """Resize ``n h w [3]`` uint8 or uint16, bilinear and antialiased where it gets smaller."""
    resized = np.empty((len(slices), *size_hw, *slices.shape[3:]), dtype=slices.dtype)
    for index, one in enumerate(slices):
        if one.dtype == np.uint8:  # Pillow rounds 8-bit values itself
            resized[index] = _resize(one, size_hw)
        elif one.ndim == 2:
            resized[index] = np.rint(_resize(one.astype(np.float32), size_hw))
        else:
            for channel in range(one.shape[2]):
                values = one[:, :, channel].astype(np.float32)
                resized[index, :, :, channel] = np.rint(_resize(values, size_hw))
    return resized


def resize_labels(slices: Array, size_hw: SizeHW) -> Array:
    """Resize ``n h w`` to the nearest pixel: the one that holds the new pixel's centre."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.intp), old - 1)
        for old, new in zip(slices.shape[1:3], size_hw, strict=True)
    )
    return np.ascontiguousarray(slices[:, rows[:, None], columns])


def _resize(values: Array, size_hw: SizeHW) -> Array:
    picture = Image.fromarray(np.ascontiguousarray(values))
    return np.asarray(picture.resize(size_hw[::-1], Image.Resampling.BILINEAR))

"""How a volume is cut into stored slices: axis, crop, resampling, tiles, channels."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from samtune.preprocessing.plane import Plane
from samtune.preprocessing.slicing import AXES, CaseGeometry, slice_spacing
from samtune.preprocessing.volumes import Array

ANATOMY = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Slicing:
    """Settings of the cut; the defaults store every slice as it is.

    Attributes:
        axis: RAS axis to cut; None: the one with the largest spacing, ties 2.
        spacing_mm: pixel size along H and W after resampling; None: native.
        crop_margin: pixels or mm that are kept around the label's bounding box (of all the case's
            slices together, so that they stay one size); None: no crop. For training cases only.
        crop_unit: ``px`` or ``mm``.
        tile_size, tile_overlap: side and least overlap of tiles, pixels; None: no tiles.
        channels: 1, or 3: grey slices are stored three times, as SAM-LoRA reads them.

    Raises:
        ValueError: a setting out of range.
    """

    axis: int | None = None
    spacing_mm: tuple[float, float] | None = None
    crop_margin: float | None = None
    crop_unit: str = "px"
    tile_size: int | None = None
    tile_overlap: int = 0
    channels: int = 1

    def __post_init__(self) -> None:
        if self.axis is not None and self.axis not in AXES:
            raise ValueError(f"axis must be 0, 1, 2 or None, got {self.axis!r}")
        if self.spacing_mm is not None and not min(self.spacing_mm) > 0:
            raise ValueError(f"in-plane spacing must be mm > 0, got {self.spacing_mm}")
        if self.crop_unit not in ("px", "mm") or not (self.crop_margin or 0) >= 0:
            raise ValueError(
                f"crop margin must be px or mm >= 0, got {self.crop_margin} {self.crop_unit}"
            )
        if self.tile_size is not None and not 0 <= self.tile_overlap < self.tile_size:
            raise ValueError(
                f"tiles: expected 0 <= overlap < size, got overlap {self.tile_overlap}, size "
                f"{self.tile_size}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")

    def uncropped(self) -> "Slicing":
        """Without the crop, which needs a label: for inference and for cases that are scored."""
        return replace(self, crop_margin=None)

    def lay(self, geometry: CaseGeometry, label: Array | None = None) -> CaseGeometry:
        """``geometry`` with the plane of the stored slices, none if they are the native ones.

        Args:
            geometry: of the file.
            label: native slices ``N H W``, 0 where there is nothing to crop around; without one,
                or without a pixel > 0 in it, nothing is cropped.
        """
        native_hw = geometry.slices_shape[1:]
        spacing = slice_spacing(geometry)
        crop = None
        if self.crop_margin is not None and label is not None:
            crop = self._box(label, spacing)
        size_hw = None
        if self.spacing_mm is not None:
            cropped = native_hw if crop is None else crop[2:]
            height, width = (
                max(1, round(pixels * mm / wanted))
                for pixels, mm, wanted in zip(cropped, spacing, self.spacing_mm, strict=True)
            )
            size_hw = None if (height, width) == cropped else (height, width)
        tile = None if self.tile_size is None else (self.tile_size, self.tile_overlap)
        plane = Plane(native_hw, crop, size_hw, tile)
        return replace(geometry, plane=None if plane == Plane(native_hw) else plane)

    def _box(self, label: Array, spacing: tuple[float, float]) -> tuple[int, int, int, int] | None:
        seen = np.any(label, axis=0)
        if not seen.any():
            return None
        start, size = [], []
        for axis in (0, 1):
            at = np.flatnonzero(seen.any(axis=1 - axis))
            margin = self.crop_margin or 0
            if self.crop_unit == "mm":
                margin = margin / spacing[axis]
            pixels = math.ceil(round(margin, 6))
            first = max(0, int(at[0]) - pixels)
            start.append(first)
            size.append(min(seen.shape[axis], int(at[-1]) + pixels + 1) - first)
        return start[0], start[1], size[0], size[1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form of all but the axis, only of what is not the default."""
        defaults = asdict(Slicing())
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key != "axis" and value != defaults[key]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, axis: int | None = None) -> "Slicing":
        """Inverse of :meth:`to_dict`; the axis is recorded beside it."""
        values = dict(data)
        if "spacing_mm" in values:
            values["spacing_mm"] = tuple(values["spacing_mm"])
        return cls(axis=axis, **values)

"""What is done to labels between file and slices: map, then remove small objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samtune.preprocessing.label_cleaning import remove_small_areas, remove_small_volumes
from samtune.preprocessing.label_map import VALUE_MAX, LabelMap, present_values
from samtune.preprocessing.volumes import Array


@dataclass(frozen=True)
class LabelSteps:
    """Settings of the label step.

    Attributes:
        label_map: applied first; no rules: values stay.
        min_voxels: objects of fewer voxels in 3D (connectivity 26) become background.
        min_pixels: after that, objects of fewer pixels in a slice (connectivity 8).
        ignore_label: value of pixels that nobody judged; it survives both, and is no class.

    Raises:
        ValueError: a negative size, or an ``ignore_label`` outside 1..65535 or with a rule.
    """

    label_map: LabelMap = field(default_factory=LabelMap)
    min_voxels: int = 0
    min_pixels: int = 0
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        if min(self.min_voxels, self.min_pixels) < 0:
            raise ValueError(
                f"smallest objects: {self.min_voxels} voxels, {self.min_pixels} pixels; "
                "expected numbers >= 0"
            )
        ignored = self.ignore_label
        if ignored is not None and not 1 <= ignored <= VALUE_MAX:
            raise ValueError(f"ignore label must be in 1..{VALUE_MAX}, got {ignored}")
        if any(ignored in rule.sources for rule in self.label_map.rules):
            raise ValueError(f"label map: {ignored} is the ignore label and has a rule")

    def on_volume(self, label: Array) -> Array:
        """Map and clean a label volume in 3D.

        Returns:
            uint8, or uint16 where a value needs it.

        Raises:
            ValueError: a value without a rule, or above 65535 without a map.
        """
        mapped = self.label_map.apply(label, ignore_label=self.ignore_label)
        largest = int(mapped.max())
        if largest > VALUE_MAX:
            raise ValueError(f"label value {largest}; slice files hold values up to {VALUE_MAX}")
        small = largest <= np.iinfo(np.uint8).max
        mapped = mapped.astype(np.uint8 if small else np.uint16, copy=False)
        return remove_small_volumes(mapped, self.min_voxels, ignore_label=self.ignore_label)

    def on_slices(self, slices: Array) -> Array:
        """Clean slices ``n h w`` in 2D."""
        return remove_small_areas(slices, self.min_pixels, ignore_label=self.ignore_label)

    def class_values(self, label: Array) -> list[int]:
        """Values > 0 that occur, without the one that is ignored."""
        return [value for value in present_values(label) if value not in (0, self.ignore_label)]

    def names(self, class_names: Mapping[int, str]) -> dict[int, str]:
        """Class names after the map: its own, and ``class_names`` of its targets without one.

        A name of a value that the map takes away would be a class that never occurs.
        """
        if not self.label_map.rules:
            return dict(class_names)
        targets = self.label_map.targets
        kept = {value: name for value, name in class_names.items() if value in targets}
        return {**kept, **self.label_map.class_names}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, only of what is set."""
        out: dict[str, Any] = {}
        if self.label_map.rules:
            out["map"] = self.label_map.to_dict()
        if self.min_voxels:
            out["min_voxels"] = self.min_voxels
        if self.min_pixels:
            out["min_pixels"] = self.min_pixels
        if self.ignore_label is not None:
            out["ignore_label"] = self.ignore_label
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LabelSteps":
        """Inverse of :meth:`to_dict`."""
        return cls(
            LabelMap.from_dict(data.get("map", ())),
            data.get("min_voxels", 0),
            data.get("min_pixels", 0),
            data.get("ignore_label"),
        )

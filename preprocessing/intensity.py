"""The one intensity step: any volume to uint8, by modality."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.volumes import Array

MODALITIES = ("mr", "ct", "oct")
CT_WINDOW = (40.0, 400.0)  # level and width in HU, soft tissue


@dataclass(frozen=True)
class Intensity:
    """How the values of a volume become 0..255.

    Attributes:
        modality: ``mr``: clipped to two percentiles of its voxels > 0; ``ct``: a window in HU;
            ``oct``: uint8 as it is, other types by minimum and maximum.
        lower_percentile, upper_percentile: in [0, 100], mr only, else None.
        window_level, window_width: HU, ct only, else None; width > 0.

    Raises:
        ValueError: unknown modality, a missing or superfluous setting, or one out of range.
    """

    modality: str
    lower_percentile: float | None = None
    upper_percentile: float | None = None
    window_level: float | None = None
    window_width: float | None = None

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {', '.join(MODALITIES)}: {self.modality!r}")
        lower, upper = self.lower_percentile, self.upper_percentile
        if (lower is None or upper is None) == (self.modality == "mr") or (
            lower is not None and upper is not None and not 0 <= lower < upper <= 100
        ):
            raise ValueError(
                f"modality {self.modality}: percentiles {lower} and {upper}; mr needs "
                "0 <= lower < upper <= 100, others none"
            )
        level, width = self.window_level, self.window_width
        if (level is None or width is None) == (self.modality == "ct") or (
            width is not None and not width > 0
        ):
            raise ValueError(
                f"modality {self.modality}: window level {level}, width {width}; ct needs both "
                "in HU with width > 0, others none"
            )

    @classmethod
    def for_modality(
        cls, modality: str, *, window: tuple[float, float] | None = None
    ) -> "Intensity":
        """Defaults of a modality: mr 0.5-99.5 %, ct level 40 width 400 HU.

        Args:
            modality: ``mr``, ``ct`` or ``oct``.
            window: level and width in HU in place of the ct default; ct only.
        """
        if window is not None and modality != "ct":
            raise ValueError(f"a window is for modality ct, got {modality!r}")
        if modality == "mr":
            return cls("mr", lower_percentile=0.5, upper_percentile=99.5)
        if modality == "ct":
            level, width = window or CT_WINDOW
            return cls("ct", window_level=float(level), window_width=float(width))
        return cls(modality)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Intensity":
        """Inverse of :meth:`to_dict`; a missing or unknown key is an error that names it."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise ValueError(
                f"intensity settings: missing {sorted(names - set(data))}, "
                f"unknown {sorted(set(data) - names)}"
            )
        return cls(**data)


def apply(array: Array, intensity: Intensity) -> npt.NDArray[np.uint8]:
    """Bring a volume to uint8.

    Args:
        array: real numbers of any shape, finite; HU for ct.
        intensity: the settings.

    Returns:
        Same shape, 0..255, linear between the two limits and rounded to the nearest (halves to
        even). mr: if no voxel is > 0, or all those that are have one value, the limits are the
        minimum and maximum of all voxels. A constant mr or oct volume becomes zeros.

    Raises:
        ValueError: empty array, or NaN or infinite values.
    """
    if array.size == 0:
        raise ValueError(f"cannot scale an empty volume of shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} voxels are NaN or infinite")
    if intensity.modality == "oct" and array.dtype == np.uint8:
        return array.copy()
    lower, upper = _limits(array, intensity)
    if lower == upper:
        return np.zeros(array.shape, dtype=np.uint8)
    scaled = np.empty(array.shape, dtype=np.uint8)
    for index in range(len(array)):  # float64 of one plane at a time, not of the whole volume
        plane = np.clip(array[index].astype(np.float64), lower, upper)
        scaled[index] = np.rint((plane - lower) / (upper - lower) * 255)
    return scaled


def _limits(array: Array, intensity: Intensity) -> tuple[float, float]:
    if intensity.window_level is not None and intensity.window_width is not None:
        half = intensity.window_width / 2
        return intensity.window_level - half, intensity.window_level + half
    if intensity.lower_percentile is not None and intensity.upper_percentile is not None:
        positive = array[array > 0]
        if positive.size:
            percentiles = (intensity.lower_percentile, intensity.upper_percentile)
            lower, upper = np.percentile(positive.astype(np.float64), percentiles)
            if lower < upper:
                return float(lower), float(upper)
    return float(array.min()), float(array.max())

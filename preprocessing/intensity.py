"""The one intensity step: any volume to uint8 or uint16, by modality."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.percentiles import HISTOGRAM_TYPES, positive_percentiles
from samtune.preprocessing.volumes import Array

MODALITIES = ("mr", "ct", "oct", "rgb")
SCOPES = ("volume", "slice")
MR_PERCENTILES = (0.5, 99.5)
CT_WINDOW = (40.0, 400.0)  # level and width in HU, soft tissue
# Level and width in HU, as tabled in radiopaedia.org/articles/windowing-ct (liver: narrow, so that
# lesions stand out); the first three are also those of MedSAM's README
CT_WINDOWS = {
    "soft_tissue": CT_WINDOW,
    "lung": (-600.0, 1500.0),
    "brain": (40.0, 80.0),
    "bone": (400.0, 1800.0),
    "liver": (30.0, 150.0),
}
MEDSAM = "medsam"
PRESETS = (*CT_WINDOWS, MEDSAM)


@dataclass(frozen=True)
class Intensity:
    """How the values of a volume become 0..255 (or 0..65535).

    Attributes:
        modality: ``mr``: clipped to two percentiles of its voxels > 0; ``ct``: a window in HU;
            ``oct``, ``rgb`` (photographs, X-rays): values of the stored depth as they are, others
            by minimum and maximum; or, where given, clipped to percentiles as for mr.
        lower_percentile, upper_percentile: in [0, 100]; needed for mr, None for ct.
        window_level, window_width: HU, ct only, else None; width > 0.
        scope: ``volume``: one pair of limits a volume; ``slice``: each slice has its own.
        rule: ``linear``: the limits go to 0 and the largest value, rounded to the nearest.
            ``medsam``: as the published preprocessing of MedSAM (``pre_CT_MR.py``): minimum and
            maximum *after* clipping go to 0 and 255, voxels that were 0 are 0 (not ct), truncated.
        bits: 8 or 16, of the values that are stored.

    Raises:
        ValueError: unknown modality, a missing or superfluous setting, or one out of range.
    """

    modality: str
    lower_percentile: float | None = None
    upper_percentile: float | None = None
    window_level: float | None = None
    window_width: float | None = None
    scope: str = "volume"
    rule: str = "linear"
    bits: int = 8

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {', '.join(MODALITIES)}: {self.modality!r}")
        lower, upper = self.lower_percentile, self.upper_percentile
        if (
            (lower is None) != (upper is None)
            or (lower is None and self.modality == "mr")
            or (lower is not None and self.modality == "ct")
            or (lower is not None and upper is not None and not 0 <= lower < upper <= 100)
        ):
            raise ValueError(
                f"modality {self.modality}: percentiles {lower} and {upper}; mr needs "
                "0 <= lower < upper <= 100, ct has none"
            )
        level, width = self.window_level, self.window_width
        if (level is None or width is None) == (self.modality == "ct") or (
            width is not None and not width > 0
        ):
            raise ValueError(
                f"modality {self.modality}: window level {level}, width {width}; ct needs both "
                "in HU with width > 0, others none"
            )
        if self.scope not in SCOPES:
            raise ValueError(f"intensity scope must be volume or slice, got {self.scope!r}")
        if self.bits not in (8, 16) or self.rule not in ("linear", MEDSAM):
            raise ValueError(
                f"intensity: {self.bits} bits, rule {self.rule!r}; expected 8 or 16, and linear "
                "or medsam"
            )
        if self.rule == MEDSAM and (self.bits != 8 or (lower is None and self.modality != "ct")):
            raise ValueError(
                f"preset medsam is 8 bit, for ct or with percentiles; got {self.bits} bits, "
                f"modality {self.modality}, percentiles {lower} and {upper}"
            )

    @classmethod
    def for_modality(
        cls,
        modality: str,
        *,
        window: Sequence[float] | None = None,
        preset: str | None = None,
        percentiles: Sequence[float] | None = None,
        scope: str = "volume",
        bits: int = 8,
    ) -> "Intensity":
        """Defaults of a modality: mr 0.5-99.5 %, ct level 40 width 400 HU, others as they are.

        Args:
            modality: one of ``MODALITIES``.
            window: level and width in HU in place of the ct default; ct only.
            preset: a name of ``CT_WINDOWS`` in place of ``window``; or ``medsam``, which goes
                with any window, and needs percentiles where there is none (default 0.5, 99.5).
            percentiles: lower and upper, of the values > 0; not for ct.
            scope: ``volume`` or ``slice``.
            bits: 8 or 16.

        Raises:
            ValueError: settings that do not fit the modality or each other.
        """
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if modality != "ct" and (window is not None or preset in CT_WINDOWS):
            what = "a window" if window is not None else f"preset {preset}"
            raise ValueError(f"{what} is for modality ct, got {modality!r}")
        if window is not None and preset in CT_WINDOWS:
            raise ValueError(f"preset {preset} is a window; give it or level and width, not both")
        if percentiles is not None and len(percentiles) != 2:
            raise ValueError(f"percentiles: expected lower and upper, got {list(percentiles)}")
        lower: float | None = None
        upper: float | None = None
        level: float | None = None
        width: float | None = None
        if percentiles is not None:
            lower, upper = (float(value) for value in percentiles)
        elif modality == "mr" or (preset == MEDSAM and modality != "ct"):
            lower, upper = MR_PERCENTILES
        if modality == "ct":
            given = window or CT_WINDOWS.get(preset or "", CT_WINDOW)
            level, width = (float(value) for value in given)
        rule = MEDSAM if preset == MEDSAM else "linear"
        return cls(modality, lower, upper, level, width, scope, rule, bits)

    @property
    def dtype(self) -> npt.DTypeLike:
        """uint8 or uint16."""
        return np.uint16 if self.bits == 16 else np.uint8

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; settings that came later are left out where they are the default."""
        later = {"scope": "volume", "rule": "linear", "bits": 8}
        return {key: value for key, value in asdict(self).items() if later.get(key, ()) != value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Intensity":
        """Inverse of :meth:`to_dict`; a missing or unknown key is an error that names it."""
        names = {field.name for field in fields(cls)}
        missing = names - {"scope", "rule", "bits"} - set(data)
        if missing or set(data) - names:
            raise ValueError(
                f"intensity settings: missing {sorted(missing)}, "
                f"unknown {sorted(set(data) - names)}"
            )
        return cls(**data)


def is_finite(array: Array) -> bool:
    """Whether no value is NaN or infinite; makes no temporary array."""
    if array.dtype.kind != "f" or array.size == 0:
        return True
    return math.isfinite(float(array.min())) and math.isfinite(float(array.max()))


def apply(array: Array, intensity: Intensity) -> Array:
    """Bring a volume, or with scope ``slice`` a stack of slices ``n ...``, to 8 or 16 bits.

    Args:
        array: real numbers of any shape, finite; HU for ct.
        intensity: the settings.

    Returns:
        Same shape, 0..255 or 0..65535, linear between the two limits and rounded to the nearest
        (halves to even; for rule ``medsam`` see :class:`Intensity`). Percentiles: if no voxel is
        > 0, or all those that are have one value, the limits are the minimum and maximum of all
        voxels. A constant volume becomes zeros, unless it has a window.

    Raises:
        ValueError: empty array, or NaN or infinite values.
    """
    if array.size == 0:
        raise ValueError(f"cannot scale an empty volume of shape {array.shape}")
    if not is_finite(array):
        raise ValueError(f"{int((~np.isfinite(array)).sum())} voxels are NaN or infinite")
    if intensity.scope == "volume":
        return _scale(array, intensity)
    return np.concatenate([_scale(one[None], intensity) for one in array])


def _scale(array: Array, intensity: Intensity) -> Array:
    if array.ndim == 1:
        return np.squeeze(_scale(array[None], intensity), 0)
    limits = _limits(array, intensity)
    if limits is None:
        if array.dtype == intensity.dtype:
            return array.copy()
        return array.astype(np.uint16) * np.uint16(257)  # 255 becomes 65535
    lower, upper = limits
    if intensity.rule == MEDSAM:
        bottom = min(max(float(array.min()), lower), upper)
        top = min(max(float(array.max()), lower), upper)
    else:
        bottom, top = lower, upper
    if bottom == top:
        return np.zeros(array.shape, dtype=intensity.dtype)
    scaled = np.empty(array.shape, dtype=intensity.dtype)
    if array.dtype in HISTOGRAM_TYPES and array.size > 2**16:
        # few values, many voxels: each value's result once, then a look-up; the same numbers
        info = np.iinfo(array.dtype)
        values = np.arange(info.min, info.max + 1, dtype=array.dtype)
        unsigned = np.dtype(f"u{array.dtype.itemsize}")
        table = np.empty(len(values), dtype=intensity.dtype)
        table[values.view(unsigned)] = _scale_plane(values, (lower, upper), bottom, top, intensity)
        for index in range(len(array)):  # an index is 64 bits inside NumPy: one plane at a time
            scaled[index] = table[np.ascontiguousarray(array[index]).view(unsigned)]
        return scaled
    for index in range(len(array)):  # float64 of one plane at a time, not of the whole volume
        scaled[index] = _scale_plane(array[index], (lower, upper), bottom, top, intensity)
    return scaled


def _scale_plane(
    values: Array, limits: tuple[float, float], bottom: float, top: float, intensity: Intensity
) -> npt.NDArray[np.float64]:
    plane = values.astype(np.float64)
    np.clip(plane, *limits, out=plane)
    plane -= bottom
    plane /= top - bottom
    plane *= np.iinfo(intensity.dtype).max
    if intensity.rule != MEDSAM:
        return np.asarray(np.rint(plane, out=plane))
    np.clip(plane, 0, 255, out=plane)  # for values of a look-up table that the volume lacks
    if intensity.modality != "ct":
        plane[values == 0] = 0
    return np.asarray(np.trunc(plane, out=plane))


def _limits(array: Array, intensity: Intensity) -> tuple[float, float] | None:
    """Values that are clipped to; None where the values stay as they are."""
    if intensity.window_level is not None and intensity.window_width is not None:
        half = intensity.window_width / 2
        return intensity.window_level - half, intensity.window_level + half
    if intensity.lower_percentile is not None and intensity.upper_percentile is not None:
        percentiles = (intensity.lower_percentile, intensity.upper_percentile)
        found = positive_percentiles(array, percentiles)
        if found is not None and found[0] < found[1]:
            return found
    elif array.dtype == np.uint8 or array.dtype == intensity.dtype:
        return None
    return float(array.min()), float(array.max())

"""From a volume as read to the slices a model sees: the same step for training and inference."""

import numpy as np

from samtune.preprocessing.intensity import Intensity, apply, is_finite
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import CaseGeometry, volume_to_slices
from samtune.preprocessing.volumes import Array, Volume


def prepare_case(
    image: Volume,
    *,
    case: str,
    intensity: Intensity,
    axis: int | None = None,
    slicing: Slicing | None = None,
    label: Array | None = None,
) -> tuple[Array, CaseGeometry]:
    """Scale a volume's intensities and cut it into slices.

    Args:
        image: as :func:`samtune.preprocessing.volumes.read_volume` gives it, grey or ``i j k 3``:
            for ``mr`` and ``ct`` three scans on one grid, each with its own limits, for ``oct`` and
            ``rgb`` colours.
        case: case id.
        intensity: scaling to 0..255 or 0..65535; limits are those of the whole volume, or of whole
            native slices, whatever is cropped.
        axis: RAS axis to cut, None for the one with the largest spacing (ties: 2).
        slicing: crop, resampling and tiles; its axis counts where ``axis`` is None.
        label: ``i j k``, what a crop goes around; without it nothing is cropped.

    Returns:
        Slices ``N H W`` or ``N H W 3``, uint8 or uint16, every slice of the volume; with tiles
        ``N * tiles h w``. And the geometry that puts such slices back on the file's grid.

    Raises:
        ValueError: voxels are NaN or infinite (file and number named), ``axis`` is not 0..2, or a
            colour image has not 3 channels.
    """
    if not is_finite(image.array):
        bad = int(image.array.size - np.isfinite(image.array).sum())
        raise ValueError(
            f"{image.path}: {bad} of {image.array.size} voxels are NaN or infinite; "
            "expected finite values"
        )
    if image.array.ndim == 4 and image.array.shape[3] != 3:
        raise ValueError(
            f"{image.path}: {image.array.shape[3]} channels; expected 1 or 3 (red, green, blue)"
        )
    slicing = slicing or Slicing()
    axis = slicing.axis if axis is None else axis
    native = CaseGeometry.of(image, case=case, axis=axis)
    geometry = slicing.lay(native, None if label is None else volume_to_slices(label, native))
    if intensity.scope == "slice":
        slices = _scale(volume_to_slices(image.array, native), intensity)
    else:  # scaled first: what is turned then is a half or a quarter as large
        slices = volume_to_slices(_scale(image.array, intensity), native)
    if geometry.plane is not None:
        slices = geometry.plane.store_images(slices)
    return slices, geometry


def _scale(array: Array, intensity: Intensity) -> Array:
    """Colours have limits in common; channels that are scans of their own have their own."""
    if array.ndim < 4 or intensity.modality in ("oct", "rgb"):
        return apply(array, intensity)
    return np.stack([apply(array[..., c], intensity) for c in range(array.shape[3])], axis=3)

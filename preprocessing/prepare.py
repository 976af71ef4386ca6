"""From a volume as read to the slices a model sees: the same step for training and inference."""

import numpy as np
import numpy.typing as npt

from samtune.preprocessing.intensity import Intensity, apply, is_finite
from samtune.preprocessing.slicing import CaseGeometry, volume_to_slices
from samtune.preprocessing.volumes import Volume


def prepare_case(
    image: Volume, *, case: str, intensity: Intensity, axis: int | None = None
) -> tuple[npt.NDArray[np.uint8], CaseGeometry]:
    """Scale a volume's intensities and cut it into slices.

    Args:
        image: as :func:`samtune.preprocessing.volumes.read_volume` gives it.
        case: case id.
        intensity: scaling to 0..255; limits are those of the whole volume.
        axis: RAS axis to cut, None for the one with the largest spacing (ties: 2).

    Returns:
        Slices ``N H W`` uint8 at native resolution, every slice of the volume, and the geometry
        that puts such slices back on the file's grid.

    Raises:
        ValueError: voxels are NaN or infinite (file and number named), or ``axis`` is not 0..2.
    """
    if not is_finite(image.array):
        bad = int(image.array.size - np.isfinite(image.array).sum())
        raise ValueError(
            f"{image.path}: {bad} of {image.array.size} voxels are NaN or infinite; "
            "expected finite values"
        )
    geometry = CaseGeometry.of(image, case=case, axis=axis)
    return volume_to_slices(apply(image.array, intensity), geometry), geometry

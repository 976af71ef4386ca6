"""Random transforms of the training slices, by the name of a preset."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from monai.transforms import (
    HistogramNormalize,
    Identityd,
    OneOf,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandLambdad,
    RandRotate90d,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
)

from samtune.preprocessing.content_transforms import OnContentd
from samtune.preprocessing.model_frame import Normalization

Transforms = list[Callable[[Any], Any]]
KEYS = ("image", "label")
PRESETS = ("none", "affine", "light", "oct", "sam_adapter", "finetune_sam")


def random_transforms(
    preset: str = "affine",
    *,
    rotation: float = 0.26,
    zoom: Sequence[float] = (0.85, 1.2),
    image_size: int = 1024,
    normalization: Normalization,
) -> Transforms:
    """MONAI dictionary transforms on ``image`` and ``label`` of the frame, labels nearest.

    All but ``affine`` act within the slice, on values in [0, 1], see
    :class:`samtune.preprocessing.content_transforms.OnContentd`.

    Args:
        preset: ``none``; ``affine``: rotation and zoom of the frame; ``light``: small changes that
            fit any scan, no flips; ``oct``: B-scans, left and right eyes alike, depth never
            upside down; ``sam_adapter`` and ``finetune_sam``: those of the reference
            implementations.
        rotation: of ``affine``: largest angle, radians.
        zoom: of ``affine``: range of the factor.
        image_size: side of the frame, pixels: shifts are shares of it.
        normalization: of the frame.

    Raises:
        ValueError: no such preset, or a zoom range that isn't one.
    """
    if preset not in PRESETS:
        msg = f"augmentation must be one of {', '.join(PRESETS)}, got '{preset}'"
        raise ValueError(msg)
    if preset == "none":
        return []
    if preset == "affine":
        return [_frame_affine(float(rotation), zoom)]
    made = {
        "light": _light,
        "oct": _oct,
        "sam_adapter": _sam_adapter,
        "finetune_sam": _finetune_sam,
    }[preset](image_size)
    return [OnContentd(made, normalization)]


def _frame_affine(rotation: float, zoom: Sequence[float]) -> Callable[[Any], Any]:
    if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
        msg = f"zoom must be a range of factors above 0 such as [0.85, 1.2], got {list(zoom)}"
        raise ValueError(msg)
    # MONAI scales the sampling grid
    scale = [(1 / zoom[1] - 1, 1 / zoom[0] - 1)] * 2
    return _affine(rotation, scale, padding_mode="zeros")


def _affine(
    rotation: float,
    scale: Sequence[tuple[float, float]],
    shift: Sequence[float] | None = None,
    padding_mode: str = "zeros",
) -> Callable[[Any], Any]:
    return RandAffined(
        keys=KEYS,
        prob=1.0,
        rotate_range=rotation,
        scale_range=scale,
        translate_range=shift,
        mode=("bilinear", "nearest"),
        padding_mode=padding_mode,
    )


def _light(image_size: int) -> Transforms:
    return [
        RandScaleIntensityFixedMeand("image", factors=0.15, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        RandAdjustContrastd("image", gamma=(0.8, 1.25), prob=0.3),
        _affine(math.radians(10), [(-0.1, 0.1)] * 2, [0.05 * image_size] * 2),
    ]


def _oct(image_size: int) -> Transforms:
    return [
        RandScaleIntensityFixedMeand("image", factors=0.2, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        RandAdjustContrastd("image", gamma=(0.7, 1.4), prob=0.3),
        RandGaussianNoised("image", std=0.05, prob=0.3),
        RandGaussianSmoothd("image", sigma_x=(0.25, 0.8), sigma_y=(0.25, 0.8), prob=0.2),
        RandFlipd(KEYS, spatial_axis=1, prob=0.5),
        # the retina lies anywhere in depth; reflection: it goes on beyond the sides
        _affine(
            math.radians(10),
            [(-0.1, 0.1)] * 2,
            [0.1 * image_size, 0.05 * image_size],
            padding_mode="reflection",
        ),
    ]


def _sam_adapter(image_size: int) -> Transforms:
    one_of = OneOf(
        [
            RandFlipd(KEYS, spatial_axis=1, prob=1.0),
            RandFlipd(KEYS, spatial_axis=0, prob=1.0),
            RandRotate90d(KEYS, prob=1.0),
            _affine(
                math.radians(45),
                [(-0.1, 0.1)] * 2,
                [image_size / 16] * 2,
                padding_mode="reflection",
            ),
            Identityd(KEYS),
        ],
        weights=[0.125] * 4 + [0.5],
    )
    return [one_of]


def _finetune_sam(image_size: int) -> Transforms:
    # Differs from finetune-SAM: it jitters the colours after normalisation and resizes labels
    # bilinearly; saturation and hue are left out, they change nothing in a grey image.
    smallest, largest = math.sqrt(0.5), math.sqrt(1.5)  # sides of crops of 0.5 to 1.5 of the area
    return [
        RandLambdad("image", func=HistogramNormalize(num_bins=256, min=0, max=1), prob=0.1),
        RandScaleIntensityd("image", factors=0.3, prob=1.0),
        RandScaleIntensityFixedMeand("image", factors=0.3, prob=1.0),
        _affine(
            math.radians(45),
            [(smallest - 1, largest - 1)] * 2,
            [(1 - smallest) / 2 * image_size] * 2,
        ),
    ]

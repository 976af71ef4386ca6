"""The architectures by name: how their encoders are built, and what they were trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from samtune.networks.registry import Normalization
from samtune.networks.sam2_encoder import MULTIPLE, Hiera
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built.

    Attributes:
        encoder: builds the image encoder for an image size.
        native_size: side of the square input it was trained at, pixels.
        size_multiple: the side must be a multiple of it, pixels.
        normalization: ``sam`` (ImageNet mean and deviation) or ``medsam`` (each image to [0, 1]).
    """

    encoder: Callable[[int], nn.Module]
    native_size: int
    size_multiple: int
    normalization: Normalization


def _vit(dim: int, depth: int, num_heads: int, global_blocks: tuple[int, ...]) -> Architecture:
    def encoder(image_size: int) -> nn.Module:
        return SamViT(
            image_size=image_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            global_blocks=global_blocks,
        )

    return Architecture(encoder, 1024, 16, "sam")


def _hiera(**settings: Any) -> Architecture:
    def encoder(image_size: int) -> nn.Module:
        return Hiera(image_size=image_size, **settings)

    return Architecture(encoder, 1024, MULTIPLE, "sam")


# of an image SAM 2.1 makes the same as SAM 2 with other weights: its new layers are for video
_SAM2 = {
    "tiny": _hiera(dim=96, num_heads=1, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9)),
    "small": _hiera(dim=96, num_heads=1, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "base_plus": _hiera(
        dim=112,
        num_heads=2,
        depths=(2, 3, 16, 3),
        global_blocks=(12, 16, 20),
        background_size=14,
    ),
    "large": _hiera(
        dim=144,
        num_heads=2,
        depths=(2, 6, 36, 4),
        global_blocks=(23, 33, 43),
        windows=(8, 4, 16, 8),
    ),
}

ARCHITECTURES: dict[str, Architecture] = {
    "lite_medsam": Architecture(lambda _: TinyViT(patch_stride=1), 256, 4, "medsam"),
    "vit_b": _vit(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _vit(1280, 32, 16, (7, 15, 23, 31)),
    "vit_t": Architecture(lambda _: TinyViT(patch_stride=4), 1024, 16, "sam"),  # MobileSAM
    **{f"sam2_{name}": architecture for name, architecture in _SAM2.items()},
    **{f"sam2.1_{name}": architecture for name, architecture in _SAM2.items()},
}


def check_size(arch: str, image_size: int) -> None:
    """Raise ``ValueError`` unless ``arch`` takes images of this side."""
    step = ARCHITECTURES[arch].size_multiple
    if image_size < 1 or image_size % step != 0:
        lower = max(image_size // step, 1) * step
        msg = (
            f"image_size {image_size} does not suit {arch}, expected a multiple of {step} pixels, "
            f"e.g. {lower} or {lower + step}"
        )
        raise ValueError(msg)

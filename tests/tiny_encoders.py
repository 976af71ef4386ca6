"""TinyViT in miniature, for slices of 32 pixels, and as an architecture that a config can name."""

from samtune.networks.architectures import Architecture
from samtune.networks.tiny_vit import TinyViT


def tiny_vit(patch_stride: int = 1) -> TinyViT:
    """Five attention blocks: two in the second stage, one, two; with odd numbers of heads."""
    return TinyViT(
        patch_stride=patch_stride,
        dims=(8, 12, 20, 24),
        depths=(1, 2, 1, 2),
        num_heads=(1, 3, 5, 2),
        windows=(1, 7, 5, 3),
    )


def small_tiny_vit(patch_stride: int = 1) -> TinyViT:
    """Four attention blocks: for tests that train by a config."""
    return TinyViT(
        patch_stride=patch_stride,
        dims=(8, 12, 16, 24),
        depths=(1, 1, 1, 2),
        num_heads=(1, 3, 2, 2),
        windows=(1, 7, 5, 3),
    )


SMALL_TINY_VIT = Architecture(lambda _: small_tiny_vit(), 32, 16, "medsam")

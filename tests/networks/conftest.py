"""Tiny encoders and SAMs with random weights, statistics included, for the tests of networks."""

import pytest
import torch

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT


def randomise(module, generator):
    """Fill every parameter and every BatchNorm statistic: a zero or a one would hide a mistake.

    The scales let the image through to the output: ``test_fixtures_depend_on_the_image``.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                fan_in = max(parameter[0].numel(), 1)
                parameter.normal_(0, 1.5 * fan_in**-0.5, generator=generator)
            elif name.endswith("weight"):  # of a normalisation
                parameter.uniform_(0.7, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.1, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def tiny_vit(patch_stride=1):
    return TinyViT(
        patch_stride=patch_stride,
        dims=(8, 12, 20, 24),
        depths=(1, 2, 1, 2),
        num_heads=(1, 3, 5, 2),
        windows=(1, 7, 5, 3),
    )


def sam_vit(image_size=64):
    return SamViT(image_size=image_size, dim=24, depth=3, num_heads=3, global_blocks=(1,), window=3)


@pytest.fixture(autouse=True)
def _own_chance():
    """Every test draws the same numbers, and leaves torch's generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def randomised(generator):
    """``randomised(module)``: :func:`randomise` with the test's generator."""
    return lambda module: randomise(module, generator)


@pytest.fixture
def make_encoder(generator):
    """``make_encoder("tiny_vit" | "sam_vit", **options)``."""
    kinds = {"tiny_vit": tiny_vit, "sam_vit": sam_vit}

    def make(kind, **options):
        return randomise(kinds[kind](**options), generator)

    return make


@pytest.fixture
def make_segmenter(make_encoder, generator):
    """A segmenter around a tiny encoder: 32 px with TinyViT, 64 px with SAM's ViT."""

    def make(kind="tiny_vit", num_classes=2):
        sam = assemble_sam(
            make_encoder(kind),
            arch=kind,
            image_size={"tiny_vit": 32, "sam_vit": 64}[kind],
            normalization="medsam",
        )
        randomise(sam.prompt_encoder, generator)
        randomise(sam.mask_decoder, generator)
        return SamSegmenter(sam, num_classes).eval()

    return make

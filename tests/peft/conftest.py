"""A tiny segmenter with random weights, statistics included, for the tests of PEFT methods."""

import pytest
import torch

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiny_vit import TinyViT


def tiny_vit():
    return TinyViT(
        patch_stride=1,
        dims=(8, 12, 20, 24),
        depths=(1, 2, 1, 2),
        num_heads=(1, 3, 5, 2),
        windows=(1, 7, 5, 3),
    )


def sam_vit():
    return SamViT(image_size=64, dim=24, depth=3, num_heads=3, global_blocks=(1,), window=3)


@pytest.fixture(autouse=True)
def _own_chance():
    """Every test draws the same numbers, and leaves torch's generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_segmenter():
    """``make_segmenter("tiny_vit" | "sam_vit", num_classes)``: always the same weights."""

    def make(kind="tiny_vit", num_classes=2):
        torch.manual_seed(0)
        encoder = {"tiny_vit": tiny_vit, "sam_vit": sam_vit}[kind]()
        size = {"tiny_vit": 32, "sam_vit": 64}[kind]
        sam = assemble_sam(encoder, arch=kind, image_size=size, normalization="medsam")
        with torch.no_grad():
            for name, tensor in sam.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2)
                elif name.endswith(("running_mean", "bias")):
                    tensor.normal_(0, 0.1)
                elif tensor.ndim > 1 and tensor.is_floating_point():
                    tensor.normal_(0, 1.5 * tensor[0].numel() ** -0.5)
        return SamSegmenter(sam, num_classes).eval()

    return make


@pytest.fixture
def randomise_factors():
    """Give B values: with its zeros an adapter that does nothing would pass."""

    def randomise(module, scale=0.3):
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith("lora_b"):
                    parameter.normal_(0, scale)
        return module

    return randomise

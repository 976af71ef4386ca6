"""A tiny segmenter with random weights, statistics included, for the tests of PEFT methods."""

import copy
import functools

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.sam2_encoder import Hiera
from samtune.networks.sam_vit import SamViT
from samtune.peft.protocol import adapted_modules
from samtune.peft.registry import METHODS, build_method
from tests.tiny_encoders import tiny_vit


def sam_vit():
    return SamViT(image_size=64, dim=24, depth=3, num_heads=3, global_blocks=(1,), window=3)


def hiera():
    return Hiera(image_size=64, dim=16, depths=(1, 2, 1, 1), num_heads=2, global_blocks=(2,))


# hyper-parameters that fit the tiny encoders
TINY = {
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "salt": {"top": 5, "rank": 2},
    "ssam": {"convs": ["neck"]},
    "fact": {"rank": 2},
    "vera": {"rank": 6},
    "conv_lora": {"rank": 2},
    "adaptformer": {"hidden": 4},
    "sam_adapter": {"tune_width": 6, "hidden": 4},
}


@pytest.fixture
def tiny_method():
    """``tiny_method(name, **hyper-parameters)``."""

    def build(name, **changes):
        return build_method({"name": name, **TINY.get(name, {}), **changes})

    return build


# qlora has its own tests: it starts at another network, and needs bitsandbytes and CUDA
EVERYWHERE = [name for name in METHODS if name != "qlora"]


# Hiera's widths change inside a block: these have shapes of their own there. test_hiera.py has all.
IN_HIERA = {
    "lora",
    "salt",
    "ssam",
    "fact",
    "vera",
    "conv_lora",
    "adaptformer",
    "houlsby",
    "sam_adapter",
    "decoder_only",
}


def pytest_generate_tests(metafunc):
    """Tests with ``name`` see every method; with ``kind`` too, in all networks where it fits."""
    if "name" in metafunc.fixturenames and "kind" not in metafunc.fixturenames:
        metafunc.parametrize("name", EVERYWHERE)
    elif {"kind", "name"} <= set(metafunc.fixturenames):
        cases = [
            (kind, name)
            for name in EVERYWHERE
            for kind in ("sam_vit", "tiny_vit", "hiera")
            if (kind, name) != ("tiny_vit", "pos_embed")  # TinyViT has none
            and (kind != "hiera" or name in IN_HIERA)
        ]
        metafunc.parametrize(("kind", "name"), cases)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The tensors here are tiny: a second thread costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_chance():
    """Every test draws the same numbers, and leaves torch's generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@functools.cache
def segmenter(kind, num_classes, mlp_dim):
    """A segmenter, and the state of torch's generator after it was made."""
    torch.manual_seed(0)
    encoder = {"tiny_vit": tiny_vit, "sam_vit": sam_vit, "hiera": hiera}[kind]()
    size = {"tiny_vit": 32, "sam_vit": 64, "hiera": 64}[kind]
    sam = assemble_sam(encoder, arch=kind, image_size=size, normalization="medsam")
    if mlp_dim:
        sam.mask_decoder.transformer = TwoWayTransformer(2, 256, num_heads=8, mlp_dim=mlp_dim)
    with torch.no_grad():
        for name, tensor in sam.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
            elif tensor.ndim > 1 and tensor.is_floating_point():
                tensor.normal_(0, 1.5 * tensor[0].numel() ** -0.5)
    return SamSegmenter(sam, num_classes).eval(), torch.get_rng_state()


@pytest.fixture
def make_segmenter():
    """``make_segmenter("tiny_vit" | "sam_vit" | "hiera", num_classes)``: always the same weights.

    With ``mlp_dim`` the decoder's MLPs are that narrow: half of its parameters are in them.
    """

    def make(kind="tiny_vit", num_classes=2, mlp_dim=None):
        net, state = segmenter(kind, num_classes, mlp_dim)
        torch.set_rng_state(state)
        return copy.deepcopy(net)

    return make


@pytest.fixture
def make_small(make_segmenter):
    """``make_small(kind)``: one class, and a decoder with narrow MLPs."""
    return functools.partial(make_segmenter, num_classes=1, mlp_dim=48)


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


@pytest.fixture
def randomise_adapters():
    """``randomise_adapters(module, scale)``: move every parameter that a method added."""

    def randomise(module, scale=0.2):
        with torch.no_grad():
            for _, adapted in adapted_modules(module):
                for name in adapted.adapter_parameter_names():
                    parameter = adapted.get_parameter(name)
                    parameter.add_(torch.randn_like(parameter), alpha=scale)
        return module

    return randomise

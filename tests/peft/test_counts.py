"""Parameter counts at real sizes, on the meta device: formulas and published numbers."""

import copy
import functools

import pytest
import torch

from samtune.networks import SamSegmenter, build_sam
from samtune.peft.adapt import adapt
from samtune.peft.registry import build_method

ENCODER, DECODER = 89_670_912, 4_058_340
D = 768  # width of vit_b; its blocks' linear layers: D -> 3D, D -> D, D -> 4D, 4D -> D
LINEAR = 48  # four in each of 12 blocks; 768 singular values each


@functools.cache
def segmenter(arch):
    with torch.device("meta"):
        return SamSegmenter(build_sam(arch, "random"), 1)


def build(arch):
    """A segmenter without memory for its weights."""
    return copy.deepcopy(segmenter(arch))


def salt(top, rank, per_value):
    return LINEAR * (per_value * top + 2 * rank * (D - top))


@pytest.mark.parametrize(
    ("config", "formula", "expected"),
    [
        ({"name": "lora", "rank": 4, "targets": ["q", "v"]}, 12 * 4 * D * 4, 147_456),
        ({"name": "lora", "rank": 32, "targets": ["q", "v"]}, 12 * 4 * D * 32, 1_179_648),
        ({"name": "lora", "rank": 16, "targets": ["qkv", "proj", "mlp"]}, None, 2_359_296),
        (
            {"name": "lora", "rank": 32, "targets": ["q", "k", "v", "mlp"], "blocks": "last:6"},
            6 * (6 * D * 32 + 10 * D * 32),
            2_359_296,
        ),
        ({"name": "dora", "rank": 16}, 12 * (16 * 16 * D + (3 + 1 + 4 + 1) * D), 2_442_240),
        ({"name": "salt", "top": 128, "rank": 16}, salt(128, 16, 2), 995_328),
        ({"name": "salt", "top": 128, "rank": 16, "pair": False}, salt(128, 16, 1), 989_184),
        ({"name": "salt", "top": 64, "rank": 8}, salt(64, 8, 2), 546_816),
        ({"name": "salt", "top": 500, "rank": 8, "pair": True}, salt(500, 8, 2), 253_824),
        ({"name": "ssam"}, LINEAR * 2 * D, 73_728),
        ({"name": "ssam", "convs": ["neck"]}, LINEAR * 2 * D + 2 * 2 * 256, 74_752),
        ({"name": "svf"}, LINEAR * D, 36_864),
        ({"name": "svf", "convs": ["neck"]}, LINEAR * D + 2 * 256, 36_864 + 512),
        ({"name": "fact", "rank": 16}, 2 * D * 16 + 24 * 16**2, 30_720),
        ({"name": "fact", "rank": 32}, 2 * D * 32 + 24 * 32**2, 73_728),
        ({"name": "vera"}, 12 * (4 * 256 + 9 * D), 95_232),
        ({"name": "vera", "targets": ["qkv"]}, 12 * (256 + 3 * D), 30_720),
        ({"name": "conv_lora"}, 12 * (4 * D * 3 + 9 * 3 * 3 + 3), 111_600),
        ({"name": "lora", "start": "pissa", "rank": 4}, 12 * 4 * D * 4, 147_456),
        (
            {"name": "lora", "rank": 4, "convs": ["neck"]},
            12 * 4 * D * 4 + 4 * (D + 256) + 4 * (9 * 256 + 256),
            161_792,
        ),
        (
            {"name": "salt", "top": 64, "rank": 8, "convs": ["neck"]},
            salt(64, 8, 2) + 2 * (2 * 64 + 2 * 8 * (256 - 64)),
            553_216,
        ),
        ({"name": "ssf"}, 12 * 2 * 11 * D, 202_752),
        ({"name": "adaptformer", "hidden": 64}, 12 * (2 * D * 64 + 64 + D + 1), 1_189_644),
        ({"name": "houlsby"}, 12 * 2 * 295_872, 7_100_928),
        ({"name": "houlsby", "blocks": [0, 1, 10, 11]}, 4 * 2 * 295_872, 2_366_976),
        (
            {"name": "sam_adapter"},
            2 * (D * 192 + 192) + (32 * D + D) + 13 * (192 * 32 + 32),
            400_928,
        ),
        ({"name": "bias"}, 12 * 11 * D, 101_376),
        ({"name": "layernorm"}, 12 * 4 * D, 36_864),
        ({"name": "attention"}, None, 28_441_088),
        ({"name": "pos_embed"}, 64 * 64 * D, 3_145_728),
        ({"name": "blocks"}, 8 * 7_091_328 + 4 * 7_104_128, 85_147_136),
        ({"name": "blocks", "blocks": "last:6"}, 4 * 7_091_328 + 2 * 7_104_128, 42_573_568),
        ({"name": "full"}, None, ENCODER),
        ({"name": "decoder_only"}, 0, 0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_encoder_of_vit_b(config, formula, expected):
    summary = adapt(build("vit_b"), build_method(config), decoder="frozen")
    trainable, total = summary.components["encoder"]
    assert trainable == expected
    assert formula in (None, expected)
    native = {"bias", "layernorm", "attention", "pos_embed", "blocks", "full", "decoder_only"}
    assert total == ENCODER + (0 if config["name"] in native else expected)
    assert summary.components["decoder"] == (0, DECODER)


# linear layers of the decoder (in, out): two blocks of three attentions, an MLP; a last attention
_SELF = [(256, 256)] * 4
_CROSS = [(256, 128)] * 3 + [(128, 256)]
DECODER_LINEAR = 2 * (_SELF + 2 * _CROSS + [(256, 2048), (2048, 256)]) + _CROSS
NORMS = 2 * 4 + 1  # 256 wide


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # q and v of seven attentions: finetune-SAM, SAMed_s
        ({"name": "lora", "rank": 4}, 23_552),
        ({"name": "houlsby"}, 2 * 2 * 33_088),
        ({"name": "dora", "rank": 16}, sum(16 * (i + o) + o for i, o in DECODER_LINEAR)),
        ({"name": "svf"}, sum(map(min, DECODER_LINEAR))),
        ({"name": "ssam"}, 2 * sum(map(min, DECODER_LINEAR))),
        (
            {"name": "salt", "top": 64, "rank": 8},
            sum(2 * 64 + 2 * 8 * (min(io) - 64) for io in DECODER_LINEAR),
        ),
        ({"name": "ssf"}, sum(2 * o for _, o in DECODER_LINEAR) + NORMS * 2 * 256),
        ({"name": "layernorm"}, NORMS * 2 * 256),
        ({"name": "adaptformer", "hidden": 64}, 2 * (2 * 256 * 64 + 64 + 256 + 1)),
        # biases: attentions (q, k, v, out), MLP, four norms a block; the last attention and norm
        ({"name": "bias"}, 2 * (4 * 256 + 2 * (3 * 128 + 256) + 2048 + 5 * 256) + 3 * 128 + 512),
        ({"name": "blocks"}, 2 * (263_168 + 2 * 131_712 + 1_050_880 + 4 * 512) + 131_712 + 512),
        ({"name": "attention"}, 2 * (263_168 + 2 * 131_712) + 131_712),
        # factors shared by projections of one shape: 256 -> 256 and 256 -> 128
        (
            {"name": "fact", "rank": 16},
            16 * (256 + 256) + 16 * (256 + 128) + (2 * 3 + 1) * 2 * 16**2,
        ),
        ({"name": "sam_adapter"}, 0),
        ({"name": "pos_embed"}, 0),
        ({"name": "decoder_only"}, 0),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_decoder(config, expected):
    summary = adapt(build("vit_b"), build_method(config), decoder=config["name"])
    assert summary.components["decoder"][0] == expected


@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h", "lite_medsam"])
def test_every_method_fits_every_network(arch, name):
    net = build(arch)
    if (arch, name) == ("lite_medsam", "pos_embed"):
        with pytest.raises(ValueError, match="no absolute position embedding"):
            adapt(net, build_method({"name": name}))
        return
    summary = adapt(net, build_method({"name": name}), decoder=name)
    assert (summary.components["encoder"][0] > 0) == (name != "decoder_only")
    assert all(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])


@pytest.mark.parametrize(
    ("arch", "expected"), [("vit_b", 400_928), ("vit_l", 532_640), ("vit_h", 639_648)]
)
def test_published_counts_of_sam_adapter(arch, expected):
    summary = adapt(build(arch), build_method({"name": "sam_adapter"}), decoder="frozen")
    assert summary.components["encoder"][0] == expected


@pytest.mark.parametrize(("top", "rank"), [(760, 256), (500, 4), (50, 256), (410, 256)])
def test_published_settings_of_salt(top, rank):
    """2 k + 2 r (m - k), r cut to m - k: attention and MLP as released, and LoRA's counterpart."""
    method = build_method({"name": "salt", "top": top, "rank": rank})
    trainable, _ = adapt(build("vit_b"), method, decoder="frozen").components["encoder"]
    assert trainable == LINEAR * (2 * top + 2 * min(rank, D - top) * (D - top))

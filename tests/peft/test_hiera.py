"""Methods on SAM 2's Hiera, whose width changes inside a block and whose queries are pooled.

The laws of ``test_laws.py`` hold here too; this file has what only Hiera can show.
"""

import pytest
import torch
import torch.nn.functional as F

from samtune.networks import SamSegmenter
from samtune.networks.build import build_sam
from samtune.peft.adapt import adapt
from samtune.peft.lora import LoRA
from samtune.peft.places import find_places
from samtune.peft.registry import build_method
from samtune.peft.salt import SALT


def trained_names(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def test_every_method_trains_on_hiera(make_small, tiny_method, name):
    net = make_small("hiera")
    summary = adapt(net, tiny_method(name), decoder=name)
    assert summary.trainable > 0
    image = torch.randn(1, 3, 64, 64)
    label = torch.randint(0, 2, (1, 64, 64))
    F.cross_entropy(net.train()(image), label).backward()
    moving = {n for n, p in net.named_parameters() if p.grad is not None}
    assert moving == trained_names(net)
    if name != "decoder_only":  # the first update of a zero factor may leave the other's gradient 0
        assert any(net.get_parameter(n).grad.any() for n in moving if "image_encoder" in n)


def test_the_decoder_in_full_includes_its_high_resolution_convolutions(make_small):
    net = make_small("hiera")
    adapt(net, LoRA(rank=2), decoder="full")
    names = trained_names(net)
    for conv in ("conv_s0", "conv_s1"):  # published as parts of the decoder
        assert {f"image_encoder.{conv}.weight", f"image_encoder.{conv}.bias"} <= names
    assert "mask_decoder.obj_score_token.weight" in names
    assert not any("pred_obj_score_head" in n or "iou_prediction_head" in n for n in names)
    net = make_small("hiera")
    adapt(net, None, decoder="full")
    # all of the trunk is skipped, the projections behind it are trained
    assert net.frozen_prefix() == len(net.image_encoder.adapter_sites())


@torch.no_grad()
def test_lora_updates_the_pooled_queries_alone(make_small, randomise_factors):
    """Rows of q, k and v in the block that widens: dim 16 to 3 * 32."""
    net = make_small("hiera")
    qkv = net.image_encoder.blocks[1].attn.qkv
    assert (qkv.in_features, qkv.out_features) == (16, 96)
    x = torch.randn(2, 8, 8, 16)
    before = qkv(x)
    adapt(net, LoRA(rank=2, targets=("q",), blocks=[1]), decoder="frozen")
    randomise_factors(net)
    after = net.image_encoder.blocks[1].attn.qkv(x)
    assert not torch.isclose(after[..., :32], before[..., :32]).all()
    assert torch.equal(after[..., 32:], before[..., 32:])


def test_rows_of_the_fused_weight_are_what_attention_splits(make_small):
    """With v = 0 attention gives the output's bias; with q = 0 or k = 0 the window's mean."""
    net = make_small("hiera")
    attn = net.image_encoder.blocks[2].attn
    place = find_places(net).encoder[2].linears[0]
    x = torch.randn(1, 8, 8, attn.qkv.in_features)

    def out(role):
        weight, bias = attn.qkv.weight.detach().clone(), attn.qkv.bias.detach().clone()
        with torch.no_grad():
            attn.qkv.weight[place.rows[role]] = 0
            attn.qkv.bias[place.rows[role]] = 0
            result = attn(x)
            attn.qkv.weight.copy_(weight)
            attn.qkv.bias.copy_(bias)
        return result

    constant = attn.proj.bias.expand(1, 8, 8, -1)
    assert torch.allclose(out("v"), constant, atol=1e-6)
    for role in ("q", "k"):
        uniform = out(role)
        assert torch.allclose(uniform, uniform[:, :1, :1].expand_as(uniform), atol=1e-5)
        assert not torch.allclose(uniform, constant, atol=1e-2)


def test_s_sam_on_the_neck_adapts_its_four_convolutions(make_small, tiny_method):
    net = make_small("hiera")
    adapt(net, tiny_method("ssam", convs=["neck"]), decoder="frozen")
    modules = {name.rsplit(".", 1)[0] for name in trained_names(net) if "neck" in name}
    convs = {".".join(name.split(".")[:4]) for name in modules}
    assert convs == {f"image_encoder.neck.convs.{i}" for i in range(4)}


def test_mbconv_is_refused(make_small):
    with pytest.raises(ValueError, match="Hiera has no MBConv blocks, only TinyViT has"):
        adapt(make_small("hiera"), build_method({"name": "ssam", "convs": ["mbconv"]}))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "lora", "rank": 64}, r"rank .*64"),
        ({"name": "fact", "rank": 64}, r"rank .*64"),
        ({"name": "lora", "blocks": [5]}, r"blocks \[5\].* from 0 to 4"),
    ],
)
def test_what_does_not_fit_the_narrow_stage_is_refused(make_small, method, message):
    with pytest.raises(ValueError, match=message):
        adapt(make_small("hiera"), build_method(method))


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_counts_by_formula(size):
    """LoRA: r (in + out / 3) for each of q and v in every block of the published sizes."""
    dim, depths = {
        "tiny": (96, (1, 2, 7, 2)),
        "small": (96, (1, 2, 11, 2)),
        "base_plus": (112, (2, 3, 16, 3)),
        "large": (144, (2, 6, 36, 4)),
    }[size]
    expected = 0
    for stage, depth in enumerate(depths):
        width = dim * 2**stage
        first = width // 2 if stage else width  # the first block of a stage widens
        expected += 2 * 4 * (first + width) + (depth - 1) * 2 * 4 * 2 * width
    with torch.device("meta"):
        net = SamSegmenter(build_sam(f"sam2_{size}", "random"), 1)
    summary = adapt(net, LoRA(rank=4, targets=("q", "v")), decoder="frozen")
    assert summary.components["encoder"][0] == expected


@pytest.mark.parametrize(("top", "changed"), [(5, 5), (40, 15)])
@torch.no_grad()
def test_salt_in_a_layer_that_widens(make_small, top, changed):
    """qkv of block 1 is 16 -> 96: 16 singular values, of which at most 15 are changed."""
    net = make_small("hiera")
    adapt(net, SALT(top=top, rank=2), decoder="frozen")
    layer = net.image_encoder.blocks[1].attn.qkv
    counts = {n: layer.get_parameter(n).numel() for n in layer.adapter_parameter_names()}
    rest = 16 - changed
    # a scale and a shift for each, X (rest x r) and Y (r x rest)
    assert sum(counts.values()) == 2 * changed + 2 * min(2, rest) * rest

"""SamViT against ``segment_anything``'s own encoder, and the published sizes."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from samtune.networks import build_sam


def upstream(image_size):
    return ImageEncoderViT(
        img_size=image_size,
        patch_size=16,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=4,
        out_chans=256,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,  # a grid of 4 or 5: padded windows
        global_attn_indexes=(1,),
    ).eval()


@pytest.mark.parametrize("image_size", [64, 80])
def test_equals_upstream_with_the_same_weights(make_encoder, image_size):
    ours = make_encoder("sam_vit", image_size=image_size)
    reference = make_encoder("sam_vit", image_size=image_size, attention="reference")
    theirs = upstream(image_size)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(reference(x), theirs(x))


@pytest.mark.parametrize(
    ("arch", "total", "encoder"),
    [
        ("vit_b", 93_735_472, 89_670_912),
        ("vit_l", 312_342_832, 308_278_272),
        ("vit_h", 641_090_608, 637_026_048),
    ],
)
def test_parameter_counts(arch, total, encoder):
    with torch.device("meta"):
        sam = build_sam(arch, "random")
    assert sum(p.numel() for p in sam.parameters()) == total
    assert sum(p.numel() for p in sam.image_encoder.parameters()) == encoder


@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_those_of_upstreams_builder(arch):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = build_sam(arch, "random").state_dict()
        theirs = sam_model_registry[arch]().state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h"])
def test_global_blocks_are_those_of_upstreams_builder(arch):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = build_sam(arch, "random").image_encoder
        theirs = sam_model_registry[arch]().image_encoder
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert mine.window_size == other.window_size
        assert mine.attn.num_heads == other.attn.num_heads
        assert mine.norm1.eps == other.norm1.eps

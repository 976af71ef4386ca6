"""What every encoder promises to those who adapt it: its sites, its units, and the cut forward."""

import pytest
import torch
from torch import nn

kinds = pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])


def num_sites(encoder):
    return len(encoder.adapter_sites())


def names_in_graph(encoder, output):
    """Parameters that ``output`` depends on."""
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    grads = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return {name for name, grad in zip(names, grads, strict=True) if grad is not None}


@kinds
def test_sites_are_the_attention_blocks_in_forward_order(make_encoder, kind):
    encoder = make_encoder(kind)
    sites = encoder.adapter_sites()
    assert [site.index for site in sites] == list(range({"tiny_vit": 5, "sam_vit": 3}[kind]))
    called = []
    for site in sites:
        block = encoder.get_submodule(site.block)
        block.register_forward_hook(lambda _m, _i, _o, index=site.index: called.append(index))
    encoder(torch.rand(1, 3, 64, 64))
    assert called == [site.index for site in sites]


@kinds
def test_sites_name_fused_layers_inside_their_blocks(make_encoder, kind):
    encoder = make_encoder(kind)
    fused = {
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 3 * module.in_features
    }
    sites = encoder.adapter_sites()
    assert {site.qkv for site in sites} == fused
    for site in sites:
        assert site.qkv.startswith(site.block + ".")
        assert encoder.get_submodule(site.qkv).in_features % site.num_heads == 0
        assert site.layout == {"tiny_vit": "heads", "sam_vit": "qkv"}[kind]


def test_lite_medsam_has_ten_sites_with_the_published_heads():
    from samtune.networks import build_sam

    with torch.device("meta"):
        sites = build_sam("lite_medsam", "random").image_encoder.adapter_sites()
    assert [site.num_heads for site in sites] == [4] * 2 + [5] * 6 + [10] * 2
    assert sites[2].qkv == "layers.2.blocks.0.attn.qkv"


@pytest.mark.parametrize(
    ("kind", "size"),
    [("tiny_vit", (64, 64)), ("tiny_vit", (40, 72)), ("tiny_vit", (24, 24)), ("sam_vit", (64, 64))],
)
def test_prefix_then_suffix_is_forward_for_every_cut(make_encoder, kind, size):
    encoder = make_encoder(kind)
    x = torch.randn(2, 3, *size)
    expected = encoder(x)
    for cut in range(num_sites(encoder) + 2):
        features = encoder.forward_prefix(x, cut)
        assert features.ndim == 4
        assert torch.equal(encoder.forward_suffix(features, cut), expected), f"cut {cut}"


@kinds
def test_cached_prefix_of_a_batch_is_that_of_its_images(make_encoder, kind):
    """Without a graph a batch may be run image by image: the same up to rounding, none mixed up."""
    encoder = make_encoder(kind)
    x = torch.randn(3, 3, 64, 64)
    for cut in range(num_sites(encoder) + 2):
        with_graph = encoder.forward_prefix(x, cut)
        with torch.no_grad():
            batch = encoder.forward_prefix(x, cut)
            single = torch.cat([encoder.forward_prefix(image[None], cut) for image in x])
        assert (batch - with_graph).abs().max() < 1e-5 * with_graph.abs().max()
        assert (batch - single).abs().max() < 1e-5 * single.abs().max()


@kinds
def test_last_cut_holds_the_embedding_and_the_one_before_lacks_the_neck(make_encoder, kind):
    encoder = make_encoder(kind)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        n = num_sites(encoder)
        everything = encoder.forward_prefix(x, n + 1)
        assert torch.equal(everything.permute(0, 3, 1, 2), encoder(x))
        assert encoder.forward_prefix(x, n).shape[-1] == 24  # width of the last block


@kinds
def test_units_say_which_side_of_a_cut_every_parameter_is_on(make_encoder, kind):
    encoder = make_encoder(kind)
    names = {name for name, _ in encoder.named_parameters()}
    side = {"tiny_vit": 16, "sam_vit": 64}[kind]
    x = torch.randn(1, 3, side, side)
    for cut in range(num_sites(encoder) + 2):
        features = encoder.forward_prefix(x, cut)
        before = {name for name in names if encoder.unit_of(name) < cut}
        assert names_in_graph(encoder, features) == before
        if cut <= num_sites(encoder):
            out = encoder.forward_suffix(features.detach(), cut)
            assert names_in_graph(encoder, out) == names - before

"""Hiera: what it promises to those who adapt and cache it, and its independence of transformers."""

import copy
import runpy
import sys

import pytest
import torch
from torch import nn

from samtune.networks import build, sam2_decoder, sam2_encoder
from samtune.networks.sam2_encoder import Hiera, split_embedding

CUTS = range(7 + 2)


@pytest.fixture
def encoder(make_encoder):
    return make_encoder("hiera")


def names_in_graph(encoder, output):
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    grads = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return {name for name, grad in zip(names, grads, strict=True) if grad is not None}


def test_sites_are_the_blocks_in_forward_order(encoder):
    sites = encoder.adapter_sites()
    assert [site.index for site in sites] == list(range(7))
    called = []
    for site in sites:
        block = encoder.get_submodule(site.block)
        block.register_forward_hook(lambda _m, _i, _o, index=site.index: called.append(index))
    encoder(torch.rand(1, 3, 64, 64))
    assert called == list(range(7))


def test_sites_know_width_heads_and_stride_of_what_enters_a_block(encoder):
    seen = {}
    for site in encoder.adapter_sites():
        encoder.get_submodule(site.block).register_forward_pre_hook(
            lambda _m, args, index=site.index: seen.update({index: args[0].shape})
        )
    encoder(torch.rand(1, 3, 64, 64))
    stages = [0, 1, 1, 2, 2, 2, 3]
    for site, stage in zip(encoder.adapter_sites(), stages, strict=True):
        _, height, width, channels = seen[site.index]
        assert height == width == 64 // site.stride
        qkv = encoder.get_submodule(site.qkv)
        assert (qkv.in_features, qkv.out_features) == (channels, 3 * 16 * 2**stage)
        assert site.num_heads == 2 * 2**stage
        assert site.num_heads == encoder.get_submodule(site.attn).num_heads
        for path in (site.proj, site.lin1, site.lin2):
            assert isinstance(encoder.get_submodule(path), nn.Linear)
        norms = [encoder.get_submodule(path) for path in site.norms]
        assert [norm.normalized_shape for norm in norms] == [(channels,), (16 * 2**stage,)]
    assert [s.stride for s in encoder.adapter_sites()] == [4, 4, 8, 8, 16, 16, 16]


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_prefix_then_suffix_is_forward_for_every_cut(encoder, size):
    x = torch.randn(2, 3, *size)
    expected = encoder(x)
    assert expected.shape == (2, 1024, size[0] // 16, size[1] // 16)
    for cut in CUTS:
        features = encoder.forward_prefix(x, cut)
        assert features.ndim == 4
        found = encoder.forward_suffix(features, cut)
        # the same up to rounding: threads share sums otherwise in other shapes
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), f"cut {cut}"


def test_features_hold_each_finished_stage_once(encoder):
    """Numbers an image of 64 x 64: 16 * 16 tokens of 16 channels in stage 1, half as many later."""
    s1, s2, s3, s4 = 16**2 * 16, 8**2 * 32, 4**2 * 64, 2**2 * 128
    expected = [s1, s1, s1 + s2, s1 + s2, *[s1 + s2 + s3] * 3, s1 + s2 + s3 + s4]
    expected.append(4**2 * (256 + 4 * 64 + 16 * 32))
    with torch.no_grad():
        found = [encoder.forward_prefix(torch.randn(1, 3, 64, 64), cut).numel() for cut in CUTS]
    assert found == expected


def test_units_say_which_side_of_a_cut_every_parameter_is_on(encoder):
    names = {name for name, _ in encoder.named_parameters()}
    x = torch.randn(1, 3, 64, 64)
    for cut in CUTS:
        features = encoder.forward_prefix(x, cut)
        before = {name for name in names if encoder.unit_of(name) < cut}
        assert names_in_graph(encoder, features) == before
        if cut <= 7:
            out = encoder.forward_suffix(features.detach(), cut)
            # finished stages are in the features: nothing before the cut is needed again
            assert names_in_graph(encoder, out) == names - before


@torch.no_grad()
def test_a_batch_is_its_images(encoder):
    x = torch.randn(3, 3, 64, 64)
    batch = encoder(x)
    single = torch.cat([encoder(image[None]) for image in x])
    assert (batch - single).abs().max() < 1e-5 * single.abs().max()
    assert (batch[0] - batch[1]).abs().max() > 0.1 * batch.std()


@torch.no_grad()
def test_embedding_splits_into_maps_of_the_same_pixels(encoder):
    """A change of one corner of the image stays in that corner of the finest map."""
    x = torch.randn(1, 3, 64, 64)
    coarse, s1, s0 = split_embedding(encoder(x))
    assert (coarse.shape, s1.shape) == ((1, 256, 4, 4), (1, 64, 8, 8))
    assert s0.shape == (1, 32, 16, 16)
    changed = x.clone()
    changed[..., 40:, 40:] += 1
    difference = (split_embedding(encoder(changed))[2] - s0).abs().amax((0, 1))
    # stage 1 attends in windows of 8 x 8 tokens
    assert difference[8:, 8:].min() > 0
    assert difference[:8].max() == 0
    assert difference[:, :8].max() == 0


@torch.no_grad()
def test_copies_are_independent(encoder):
    x = torch.randn(1, 3, 64, 64)
    expected = encoder(x)
    twin = copy.deepcopy(encoder)
    for parameter in twin.parameters():
        parameter.mul_(1.1)
    assert torch.equal(encoder(x), expected)
    assert not torch.equal(twin(x), expected)


def test_attention_is_the_fused_kernel(encoder, monkeypatch):
    calls = []
    fused = nn.functional.scaled_dot_product_attention

    def count(*args, **options):
        calls.append(args[0].shape)
        return fused(*args, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", count)
    encoder(torch.randn(1, 3, 64, 64))
    assert len(calls) == 7


@pytest.mark.parametrize("size", [0, 16, 100])
def test_sides_are_multiples_of_32(size):
    with pytest.raises(ValueError, match=f"multiples of 32, got {size}"):
        Hiera(image_size=size, dim=16, depths=(1, 1, 1, 1), num_heads=2, global_blocks=())


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.sam2.modeling_sam2", None)
    with pytest.raises(ImportError, match=r'pip install "samtune\[sam2\]"'):
        Hiera(dim=16, depths=(1, 1, 1, 1), num_heads=2, global_blocks=())


@pytest.mark.parametrize("module", [sam2_encoder, sam2_decoder, build])
def test_importing_does_not_import_transformers(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert runpy.run_path(module.__file__)["__doc__"] == module.__doc__

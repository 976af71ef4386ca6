"""Bottleneck adapters: whole blocks written out with their adapters, in float64."""

import math

import pytest
import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import nn

from samtune.peft.adapt import adapt
from samtune.peft.bottleneck import AdaptFormer, Houlsby
from samtune.peft.protocol import NotMergeableError, adapted_modules

DOUBLE = torch.float64


def close(found, expected):
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)


@pytest.fixture
def adapt_net(make_small, randomise_adapters):
    """``adapt_net(kind, method, decoder)``: (network with random adapters, one without)."""

    def call(kind, method, decoder="frozen"):
        net, plain = make_small(kind).double(), make_small(kind).double()
        adapt(net, method, decoder=decoder)
        return randomise_adapters(net, 0.3), plain.requires_grad_(False)

    return call


def up_relu_down(x, p):
    return (x @ p["down.weight"].T + p["down.bias"]).relu() @ p["up.weight"].T + p["up.bias"]


def up_gelu_down(x, p):
    h = x @ p["down.weight"].T + p["down.bias"]
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    return h @ p["up.weight"].T + p["up.bias"]


def parts_of(module):
    """Tensors of the adapters below ``module``, by the adapter's name."""
    found = {}
    for path, adapter in adapted_modules(module):
        found[path] = {name: p.detach() for name, p in adapter.named_parameters()}
    return found


def sam_block(block, x, behind_attention, beside_mlp):
    """SAM's block with changes of the attention's output and beside the MLP."""
    h, window = block.norm1(x), block.window_size
    if window:
        size = h.shape[1:3]
        h, padded = window_partition(h, window)
    h = behind_attention(block.attn(h))
    if window:
        h = window_unpartition(h, window, padded, size)
    x = x + h
    normed = block.norm2(x)
    return x + block.mlp(normed) + beside_mlp(normed)


def tiny_block(block, x, behind_attention, beside_mlp):
    """TinyViT's block likewise; one window, as large as the features."""
    size = x.shape
    x = x + behind_attention(block.attn(x.flatten(1, 2))).view(size)
    x = block.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + block.mlp(x) + beside_mlp(block.mlp.norm(x))


def blocks(kind, net):
    """(block, features that it may get) for each block."""
    for site in net.image_encoder.adapter_sites():
        block = net.image_encoder.get_submodule(site.block)
        side, width = (
            (4, 24) if kind == "sam_vit" else (block.window, block.mlp.norm.weight.numel())
        )
        yield block, torch.randn(2, side, side, width, dtype=DOUBLE)


written = pytest.mark.parametrize(
    ("kind", "write"), [("sam_vit", sam_block), ("tiny_vit", tiny_block)]
)


@written
def test_adaptformer(adapt_net, kind, write):
    """x + MLP(LN x) + s up(ReLU(down(LN x)))."""
    net, plain = adapt_net(kind, AdaptFormer(hidden=5, scale=0.7))
    for (block, x), (frozen, _) in zip(blocks(kind, net), blocks(kind, plain), strict=True):
        ((_, p),) = parts_of(block).items()
        assert p["down.weight"].shape == (5, x.shape[-1])
        expected = write(frozen, x, lambda h: h, lambda h, p=p: p["scale"] * up_relu_down(h, p))
        close(block(x), expected)
        assert (expected - frozen(x)).abs().max() > 1e-2


def test_factor_of_adaptformer_starts_as_given_and_is_trained(make_small):
    net = make_small()
    for path in adapt(net, AdaptFormer(hidden=5, scale=0.7)).adapted:
        scale = net.get_submodule(path).scale
        assert isinstance(scale, nn.Parameter)
        assert scale.requires_grad
        assert scale.detach().tolist() == pytest.approx([0.7])


@written
def test_houlsby(adapt_net, kind, write):
    """A(h) = h + up(GELU(down h)) on the attention's output, 0.4 up(GELU(down)) by the MLP."""
    net, plain = adapt_net(kind, Houlsby(ratio=0.5, mlp_scale=0.4))
    for (block, x), (frozen, _) in zip(blocks(kind, net), blocks(kind, plain), strict=True):
        parts = parts_of(block)
        (attn,) = (p for name, p in parts.items() if name.startswith("attn."))
        (mlp,) = (p for name, p in parts.items() if name.startswith("mlp."))
        assert attn["down.weight"].shape == mlp["down.weight"].shape
        assert attn["down.weight"].shape == (x.shape[-1] // 2, x.shape[-1])
        expected = write(
            frozen,
            x,
            lambda h, p=attn: h + up_gelu_down(h, p),
            lambda h, p=mlp: 0.4 * up_gelu_down(h, p),
        )
        close(block(x), expected)
        assert (expected - frozen(x)).abs().max() > 1e-2


def decoder_layer(layer, queries, keys, query_pe, key_pe, between, beside_mlp):
    """SAM's two-way block; ``between`` acts on what enters norm2 and norm4."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        q = queries + query_pe
        queries = queries + layer.self_attn(q=q, k=q, v=queries)
    queries = layer.norm1(queries)
    attended = layer.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
    queries = layer.norm2(between(queries + attended))
    queries = layer.norm3(queries + layer.mlp(queries) + beside_mlp(queries))
    attended = layer.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
    return queries, layer.norm4(between(keys + attended))


@pytest.mark.parametrize(
    ("method", "activation"), [(Houlsby(), up_gelu_down), (AdaptFormer(hidden=6), up_relu_down)]
)
def test_adapters_of_the_decoder(adapt_net, method, activation):
    net, plain = adapt_net("sam_vit", method, decoder=method.name)
    layers = net.mask_decoder.transformer.layers
    for layer, frozen in zip(layers, plain.mask_decoder.transformer.layers, strict=True):
        args = [torch.randn(2, n, 256, dtype=DOUBLE) for n in (3, 8, 3, 8)]
        parts = parts_of(layer)
        (mlp,) = (p for name, p in parts.items() if name.startswith("mlp."))
        others = [p for name, p in parts.items() if not name.startswith("mlp.")]
        if method.name == "houlsby":
            ((shared),) = others

            def between(h, p=shared):
                return h + activation(h, p)

            factor = 0.5
        else:
            assert not others

            def between(h):
                return h

            factor = mlp["scale"]
        expected = decoder_layer(
            frozen, *args, between, lambda h, p=mlp, f=factor: f * activation(h, p)
        )
        for found, tensor in zip(layer(*args), expected, strict=True):
            close(found, tensor)
        for tensor, other in zip(expected, frozen(*args), strict=True):
            assert (tensor - other).abs().max() > 1e-2


def test_last_attention_of_the_decoder_has_no_adapter(make_small):
    net = make_small()
    adapt(net, Houlsby(), decoder="houlsby")
    assert not list(adapted_modules(net.mask_decoder.transformer.final_attn_token_to_image))


def test_down_is_as_pytorch_makes_it_and_up_zero(make_small):
    net = make_small("sam_vit")
    for path in adapt(net, AdaptFormer(hidden=400)).adapted:
        adapter = net.get_submodule(path)
        bound = 1 / math.sqrt(24)
        for tensor in (adapter.down.weight, adapter.down.bias):
            values = tensor.detach()
            assert 0.98 * bound < values.abs().max() <= bound
            assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not adapter.up.weight.any()
        assert not adapter.up.bias.any()


@pytest.mark.parametrize("method", [AdaptFormer(hidden=5), Houlsby()])
def test_generator_makes_adapters_repeatable(make_small, method):
    def values(seed):
        net = make_small()
        generator = torch.Generator().manual_seed(seed)
        paths = adapt(net, method, generator=generator).adapted
        return [net.get_submodule(path).down.weight for path in paths]

    assert all(torch.equal(a, b) for a, b in zip(values(1), values(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(values(1), values(2), strict=True))
    first, *others = (v for v in values(1) if v.shape[1] == 24)
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("method", [AdaptFormer(hidden=0), Houlsby(ratio=0.01)])
def test_no_hidden_width(make_small, method):
    with pytest.raises(ValueError, match="hidden width must be at least 1, got 0"):
        adapt(make_small(), method)


@pytest.mark.parametrize("method", [AdaptFormer(hidden=5), Houlsby()])
def test_an_adapter_alone_is_not_mergeable(make_small, method):
    net = make_small()
    for path in adapt(net, method).adapted:
        with pytest.raises(NotMergeableError, match="not mergeable"):
            net.get_submodule(path).merge()

"""Convolutions under methods for linear layers, against a convolution with the dense weight."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samtune.networks.tiny_vit import ConvBN
from samtune.peft.adapt import adapt, merge_adapters
from samtune.peft.conv import AdaptedConv2d
from samtune.peft.registry import build_method

DOUBLE = torch.float64
METHODS = [
    {"name": "lora", "rank": 2},
    {"name": "lora", "rank": 2, "start": "pissa"},
    {"name": "dora", "rank": 2},
    {"name": "salt", "top": 2, "rank": 2},
    {"name": "ssam", "relu": True},
    {"name": "svf"},
]
methods = pytest.mark.parametrize("config", METHODS, ids=lambda c: "-".join(map(str, c.values())))
kinds = pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
convolutions = pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": "same", "bias": False},
    ],
    ids=str,
)


def wrapper(config):
    method = build_method(config)
    if config["name"] in ("lora", "dora"):
        return lambda linear: method.wrap(linear, None, None)
    return lambda linear: method.wrap(linear, None)


def move(layer, scale=0.3):
    with torch.no_grad():
        for name in layer.adapter_parameter_names():
            parameter = layer.get_parameter(name)
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return layer


def linear_twin(layer, config, base):
    """The method on a linear layer with the same numbers: its own tests hold it to its formula."""
    flat = base.weight.detach().flatten(1)
    linear = nn.Linear(flat.shape[1], flat.shape[0], bias=False, dtype=flat.dtype)
    linear.weight = nn.Parameter(flat.clone())
    twin = wrapper(config)(linear)
    with torch.no_grad():
        for name in twin.adapter_parameter_names():
            twin.get_parameter(name).copy_(layer.get_parameter(f"matrix.{name}"))
    return twin


@methods
@convolutions
def test_convolves_with_the_linear_layer_s_weight(config, options):
    base = nn.Conv2d(4, 5, dtype=DOUBLE, **options)
    plain = copy.deepcopy(base)
    layer = move(AdaptedConv2d(base, wrapper(config)))
    weight = linear_twin(layer, config, plain).merge().weight.view_as(plain.weight)
    assert (weight - plain.weight).abs().max() > 1e-2
    x = torch.randn(2, 4, 9, 8, dtype=DOUBLE)
    expected = plain._conv_forward(x, weight, plain.bias)
    torch.testing.assert_close(layer(x), expected)
    merged = layer.merge()
    assert type(merged) is nn.Conv2d
    torch.testing.assert_close(merged(x), expected)
    assert (merged.bias is None) == (plain.bias is None)


@methods
def test_gradients(config):
    layer = move(AdaptedConv2d(nn.Conv2d(3, 4, 2, dtype=DOUBLE), wrapper(config)))
    trained = [layer.get_parameter(n).requires_grad_(True) for n in layer.adapter_parameter_names()]
    assert {id(p) for p in layer.parameters() if p.requires_grad} == {id(p) for p in trained}
    x = torch.randn(1, 3, 4, 4, dtype=DOUBLE, requires_grad=True)
    if config["name"] == "dora":  # its norms are constants in the backward pass, by definition
        grads = torch.autograd.grad(layer(x).sum(), trained)
        assert all(g.any() for g in grads)
        return
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *trained))


def test_lora_is_two_convolutions():
    """conv(x, W) + s B conv(x, A): the factored form of the definition."""
    config = {"name": "lora", "rank": 2, "alpha": 6.0}
    base = nn.Conv2d(4, 5, 3, stride=2, padding=1, dtype=DOUBLE)
    layer = move(AdaptedConv2d(base, wrapper(config)))
    a = layer.matrix.lora_a.view(2, 4, 3, 3)
    b = layer.matrix.lora_b.view(5, 2, 1, 1)
    x = torch.randn(2, 4, 7, 6, dtype=DOUBLE)
    low = F.conv2d(x, a, stride=2, padding=1)
    expected = F.conv2d(x, layer.weight, layer.bias, 2, 1) + 3 * F.conv2d(low, b)
    torch.testing.assert_close(layer(x), expected)


@methods
@kinds
@torch.no_grad()
def test_in_networks(make_small, kind, config):
    names = ["neck", "mbconv"] if kind == "tiny_vit" else ["neck"]
    net, plain = make_small(kind), make_small(kind)
    image = torch.randn(1, 1, net.image_size, net.image_size)
    expected = plain(image)
    method = build_method({**config, "convs": names, "blocks": "last:1"})
    summary = adapt(net, method, decoder="frozen")
    convs = [path for path in summary.adapted if isinstance(net.get_submodule(path), nn.Conv2d)]
    assert len(convs) == (4 if kind == "tiny_vit" else 2)
    assert (net(image) - expected).abs().max() <= 1e-5 * expected.abs().max()
    for path in convs:
        before = net(image)
        move(net.get_submodule(path), 0.1)
        assert not torch.equal(net(image), before), path
    moved = net(image)
    merge_adapters(net)
    assert (net(image) - moved).abs().max() <= 1e-4 * moved.abs().max()
    plain.load_state_dict(net.state_dict(), strict=True)
    assert (plain(image) - moved).abs().max() <= 1e-4 * moved.abs().max()


def test_nothing_is_cached_where_the_first_stage_is_adapted(make_small):
    net = make_small("tiny_vit")
    adapt(net, build_method({"name": "lora", "convs": ["mbconv"], "blocks": "last:1"}))
    assert net.frozen_prefix() == -1
    net = make_small("tiny_vit")
    adapt(net, build_method({"name": "lora", "rank": 2, "convs": ["neck"], "blocks": "last:1"}))
    assert net.frozen_prefix() == len(net.image_encoder.adapter_sites()) - 1


def test_batch_norm_folds_the_changed_weight():
    layer = ConvBN(3, 4).eval()
    nn.init.uniform_(layer.bn.running_var, 0.5, 2)
    plain = copy.deepcopy(layer)
    layer.c = move(AdaptedConv2d(layer.c, wrapper(METHODS[0])))
    plain.c = layer.c.merge()
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(layer(x), plain(x))
    assert not torch.allclose(layer(x), F.conv2d(x, layer.c.weight))


def test_depthwise_is_refused():
    with pytest.raises(ValueError, match="in 4 groups"):
        AdaptedConv2d(nn.Conv2d(4, 4, 3, groups=4), wrapper(METHODS[0]))


@pytest.mark.parametrize("convs", [["nek"], ["neck", "neck"]])
def test_unknown_convolutions(convs):
    with pytest.raises(ValueError, match="convs must be among neck, mbconv, each at most once"):
        build_method({"name": "lora", "convs": convs})


def test_mbconv_of_sam_vit_is_refused(make_small):
    with pytest.raises(ValueError, match="no MBConv blocks, only TinyViT"):
        adapt(make_small("sam_vit"), build_method({"name": "lora", "convs": ["mbconv"]}))


def test_two_methods_on_one_convolution_are_refused(make_small):
    methods = [
        build_method({"name": "lora", "targets": ["q"], "rank": 2, "convs": ["neck"]}),
        build_method({"name": "ssam", "targets": ["mlp"], "convs": ["neck"]}),
    ]
    with pytest.raises(ValueError, match="disjoint"):
        adapt(make_small("sam_vit"), methods)

"""The ways in which spectral layers are computed give one result, and its gradients."""

import pytest
import torch
from torch import nn

from samtune.peft.salt import SALTLinear
from samtune.peft.spectral import SpectralLinear

DOUBLE = torch.float64


def close(found, expected):
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-10 * float(expected.detach().abs().max())
    )


def svd(weight):
    return torch.linalg.svd(weight.detach(), full_matrices=False)


def values_of(basis, s):
    """S + d of the adapted values."""
    s = s[: basis.top]
    return s + basis.delta if hasattr(basis, "delta") else basis.scale * s + basis.shift


def move(layer):
    """Random adapters; one of the changed singular values is below zero."""
    with torch.no_grad():
        for name in layer.adapter_parameter_names():
            parameter = layer.get_parameter(name)
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        basis = layer.basis
        (basis.delta if hasattr(basis, "delta") else basis.shift)[0] -= 9
    assert (values_of(basis, basis.s) < 0).any()
    return layer


def assert_same_with_gradients(layer, x, dense):
    """Outputs, and gradients of the input, the bias and all adapter parameters."""
    x = x.requires_grad_()
    layer.bias.requires_grad_()
    wanted = [x, layer.bias, *(layer.get_parameter(n) for n in layer.adapter_parameter_names())]
    found, expected = layer(x), dense(x)
    close(found, expected)
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((found * weights).sum(), wanted)
    for a, b in zip(found, torch.autograd.grad((expected * weights).sum(), wanted), strict=True):
        close(a, b)


def make_spectral(shape, *, pair, relu, bias=True):
    base = nn.Linear(*shape, bias=bias, dtype=DOUBLE)
    return move(SpectralLinear(base, pair=pair, relu=relu))


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "single"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "plain"])
@pytest.mark.parametrize(
    ("shape", "tokens", "rebuilt"),
    [
        ((6, 6), (2, 3), False),
        ((6, 6), (5, 2, 8), True),
        ((6, 8), (90,), True),
        ((8, 6), (90,), True),
        ((4, 12), (90,), False),
    ],
)
def test_spectral_linear(pair, relu, shape, tokens, rebuilt):
    layer = make_spectral(shape, pair=pair, relu=relu)
    x = torch.randn(*tokens, shape[0], dtype=DOUBLE)
    assert layer.rebuilds(x[..., 0].numel()) == rebuilt
    u, s, vh = svd(layer.weight)

    def dense(x):
        values = values_of(layer.basis, s)
        return x @ (u @ torch.diag(values.relu() if relu else values) @ vh).T + layer.bias

    assert_same_with_gradients(layer, x, dense)


def test_spectral_linear_rebuilt_without_bias_and_input_gradient():
    layer = make_spectral((6, 6), pair=False, relu=False, bias=False)
    x = torch.randn(50, 6, dtype=DOUBLE)
    assert layer.rebuilds(50)
    u, s, vh = svd(layer.weight)
    layer(x).square().sum().backward()
    found = layer.basis.delta.grad.clone()
    delta = layer.basis.delta.detach().requires_grad_()
    (x @ (u @ torch.diag(s + delta) @ vh).T).square().sum().backward()
    close(found, delta.grad)


def test_no_tokens():
    """A layer that sees no window or prompt passes nothing on."""
    layer = make_spectral((6, 6), pair=True, relu=False)
    assert layer(torch.zeros(0, 6, dtype=DOUBLE)).shape == (0, 6)


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "single"])
@pytest.mark.parametrize("reference", [False, True], ids=["clean", "reference"])
@pytest.mark.parametrize(
    ("shape", "top", "in_basis"),
    [((12, 10), 2, False), ((12, 10), 8, True), ((5, 9), 4, True), ((9, 7), 1, False)],
)
def test_salt_linear(pair, reference, shape, top, in_basis):
    base = nn.Linear(*shape, dtype=DOUBLE)
    layer = SALTLinear(base, top=top, rank=2, scale=1.7, pair=pair, reference=reference)
    move(layer)
    assert layer.in_basis() == in_basis
    u, s, vh = svd(layer.weight)
    sign = torch.gather(u, 0, u.abs().argmax(0)[None])[0].sign()
    u, vh = u * sign, vh * sign[:, None]
    m = len(s)

    def dense(x):
        middle = torch.zeros(m, m, dtype=DOUBLE)
        middle[:top, :top] = torch.diag(values_of(layer.basis, s))
        middle[top:, top:] = torch.diag(s[top:]) + 1.7 * layer.salt_x @ layer.salt_y
        return x @ (u @ (middle.relu() if reference else middle) @ vh).T + layer.bias

    assert_same_with_gradients(layer, torch.randn(3, 4, shape[0], dtype=DOUBLE), dense)


@pytest.mark.parametrize("top", [0, -1, 5, 6])
def test_top_out_of_range_names_the_limits(top):
    with pytest.raises(ValueError, match=rf"top must be in \[1, 4\] for a 5->9 layer, got {top}"):
        SALTLinear(nn.Linear(5, 9), top=top, rank=1)


@pytest.mark.parametrize("rank", [0, -2])
def test_rank_of_salt_out_of_range(rank):
    with pytest.raises(ValueError, match=f"rank must be at least 1, got {rank}"):
        SALTLinear(nn.Linear(5, 9), top=1, rank=rank)

"""Methods that change weights: each adapted layer against a dense formula in float64.

The formulas take the adapter's parameters by name and the weights of a network that was never
adapted.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samtune.peft.adapt import adapt
from samtune.peft.dora import DoRA
from samtune.peft.fact import FacT
from samtune.peft.lora import LoRA, lora_plus_groups
from samtune.peft.salt import SALT
from samtune.peft.spectral import SSAM, SVF
from samtune.peft.ssf import SSF

DOUBLE = torch.float64
WHOLE = ("qkv", "proj", "mlp")
kinds = pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])


def close(found, expected):
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-10 * float(expected.detach().abs().max())
    )


@pytest.fixture
def adapt_one(make_small, randomise_adapters):
    """``adapt_one(kind, method)``: (path, adapted layer with random adapters, frozen twin)."""

    def call(kind, method, decoder="frozen", scale=0.2):
        net, plain = make_small(kind).double(), make_small(kind).double()
        summary = adapt(net, method, decoder=decoder)
        randomise_adapters(net, scale)
        return [
            (path, net.get_submodule(path), plain.get_submodule(path)) for path in summary.adapted
        ]

    return call


def assert_layer_is(layer, plain, weight, bias=None):
    """``layer`` and what it merges to compute x W^T + b, which is not the frozen layer."""
    x = torch.randn(2, 3, plain.in_features, dtype=DOUBLE)
    expected = x @ weight.T + (plain.bias if bias is None else bias)
    close(layer(x), expected)
    close(layer.merge()(x), expected)
    assert (expected - plain(x)).abs().max() > 1e-2


def rows_of(kind, path, out_features):
    """Rows of queries, keys and values: SAM [q | k | v], TinyViT [q_h, k_h, v_h] a head."""
    if kind == "sam_vit":
        return dict(zip("qkv", np.split(np.arange(out_features), 3), strict=True))
    heads = {36: 3, 60: 5, 72: 2}[out_features]  # num_heads of the stages 12, 20 and 24 wide
    rows = np.arange(out_features).reshape(heads, 3, -1)
    return {name: rows[:, i].flatten() for i, name in enumerate("qkv")}


def groups_of(kind, path, targets, out_features):
    """Groups of output rows that ``targets`` name in the layer at ``path``."""
    if not path.endswith("qkv") or "qkv" in targets:
        return [np.arange(out_features)]
    rows = rows_of(kind, path, out_features)
    return [rows[target] for target in targets if target in "qkv"]


def signed_svd(weight):
    """U, S, V^T; the entry of largest magnitude in each column of U is positive."""
    u, s, vh = torch.linalg.svd(weight.detach(), full_matrices=False)
    sign = u[u.abs().argmax(0), torch.arange(len(s))].sign()
    return u * sign, s, vh * sign[:, None]


# low rank: W + s B A


@kinds
@pytest.mark.parametrize(
    ("method", "scale"),
    [
        (LoRA(rank=4, alpha=6.0, targets=("qkv",)), 6 / 4),
        (LoRA(rank=4, alpha=6.0, targets=("qkv",), rslora=True), 6 / math.sqrt(4)),
        (LoRA(rank=4, targets=("qkv",), rslora=True), 1.0),
    ],
    ids=["lora", "rslora", "rslora-no-alpha"],
)
def test_scale_of_lora(adapt_one, kind, method, scale):
    for _, layer, plain in adapt_one(kind, method):
        assert_layer_is(layer, plain, plain.weight + scale * layer.lora_b @ layer.lora_a)


def test_lora_plus_multiplies_the_rate_of_b_alone(make_small):
    net = make_small()
    adapt(net, [LoRA(rank=2), SSF(targets=("proj",))], decoder="full")
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    groups = lora_plus_groups(net.named_parameters(), lr=1e-3, ratio=16)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(trained)
    for name, p in trained.items():
        assert rates[id(p)] == pytest.approx(16e-3 if name.endswith("lora_b") else 1e-3), name
    assert sum(name.endswith("lora_b") for name in trained) == 5


def test_lora_plus_needs_b(make_small):
    net = make_small()
    adapt(net, SSF())
    with pytest.raises(ValueError, match=r"LoRA\+ needs"):
        lora_plus_groups(net.named_parameters(), lr=1e-3, ratio=16)


# DoRA: W' = m V / |V| by rows, V = W + s B A


@kinds
@pytest.mark.parametrize("targets", [WHOLE, ("v", "q"), ("k", "lin1")])
def test_dora(adapt_one, kind, targets):
    layers = adapt_one(kind, DoRA(rank=3, alpha=4.5, targets=targets, blocks="last:2"))
    assert len(layers) == 2 * {3: 4, 2: 1 + ("lin1" in targets)}[len(targets)]
    for path, layer, plain in layers:
        groups = groups_of(kind, path, targets, plain.out_features)
        weight, row = plain.weight.clone(), 0
        for g, rows in enumerate(groups):
            part = slice(row, row + len(rows))
            v = plain.weight[rows] + 4.5 / 3 * layer.lora_b[part] @ layer.lora_a[3 * g : 3 * g + 3]
            weight[rows] = layer.magnitude[part, None] * v / v.norm(dim=1, keepdim=True)
            row += len(rows)
        assert_layer_is(layer, plain, weight)


def test_magnitudes_of_dora_start_at_the_norms_of_the_rows(make_small):
    net = make_small().double()
    for path in adapt(net, DoRA(rank=2)).adapted:
        layer = net.get_submodule(path)
        close(layer.magnitude, layer.weight.norm(dim=1))


def test_gradients_of_dora_hold_the_norm_constant(adapt_one):
    _, layer, plain = adapt_one("sam_vit", DoRA(rank=3))[0]
    x, factors = torch.randn(4, 24, dtype=DOUBLE), (layer.lora_a, layer.lora_b, layer.magnitude)
    v = plain.weight + layer.lora_b @ layer.lora_a
    weight = layer.magnitude[:, None] * v / v.norm(dim=1, keepdim=True).detach()
    found = torch.autograd.grad(layer(x).square().sum(), factors)
    expected = torch.autograd.grad((x @ weight.T + plain.bias).square().sum(), factors)
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def test_dropout_of_dora_spares_the_frozen_layer(adapt_one):
    """x W^T + b + drop(x) (W' - W)^T: the frozen layer where all of x is dropped."""
    _, layer, plain = adapt_one("sam_vit", DoRA(rank=3, dropout=1.0))[0]
    x = torch.randn(4, 24, dtype=DOUBLE)
    close(layer.train()(x), plain(x))
    close(layer.eval()(x), layer.merge()(x))


def test_dropout_of_dora_keeps_the_mean(adapt_one):
    _, layer, _ = adapt_one("sam_vit", DoRA(rank=3, dropout=0.5))[0]
    x = torch.randn(1, 24, dtype=DOUBLE)
    draws = layer.train()(x.expand(20_000, 24))
    error = draws.std(0) / math.sqrt(20_000)
    assert (error > 0).all()
    assert ((draws.mean(0) - layer.merge()(x)[0]).abs() < 5 * error).all()


# SALT: W + U_k diag(d) V_k^T + s U_r X Y V_r^T


def change(basis, s):
    """d: one value, or (scale - 1) S + shift."""
    if hasattr(basis, "delta"):
        return basis.delta
    return (basis.scale - 1) * s[: len(basis.scale)] + basis.shift


@kinds
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "single"])
@pytest.mark.parametrize("top", [2, 10])
@pytest.mark.parametrize("decoder", ["frozen", "salt"])
def test_salt(adapt_one, kind, pair, top, decoder):
    method = SALT(top=top, rank=2, alpha=3.0, pair=pair, blocks="last:1")
    layers = adapt_one(kind, method, decoder)
    # of the decoder: q, k, v and output of seven attentions, two MLPs
    assert len(layers) == 4 + (7 * 4 + 2 * 2 if decoder == "salt" else 0)
    for _, layer, plain in layers[:: 5 if decoder == "salt" else 1]:
        u, s, vh = signed_svd(plain.weight)
        update = u[:, :top] @ torch.diag(change(layer.basis, s)) @ vh[:top]
        rest = 3 / 2 * u[:, top:] @ layer.salt_x @ layer.salt_y @ vh[top:]
        assert_layer_is(layer, plain, plain.weight + update + rest)


@kinds
def test_salt_as_released(adapt_one, kind):
    """U relu(M) V^T: M holds diag(scale S + shift) and diag(S_r) + X Y, both clipped entrywise."""
    for _, layer, plain in adapt_one(kind, SALT(top=5, rank=3, reference=True, blocks="last:1")):
        u, s, vh = signed_svd(plain.weight)
        middle = torch.zeros(len(s), len(s), dtype=DOUBLE)
        middle[:5, :5] = torch.diag(layer.basis.scale * s[:5] + layer.basis.shift)
        middle[5:, 5:] = torch.diag(s[5:]) + layer.salt_x @ layer.salt_y
        assert (middle < 0).any()
        assert_layer_is(layer, plain, u @ middle.relu() @ vh)


def test_salt_as_released_starts_at_random(make_small):
    net = make_small()
    for path in adapt(net, SALT(top=5, rank=7, reference=True)).adapted:
        layer = net.get_submodule(path)
        for factor in (layer.salt_x, layer.salt_y):
            assert 0.005 < float(factor.detach().std()) < 0.015


@pytest.mark.parametrize(("top", "rank"), [(20, 8), (23, 1), (23, 8)])
def test_rank_of_salt_is_cut_where_few_directions_are_left(make_small, top, rank):
    """The published setting: 760 of 768 values and rank 256 leave X 8 x 8 (definitions, 1.3)."""
    net = make_small("sam_vit")
    for path in adapt(net, SALT(top=top, rank=rank)).adapted:
        layer = net.get_submodule(path)
        assert layer.basis.scale.shape == (top,)
        assert layer.salt_x.shape == (24 - top, min(rank, 24 - top))


# S-SAM and SVF: U diag(S + d) V^T


@kinds
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("method", [SSAM, SVF])
def test_spectral(adapt_one, kind, relu, method):
    clipped = 0
    for _, layer, plain in adapt_one(kind, method(relu=relu, blocks="last:2"), scale=0.5):
        u, s, vh = signed_svd(plain.weight)
        values = s + change(layer.basis, s)
        clipped += int((values < 0).sum())
        assert_layer_is(layer, plain, u @ torch.diag(values.relu() if relu else values) @ vh)
    assert clipped > 0


@kinds
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_spectral_neck(adapt_one, kind, relu):
    layers = adapt_one(kind, SSAM(convs=("neck",), relu=relu, blocks="last:0"), scale=0.5)
    assert [plain.weight.shape[1:] for _, _, plain in layers] == [(24, 1, 1), (256, 3, 3)]
    for _, layer, plain in layers:
        u, s, vh = signed_svd(plain.weight.flatten(1))
        basis = layer.matrix.basis
        values = basis.scale * s + basis.shift
        weight = u @ torch.diag(values.relu() if relu else values) @ vh
        x = torch.randn(2, plain.in_channels, 5, 4, dtype=DOUBLE)
        padding = plain.kernel_size[0] // 2
        expected = F.conv2d(x, weight.view_as(plain.weight), plain.bias, padding=padding)
        close(layer(x), expected)
        close(layer.merge()(x), expected)
        assert (expected - plain(x)).abs().max() > 1e-2


# FacT: W_g + s V C_g U, U and V shared by the blocks of one width


@kinds
@pytest.mark.parametrize("targets", [("q", "v"), ("k",), ("v", "k", "q")])
def test_fact(adapt_one, kind, targets):
    layers = adapt_one(kind, FacT(rank=3, scale=1.5, targets=targets))
    shared = {}
    for path, layer, plain in layers:
        u, v = shared.setdefault(plain.in_features, (layer.fact_u, layer.fact_v))
        weight = plain.weight.clone()
        for core, rows in zip(
            layer.fact_cores, groups_of(kind, path, targets, plain.out_features), strict=True
        ):
            weight[rows] += 1.5 * v @ core @ u
        assert_layer_is(layer, plain, weight)
    assert set(shared) == {"sam_vit": {24}, "tiny_vit": {12, 20, 24}}[kind]


def test_fact_has_one_pair_of_outer_factors(make_small):
    net = make_small("sam_vit")
    summary = adapt(net, FacT(rank=3), decoder="frozen")
    assert summary.components["encoder"][0] == 3 * 24 + 24 * 3 + 3 * 2 * 3 * 3


def test_dropout_of_fact_acts_on_the_update(adapt_one):
    _, layer, plain = adapt_one("sam_vit", FacT(rank=3, dropout=1.0))[0]
    x = torch.randn(4, 24, dtype=DOUBLE)
    close(layer.train()(x), plain(x))
    close(layer.eval()(x), layer.merge()(x))


def test_dropout_of_fact_acts_between_the_factors(adapt_one):
    """With rank 1 there is one number to drop: all of the update, or none."""
    _, layer, plain = adapt_one("sam_vit", FacT(rank=1, dropout=0.5))[0]
    x = torch.randn(1, 24, dtype=DOUBLE)
    update = 2 * (layer.merge()(x) - plain(x))
    found = (layer.train()(x.expand(50, 24)) - plain(x)) @ update[0] / update.square().sum()
    assert torch.minimum(found.abs(), (found - 1).abs()).max() < 1e-9
    assert 0 < found.mean() < 1


# SSF: gamma layer(x) + beta


@kinds
def test_ssf(adapt_one, kind):
    layers = adapt_one(kind, SSF(blocks="last:2"))
    norms = 0
    for _, layer, plain in layers:
        gamma, beta = layer.ssf_scale, layer.ssf_shift
        if isinstance(plain, torch.nn.Linear):
            bias = gamma * plain.bias + beta
            assert_layer_is(layer, plain, gamma[:, None] * plain.weight, bias)
            continue
        norms += 1
        x = torch.randn(2, 3, *plain.normalized_shape, dtype=DOUBLE)
        normed = (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, correction=0, keepdim=True) + plain.eps
        ) ** 0.5
        expected = gamma * (normed * plain.weight + plain.bias) + beta
        close(layer(x), expected)
        close(layer.merge()(x), expected)
    assert (len(layers), norms) == (12, 4)


@pytest.mark.parametrize("method", [SALT, SSAM, SVF, SSF])
@pytest.mark.parametrize("targets", [("q",), ("qkv", "v")])
def test_methods_of_whole_layers_refuse_slices(method, targets):
    with pytest.raises(ValueError, match=r"targets must be among qkv, proj, lin1, lin2, mlp, got"):
        method(targets=targets)


@pytest.mark.parametrize("targets", [("qkv",), ("q", "proj")])
def test_fact_refuses_what_is_not_a_slice(targets):
    with pytest.raises(ValueError, match=r"targets must be among q, k, v, got"):
        FacT(targets=targets)

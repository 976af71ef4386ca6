"""LoRA against its definition, with sizes that all differ."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from samtune.networks.tiny_vit import WindowAttention
from samtune.peft.adapt import adapt
from samtune.peft.dora import DoRA
from samtune.peft.lora import LoRA, LoRALinear
from samtune.peft.places import qkv_rows

DOUBLE = torch.float64


def make(
    rank=2, alpha=5.0, in_features=7, out_features=9, *, dtype=DOUBLE, bias=True, seed=0, **options
):
    """A layer whose B is not zero: with zeros every test here would pass without an adapter."""
    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    layer = LoRALinear(base, rank=rank, scale=alpha / rank, generator=generator, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return layer


def dense_update(layer, groups):
    """(alpha / r) B A for each group of rows, elsewhere zero."""
    update = torch.zeros(layer.out_features, layer.in_features, dtype=layer.weight.dtype)
    row = 0
    for g, rows in enumerate(groups):
        a = layer.lora_a[g * layer.rank : (g + 1) * layer.rank]
        b = layer.lora_b[row : row + len(rows)]
        row += len(rows)
        for i, target in enumerate(rows):
            update[target] = layer.scale * (b[i] @ a)
    return update


def groups_of(out_features, heads, layout, targets):
    """Rows by the layouts' descriptions, written out one by one."""
    width = out_features // 3 // heads
    rows = {"q": [], "k": [], "v": []}
    for row in range(out_features):
        order = (row // width) % 3 if layout == "heads" else row // (heads * width)
        rows["qkv"[order]].append(row)
    return [torch.tensor(rows[target]) for target in targets]


def test_forward_is_w_plus_scaled_ba():
    layer, x = make(rank=2, alpha=5.0), torch.randn(4, 3, 7, dtype=DOUBLE)
    w = layer.weight + (5.0 / 2) * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ w.T + layer.bias)


def test_forward_without_bias():
    layer, x = make(bias=False), torch.randn(3, 7, dtype=DOUBLE)
    w = layer.weight + (5.0 / 2) * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ w.T)
    assert layer.merge().bias is None


@pytest.mark.parametrize("layout", ["qkv", "heads"])
@pytest.mark.parametrize("targets", ["qv", "q", "k", "vq", "qkv"])
def test_groups_update_their_rows_alone(layout, targets):
    groups = groups_of(30, 5, layout, targets)
    layer = make(out_features=30, groups=groups)
    x = torch.randn(4, 7, dtype=DOUBLE)
    w = layer.weight + dense_update(layer, groups)
    torch.testing.assert_close(layer(x), x @ w.T + layer.bias)
    torch.testing.assert_close(layer.merge().weight, w)
    changed = (layer.merge().weight != layer.weight).any(1).nonzero().flatten()
    assert changed.tolist() == sorted(torch.cat(groups).tolist())


@pytest.mark.parametrize("layout", ["qkv", "heads"])
def test_rows_of_the_layouts(layout):
    rows = qkv_rows(30, 5, layout)
    for target in "qkv":
        assert rows[target].tolist() == groups_of(30, 5, layout, [target])[0].tolist()


def test_rows_of_two_heads_of_width_two_by_hand():
    heads = {name: rows.tolist() for name, rows in qkv_rows(12, 2, "heads").items()}
    assert heads == {"q": [0, 1, 6, 7], "k": [2, 3, 8, 9], "v": [4, 5, 10, 11]}
    plain = {name: rows.tolist() for name, rows in qkv_rows(12, 2, "qkv").items()}
    assert plain == {"q": [0, 1, 2, 3], "k": [4, 5, 6, 7], "v": [8, 9, 10, 11]}


def test_unknown_layout():
    with pytest.raises(ValueError, match="'qkv' or 'heads', got 'kqv'"):
        qkv_rows(12, 2, "kqv")


def adapt_attention(model, site, targets, randomise_factors):
    """The attention of ``site``, adapted, and its effective weight by the definition."""
    method = LoRA(rank=2, alpha=3, targets=targets, blocks=[site.index])
    adapt(model, method, decoder="frozen")
    encoder = randomise_factors(model).image_encoder
    layer = encoder.get_submodule(site.qkv)
    assert isinstance(layer, LoRALinear)
    return encoder.get_submodule(site.block).attn, layer


@pytest.mark.parametrize("targets", [("q",), ("k",), ("v",), ("q", "v")])
def test_tiny_vit_attention_changes_only_in_its_targets_head_by_head(
    make_segmenter, randomise_factors, targets
):
    model = make_segmenter("tiny_vit").double()
    site = model.image_encoder.adapter_sites()[1]
    attention, layer = adapt_attention(model, site, targets, randomise_factors)
    assert isinstance(attention, WindowAttention)
    width = 12 // 3
    x = torch.randn(2, 49, 12, dtype=DOUBLE)
    normed = attention.norm(x)
    columns = []
    for head in range(3):
        parts = {}
        for i, name in enumerate("qkv"):
            rows = slice((3 * head + i) * width, (3 * head + i + 1) * width)
            parts[name] = normed @ layer.weight[rows].T + layer.bias[rows]
            if name in targets:
                g = targets.index(name)
                a = layer.lora_a[2 * g : 2 * g + 2]
                b = layer.lora_b[12 * g + width * head : 12 * g + width * (head + 1)]
                parts[name] = parts[name] + 3 / 2 * normed @ a.T @ b.T
        bias = attention.attention_biases[head][attention.attention_bias_idxs]
        scores = parts["q"] @ parts["k"].transpose(1, 2) / math.sqrt(width) + bias
        columns.append(scores.softmax(-1) @ parts["v"])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(columns, -1)))


@pytest.mark.parametrize("targets", [("q",), ("k",), ("v",), ("q", "v")])
def test_sam_vit_attention_changes_only_in_its_targets(make_segmenter, randomise_factors, targets):
    model = make_segmenter("sam_vit").double()
    site = model.image_encoder.adapter_sites()[1]
    attention, layer = adapt_attention(model, site, targets, randomise_factors)
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        table.data.zero_()  # scores are then q k / sqrt(width) alone
    x = torch.randn(2, 4, 4, 24, dtype=DOUBLE)
    flat = x.view(2, 16, 24)
    parts = {}
    for i, name in enumerate("qkv"):  # [q | k | v], 24 rows each
        parts[name] = flat @ layer.weight[24 * i :][:24].T + layer.bias[24 * i :][:24]
        if name in targets:
            g = targets.index(name)
            a, b = layer.lora_a[2 * g : 2 * g + 2], layer.lora_b[24 * g : 24 * g + 24]
            parts[name] = parts[name] + 3 / 2 * flat @ a.T @ b.T
    heads = []
    for head in range(3):
        q, k, v = (parts[name][..., 8 * head : 8 * head + 8] for name in "qkv")
        heads.append((q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1) @ v)
    expected = attention.proj(torch.cat(heads, -1)).view(2, 4, 4, 24)
    torch.testing.assert_close(attention(x), expected)


def test_identity_at_start_is_exact():
    base = nn.Linear(7, 9)
    x = torch.randn(5, 7)
    expected = base(x)
    layer = LoRALinear(base, rank=3, scale=30.0)
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.merge().weight, base.weight)


def test_a_is_kaiming_uniform_and_b_zero():
    layer = LoRALinear(nn.Linear(400, 90), rank=50)
    bound = 1 / math.sqrt(400)  # sqrt(6 / ((1 + 5) * fan_in))
    assert (layer.lora_b == 0).all()
    assert layer.lora_a.abs().max() <= bound
    assert layer.lora_a.abs().max() > 0.99 * bound
    assert float(layer.lora_a.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_generator_makes_the_factors_repeatable():
    def factor(seed):
        generator = torch.Generator().manual_seed(seed)
        return LoRALinear(nn.Linear(7, 9), rank=2, generator=generator).lora_a

    assert torch.equal(factor(1), factor(1))
    assert not torch.equal(factor(1), factor(2))


@pytest.mark.parametrize(("rank", "targets", "size"), [(2, None, 9), (3, "qv", 6), (1, "qkv", 9)])
def test_trainable_names_and_counts(rank, targets, size):
    groups = None if targets is None else groups_of(9, 1, "qkv", targets)
    layer = make(rank=rank, groups=groups)
    trained = {name: p.numel() for name, p in layer.named_parameters() if p.requires_grad}
    number = 1 if targets is None else len(targets)
    assert set(trained) == set(layer.adapter_parameter_names()) == {"lora_a", "lora_b"}
    assert sum(trained.values()) == rank * (number * 7 + size)
    assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad


def test_base_keeps_its_names_and_its_storage():
    base = nn.Linear(7, 9)
    layer = LoRALinear(base, rank=2)
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    assert layer.weight is base.weight
    assert layer.bias is base.bias


def test_gradients_are_those_of_the_dense_formula():
    groups = groups_of(30, 5, "heads", "qv")
    layer = make(out_features=30, groups=groups)
    x = torch.randn(6, 7, dtype=DOUBLE)
    factors = (layer.lora_a, layer.lora_b)
    found = torch.autograd.grad(layer(x).square().sum(), factors)
    dense = x @ (layer.weight + dense_update(layer, groups)).T + layer.bias
    expected = torch.autograd.grad(dense.square().sum(), factors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@given(
    in_features=st.integers(1, 6),
    heads=st.integers(1, 3),
    width=st.integers(1, 3),
    rank=st.integers(1, 4),
    alpha=st.floats(0.1, 20),
    targets=st.sampled_from([None, "q", "v", "qv", "qkv"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_merge_is_forward(in_features, heads, width, rank, alpha, targets, seed):
    out_features = 3 * heads * width
    groups = None if targets is None else groups_of(out_features, heads, "heads", targets)
    rank = min(rank, in_features, *(len(rows) for rows in groups or [range(out_features)]))
    layer = make(rank, alpha, in_features, out_features, groups=groups, seed=seed)
    merged = layer.merge()
    x = torch.randn(3, in_features, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(merged(x), layer(x))
    assert type(merged) is nn.Linear
    assert not any(p.requires_grad for p in merged.parameters())


def test_merge_loads_strictly_into_a_plain_layer_and_leaves_its_layer_alone():
    layer = make()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    plain = nn.Linear(7, 9, dtype=DOUBLE)
    plain.load_state_dict(layer.merge().state_dict(), strict=True)
    x = torch.randn(2, 7, dtype=DOUBLE)
    torch.testing.assert_close(plain(x), layer(x))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_merge_of_bfloat16_rounds_once():
    layer = make(dtype=torch.bfloat16)
    update = 5.0 / 2 * layer.lora_b.float() @ layer.lora_a.float()
    merged = layer.merge()
    assert merged.weight.dtype == torch.bfloat16
    expected = layer.weight.float() + update
    assert (merged.weight.float() - expected).abs().max() <= 2**-8 * expected.abs().max()


def test_dropout_acts_on_the_update_alone_and_in_training_alone():
    layer, x = make(dropout=1.0), torch.randn(4, 7, dtype=DOUBLE)
    base = x @ layer.weight.T + layer.bias
    full = base + 2.5 * x @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(layer.train()(x), base)
    torch.testing.assert_close(layer.eval()(x), full)


def test_dropout_keeps_the_mean():
    layer, x = make(dropout=0.5), torch.randn(1, 7, dtype=DOUBLE)
    draws = layer.train()(x.expand(40_000, 7))
    low = 2.5 * x @ layer.lora_a.T @ layer.lora_b.T
    error = draws.std(0) / math.sqrt(40_000)
    mean = x @ layer.weight.T + layer.bias + low
    assert ((draws.mean(0) - mean).abs() < 5 * error).all()
    assert (draws.std(0) > 0).all()


@pytest.mark.parametrize("rank", [0, -1, 8])
def test_rank_out_of_range_names_the_limits(rank):
    with pytest.raises(ValueError, match=rf"\[1, 7\] for a 7->9 layer, got {rank}"):
        LoRALinear(nn.Linear(7, 9), rank=rank)


def test_rank_is_limited_by_the_smallest_group():
    with pytest.raises(ValueError, match=r"\[1, 3\] for a 7->9 layer, got 4"):
        LoRALinear(nn.Linear(7, 9), rank=4, groups=groups_of(9, 1, "qkv", "qv"))


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_dropout_out_of_range(dropout):
    with pytest.raises(ValueError, match=str(dropout)):
        make(dropout=dropout)


@pytest.mark.parametrize("targets", [("q", "o"), (), ("Q",)])
def test_unknown_targets(targets):
    with pytest.raises(ValueError, match=r"targets must be among q, k, v, .* got"):
        LoRA(targets=targets)


def test_target_given_twice():
    with pytest.raises(ValueError, match=r"at most once, got \('q', 'q'\)"):
        LoRA(targets=("q", "q"))


def test_alpha_defaults_to_the_rank():
    assert LoRA(rank=4).config()["alpha"] == 4
    assert LoRA(rank=4, alpha=16.0).config()["alpha"] == 16


# PiSSA


@pytest.mark.parametrize(("targets", "scale"), [(None, 2.0), ("qv", 0.5)])
def test_pissa_starts_at_the_largest_singular_triples(targets, scale):
    groups = None if targets is None else groups_of(30, 5, "heads", targets)
    base = nn.Linear(7, 30, dtype=DOUBLE)
    layer = LoRALinear(base, rank=3, scale=scale, groups=groups, start="pissa")
    first = 0
    for g, rows in enumerate([torch.arange(30)] if groups is None else groups):
        u, s, vh = torch.linalg.svd(base.weight[rows], full_matrices=False)
        a = layer.lora_a[3 * g : 3 * g + 3]
        b = layer.lora_b[first : first + len(rows)]
        first += len(rows)
        # s B A is the best approximation of rank 3, and the factors share it evenly
        torch.testing.assert_close(scale * b @ a, u[:, :3] @ torch.diag(s[:3]) @ vh[:3])
        torch.testing.assert_close(a @ a.T, torch.diag(s[:3] / scale), atol=1e-12, rtol=1e-7)
        torch.testing.assert_close(b.T @ b, torch.diag(s[:3] / scale), atol=1e-12, rtol=1e-7)


def test_pissa_computes_the_change_of_the_product():
    base = nn.Linear(7, 9, dtype=DOUBLE)
    layer = LoRALinear(base, rank=2, scale=3.0, start="pissa")
    x = torch.randn(4, 7, dtype=DOUBLE)
    torch.testing.assert_close(layer(x), base(x))
    a0, b0 = layer.lora_a.detach().clone(), layer.lora_b.detach().clone()
    with torch.no_grad():
        layer.lora_a.add_(torch.randn_like(layer.lora_a))
        layer.lora_b.add_(torch.randn_like(layer.lora_b))
    weight = base.weight + 3.0 * (layer.lora_b @ layer.lora_a - b0 @ a0)
    torch.testing.assert_close(layer(x), x @ weight.T + base.bias)
    torch.testing.assert_close(layer.merge().weight, weight)
    assert layer.weight is base.weight


def test_pissa_with_dora():
    """V = W + s (B A - B_0 A_0), so that the norms start at those of W."""
    base = nn.Linear(7, 9, dtype=DOUBLE)
    layer = DoRA(rank=2, start="pissa", targets=("qkv",)).wrap(base, None, None)
    torch.testing.assert_close(layer.magnitude, base.weight.norm(dim=1))
    x = torch.randn(4, 7, dtype=DOUBLE)
    torch.testing.assert_close(layer(x), base(x))


def test_unknown_start():
    with pytest.raises(ValueError, match="'kaiming' or 'pissa', got 'zeros'"):
        LoRA(start="zeros")

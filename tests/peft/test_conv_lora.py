"""Conv-LoRA against its definition, token by token."""

import math

import pytest
import torch
from torch import nn

from samtune.peft.adapt import adapt
from samtune.peft.conv_lora import ConvLoRA, ConvLoRALinear
from samtune.peft.lora import LoRALinear

DOUBLE = torch.float64


def gelu(value):
    return value * 0.5 * (1 + torch.erf(value / math.sqrt(2)))


def update(layer, x, groups):
    """s B_g (h + GELU(K * h)) with the 3 x 3 sums written out; tokens x are h w in."""
    height, width, _ = x.shape
    rank = layer.rank
    out = torch.zeros(height, width, layer.out_features, dtype=DOUBLE)
    row = 0
    for g, rows in enumerate(groups):
        part = slice(g * rank, (g + 1) * rank)
        h = x @ layer.lora_a[part].T
        for i in range(height):
            for j in range(width):
                seen = layer.expert_bias[part].clone()
                for di in range(3):
                    for dj in range(3):
                        y, z = i + di - 1, j + dj - 1
                        if 0 <= y < height and 0 <= z < width:
                            seen = seen + layer.expert_weight[part][:, :, di, dj] @ h[y, z]
                b = layer.lora_b[row : row + len(rows)]
                out[i, j, rows] = layer.scale * (b @ (h[i, j] + gelu(seen)))
        row += len(rows)
    return out


def make(groups=None, rank=2):
    base = nn.Linear(5, 6, dtype=DOUBLE)
    layer = ConvLoRALinear(base, rank=rank, scale=1.5, groups=groups)
    with torch.no_grad():
        for name in layer.adapter_parameter_names():
            layer.get_parameter(name).normal_(0, 0.5)
    return layer


@pytest.mark.parametrize(
    "groups", [None, [torch.tensor([0, 2]), torch.tensor([5, 1])]], ids=["whole", "two groups"]
)
def test_definition(groups):
    layer = make(groups)
    rows = [torch.arange(6)] if groups is None else groups
    x = torch.randn(2, 3, 4, 5, dtype=DOUBLE)
    expected = torch.stack([update(layer, image, rows) for image in x])
    expected = expected + x @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_flat_tokens_of_a_square():
    layer = make()
    x = torch.randn(2, 3, 3, 5, dtype=DOUBLE)
    torch.testing.assert_close(layer(x.flatten(1, 2)), layer(x).flatten(1, 2))


def test_tokens_that_form_no_square():
    with pytest.raises(ValueError, match=r"n a square, got \(2, 6, 2\)"):
        make()(torch.randn(2, 6, 5, dtype=DOUBLE))


def test_decoder_gets_plain_lora(make_small):
    net = make_small("sam_vit")
    summary = adapt(net, ConvLoRA(rank=2), decoder="conv_lora")
    for path in summary.adapted:
        kind = LoRALinear if path.startswith("mask_decoder") else ConvLoRALinear
        assert type(net.get_submodule(path)) is kind


@pytest.mark.parametrize("rank", [0, -3])
def test_rank_must_be_positive(rank):
    with pytest.raises(ValueError, match=f"at least 1, got {rank}"):
        ConvLoRA(rank=rank)


def test_scale_is_alpha_over_rank(make_small):
    net = make_small("sam_vit")
    summary = adapt(net, ConvLoRA(rank=2, alpha=6.0, blocks="last:1"), decoder="frozen")
    assert net.get_submodule(summary.adapted[0]).scale == 3

"""VeRA against its definition; its random matrices, which no file holds."""

import numpy as np
import pytest
import torch
from torch import nn

from samtune.peft.adapt import adapt
from samtune.peft.vera import VeRA, VeRAProjection

DOUBLE = torch.float64
LIKE = torch.zeros(1, dtype=DOUBLE)


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
def test_definition(make_small, randomise_adapters, kind):
    """W + diag(l_b) B diag(l_d) A with the first columns of A and rows of B."""
    net, plain = make_small(kind).double(), make_small(kind).double()
    summary = adapt(net, VeRA(rank=7), decoder="vera")
    randomise_adapters(net)
    layers = [net.get_submodule(path) for path in summary.adapted]
    widths = [layer.in_features for layer in layers], [layer.out_features for layer in layers]
    big = VeRAProjection(7, max(widths[0]), max(widths[1]), seed=0, like=LIKE)
    for path, layer in zip(summary.adapted, layers, strict=True):
        base = plain.get_submodule(path)
        assert layer.projection is layers[0].projection
        a, b = big.a[:, : base.in_features], big.b[: base.out_features]
        update = torch.diag(layer.vera_b) @ b @ torch.diag(layer.vera_d) @ a
        x = torch.randn(2, 3, base.in_features, dtype=DOUBLE)
        expected = x @ (base.weight + update).T + base.bias
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer.merge()(x), expected)
        assert (expected - base(x)).abs().max() > 1e-2


def test_start():
    layer = VeRA(rank=5).wrap(nn.Linear(6, 4), None)
    assert (layer.vera_d == 0.1).all()
    assert (layer.vera_b == 0).all()
    names = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert names == {"vera_d", "vera_b"}
    assert not any("projection" in name for name in layer.state_dict())


def test_matrices_are_pcg64_s_numbers():
    """Written down here once: should they change, adapters of today would mean something else."""
    projection = VeRAProjection(2, 3, 2, seed=0, like=LIKE)
    unit = np.random.Generator(np.random.PCG64((0, 0))).random(6)
    expected = (2 * unit - 1) * np.sqrt(6 / 3)
    assert projection.a.flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-15)
    fixed = [float(projection.a[0, 0]), float(projection.b[0, 0])]
    assert fixed == pytest.approx([0.38738615147100774, 1.350094776348421], abs=1e-12)
    other = VeRAProjection(2, 3, 2, seed=1, like=LIKE)
    assert not torch.equal(other.a, projection.a)


def test_variance_of_the_matrices_is_kaiming_s():
    projection = VeRAProjection(64, 400, 300, seed=3, like=LIKE)
    assert float(projection.a.var()) == pytest.approx(2 / 400, rel=0.05)
    assert float(projection.b.var()) == pytest.approx(2 / 64, rel=0.05)
    assert abs(float(projection.a.mean())) < 0.002


def test_rank_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        VeRA(rank=0)

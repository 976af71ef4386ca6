"""Every method on layers and networks of drawn sizes: ranks, targets, blocks."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt, merge_adapters
from samtune.peft.protocol import adapted_modules
from samtune.peft.registry import METHODS, build_method
from samtune.peft.whole_layers import WholeLayers

DOUBLE = torch.float64
WHOLE = [name for name, method in METHODS.items() if issubclass(method, WholeLayers)]


@pytest.mark.parametrize("layer_method", WHOLE)
@given(
    n=st.integers(2, 9),
    out=st.integers(2, 9),
    rank=st.integers(1, 9),
    top=st.integers(1, 9),
    bias=st.booleans(),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_layer_of_any_shape(layer_method, n, out, rank, top, bias, tokens, seed):
    """Starts as its base, merges to its forward, trains what it names."""
    torch.manual_seed(seed)
    base = nn.Linear(n, out, bias=bias, dtype=DOUBLE)
    known = METHODS[layer_method].__dataclass_fields__
    wanted = {"rank": min(rank, n, out), "top": top}
    config = {key: value for key, value in wanted.items() if key in known}
    layer = build_method({"name": layer_method, **config}).wrap(base, None)
    x = torch.randn(tokens, n, dtype=DOUBLE)
    torch.testing.assert_close(layer(x), base(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for name in layer.adapter_parameter_names():
            parameter = layer.get_parameter(name)
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    merged = layer.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(layer(x), merged(x))
    layer.requires_grad_(False)
    trained = [layer.get_parameter(n).requires_grad_(True) for n in layer.adapter_parameter_names()]
    torch.testing.assert_close(layer(x), merged(x))
    gradients = torch.autograd.grad(layer(x).square().sum(), trained, allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in gradients)


SIZES = {"image_size": 32, "dim": 24, "depth": 3, "num_heads": 3, "window": 2}
ENCODER = SamViT(**SIZES, global_blocks=(1,))
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@st.composite
def configs(draw):
    """A method's name and hyper-parameters, sensible or not."""
    name = draw(st.sampled_from(sorted(METHODS)))
    known = METHODS[name].__dataclass_fields__
    choices = {
        "rank": st.integers(1, 30),
        "top": st.integers(1, 30),
        "hidden": st.integers(1, 30),
        "targets": st.lists(
            st.sampled_from(["q", "k", "v", "qkv", "proj", "lin1", "lin2", "mlp"]),
            min_size=1,
            max_size=4,
        ),
        "blocks": st.one_of(
            st.just("all"),
            st.integers(1, 4).map(lambda n: f"last:{n}"),
            st.lists(st.integers(0, 3), min_size=1, max_size=3),
        ),
    }
    keys = draw(st.sets(st.sampled_from(sorted(set(choices) & set(known)))))
    return {"name": name, **{key: draw(choices[key]) for key in sorted(keys)}}


@given(config=configs())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_configuration_works_or_is_refused(config):
    """A ``ValueError``, or a network that starts as the frozen one and merges."""
    net = nn.ModuleDict({"image_encoder": SamViT(**SIZES, global_blocks=(1,))})
    net.image_encoder.load_state_dict(ENCODER.state_dict())
    try:
        method = build_method(config)
        summary = adapt(net, method, decoder="frozen")
    except ValueError:
        return
    encoder = net.image_encoder
    with torch.no_grad():
        expected = ENCODER(IMAGE)
        start = encoder(IMAGE)
        assert (start - expected).abs().max() <= 1e-5 * expected.abs().max()
        for _, adapted in adapted_modules(net):
            for name in adapted.adapter_parameter_names():
                parameter = adapted.get_parameter(name)
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        moved = encoder(IMAGE)
        assert moved.isfinite().all()
        if list(adapted_modules(net)):
            assert not torch.equal(moved, start)
            assert summary.trainable > 0
        if method.mergeable:
            merge_adapters(net)
            merged = encoder(IMAGE)
            assert (merged - moved).abs().max() <= 1e-4 * moved.abs().max()

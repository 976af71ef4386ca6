"""The low-rank product with a backward of its own, against autograd on the dense formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.peft.low_rank import low_rank_linear

NAMES = ("x", "weight", "bias", "a", "b", "v", "u", "d")


def tensors(shape=(2, 3, 5), out=4, rank=2, fixed=3, bias=True, seed=0):
    """Inputs by name; what is trained requires a gradient."""
    generator = torch.Generator().manual_seed(seed)
    n = shape[-1]
    sizes = {
        "x": shape,
        "weight": (out, n),
        "bias": (out,),
        "a": (rank, n),
        "b": (rank, out),
        "v": (fixed, n),
        "u": (fixed, out),
        "d": (fixed,),
    }
    made = {
        name: torch.randn(size, dtype=torch.float64, generator=generator)
        for name, size in sizes.items()
    }
    if not bias:
        made["bias"] = None
    for name in ("x", "bias", "a", "b", "d"):
        if made[name] is not None:
            made[name].requires_grad_(True)
    return made


def dense(t, with_fixed):
    weight = t["weight"] + t["b"].T @ t["a"]
    if with_fixed:
        weight = weight + t["u"].T @ torch.diag(t["d"]) @ t["v"]
    out = t["x"] @ weight.T
    return out if t["bias"] is None else out + t["bias"]


def ours(t, with_fixed):
    fixed = (t["v"], t["u"], t["d"]) if with_fixed else None
    return low_rank_linear(t["x"], t["weight"], t["bias"], t["a"], t["b"], fixed)


def assert_same(t, with_fixed):
    trained = [n for n in NAMES if t[n] is not None and t[n].requires_grad]
    trained = [n for n in trained if with_fixed or n != "d"]
    found, expected = ours(t, with_fixed), dense(t, with_fixed)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), [t[n] for n in trained])
    got = torch.autograd.grad((found * weights).sum(), [t[n] for n in trained])
    for name, a, b in zip(trained, got, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@given(
    lead=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    n=st.integers(1, 6),
    out=st.integers(1, 6),
    rank=st.integers(1, 4),
    fixed=st.integers(0, 4),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(lead, n, out, rank, fixed, bias, seed):
    made = tensors((*lead, n), out, rank, max(fixed, 1), bias, seed)
    assert_same(made, with_fixed=fixed > 0)


@pytest.mark.parametrize("with_fixed", [False, True])
def test_input_that_is_not_contiguous(with_fixed):
    made = tensors((3, 4, 5))
    made["x"] = torch.randn(4, 3, 5, dtype=torch.float64).transpose(0, 1).requires_grad_(True)
    assert_same(made, with_fixed)


@pytest.mark.parametrize("with_fixed", [False, True])
def test_weight_that_is_trained_too_gets_its_gradient(with_fixed):
    made = tensors()
    made["weight"].requires_grad_(True)
    assert_same(made, with_fixed)


@pytest.mark.parametrize("with_fixed", [False, True])
def test_first_layer_of_a_network(with_fixed):
    """The input needs no gradient there."""
    made = tensors()
    made["x"].requires_grad_(False)
    assert_same(made, with_fixed)


@pytest.mark.parametrize("with_fixed", [False, True])
def test_zero_update_is_the_plain_layer_bit_for_bit(with_fixed):
    made = {n: None if t is None else t.detach().float() for n, t in tensors().items()}
    made["b"].zero_()
    made["d"].zero_()
    plain = torch.nn.functional.linear(made["x"], made["weight"], made["bias"])
    assert torch.equal(ours(made, with_fixed), plain)


def test_nothing_of_the_output_s_size_is_kept_for_the_backward():
    made = tensors((1, 50, 5), out=40)
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ours(made, True)
    assert kept
    assert not [shape for shape in kept if shape[-1] == 40 and 50 in shape]


@pytest.mark.parametrize("with_fixed", [False, True])
def test_one_token_without_a_leading_axis(with_fixed):
    assert_same(tensors((5,)), with_fixed)


def test_second_derivatives_are_refused():
    """Not wrong in silence: what the backward keeps has no graph."""
    made = tensors()
    (first,) = torch.autograd.grad(ours(made, True).square().sum(), made["a"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()

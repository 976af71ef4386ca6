"""Attention against ``segment_anything``'s in every form; the tiled gradient by gradcheck."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import Attention

from samtune.networks import attention as forms
from samtune.networks import tiled_attention
from samtune.networks.attention import RelPosAttention, set_attention
from samtune.networks.sam_vit import SamViT
from samtune.networks.tiled_attention import TiledAttention


def make_pair(grid, heads=3, dim=24, dtype=torch.float32):
    upstream = Attention(dim, heads, use_rel_pos=True, input_size=grid).to(dtype)
    with torch.no_grad():
        for parameter in upstream.parameters():
            parameter.normal_(0, 0.4)
    return upstream, RelPosAttention(upstream)


def gradients(module, x):
    x = x.clone().requires_grad_(True)
    leaves = [x, *module.parameters()]
    weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    return torch.autograd.grad((module(x) * weight).sum(), leaves)


@pytest.mark.parametrize("form", ["tiled", "augmented", "materialised"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3), (1, 6)])
def test_every_form_has_upstreams_output_and_gradients(monkeypatch, form, grid):
    upstream, ours = make_pair(grid, dtype=torch.float64)
    monkeypatch.setattr(RelPosAttention, "form", lambda *_: form)
    monkeypatch.setattr(tiled_attention, "TILE_ELEMENTS", 2 * grid[0] * grid[1] ** 2)  # 2 rows
    x = torch.randn(2, *grid, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), upstream(x), rtol=1e-10, atol=1e-12)
    names = dict(upstream.named_parameters())
    assert dict(ours.named_parameters()).keys() == names.keys()
    order = [0, *(1 + list(names).index(n) for n, _ in ours.named_parameters())]
    theirs = gradients(upstream, x)
    for mine, other in zip(gradients(ours, x), [theirs[i] for i in order], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("elements", [1, 100, 500, 10**6])  # a row of one head ... everything
def test_inference_in_parts_is_upstreams_output(monkeypatch, elements):
    upstream, ours = make_pair((5, 7), dtype=torch.float64)
    monkeypatch.setattr(forms, "MASK_ELEMENTS", {"cpu": elements})
    x = torch.randn(3, 5, 7, 24, dtype=torch.float64)
    with torch.no_grad():
        assert ours.form(x, 35) == "mask"
        torch.testing.assert_close(ours(x), upstream(x), rtol=1e-9, atol=1e-11)


def test_form_follows_mode_size_device_and_what_is_trained():
    _, ours = make_pair((4, 4))
    x = torch.randn(1, 2, 2, 24)
    large = forms.SMALL_GRID + 1
    ours.requires_grad_(False)
    assert ours.form(ours.qkv(x), large) == "mask"
    ours.rel_pos_h.requires_grad_(True)
    assert ours.form(ours.qkv(x), large) == "tiled"
    ours.requires_grad_(True)
    assert ours.form(ours.qkv(x), large) == "tiled"
    assert ours.form(ours.qkv(x), forms.SMALL_GRID) == "materialised"
    assert ours.form(ours.qkv(x).to("meta"), large) == "augmented"
    assert ours.form(ours.qkv(x).to(torch.bfloat16), large) == "augmented"
    with torch.no_grad():
        assert ours.form(ours.qkv(x), large) == "mask"


@settings(max_examples=15, deadline=None)
@given(
    h=st.integers(1, 4), w=st.integers(1, 4), heads=st.integers(1, 2), elements=st.integers(1, 60)
)
def test_tiled_gradient_is_that_of_the_formula(h, w, heads, elements):
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(h + 10 * w)
        patch.setattr(tiled_attention, "TILE_ELEMENTS", elements)
        n, double = h * w, {"dtype": torch.float64, "requires_grad": True}
        shapes = [(2, heads, n, 3)] * 3 + [(2, heads, h, w, h), (2, heads, h, w, w)]
        leaves = [torch.randn(shape, **double) for shape in shapes]

        def dense(q, k, v, rows, cols):
            bias = rows[..., :, None] + cols[..., None, :]
            logits = 0.7 * q @ k.mT + bias.reshape(2, heads, n, n)
            return F.softmax(logits, -1) @ v

        out = TiledAttention.apply(*leaves, 0.7)
        torch.testing.assert_close(out, dense(*leaves), rtol=1e-10, atol=1e-12)
        assert torch.autograd.gradcheck(lambda *a: TiledAttention.apply(*a, 0.7), leaves)


def test_tiled_form_keeps_nothing_of_the_size_of_the_logits(monkeypatch):
    upstream, ours = make_pair((12, 12))
    monkeypatch.setattr(forms, "SMALL_GRID", 0)
    x = torch.randn(1, 12, 12, 24, requires_grad=True)
    largest = {}
    for name, module in (("upstream", upstream), ("ours", ours)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            module(x)
        largest[name] = max(sizes)
    assert largest["upstream"] >= 3 * 144 * 144
    assert largest["ours"] <= max(144 * 24 * 3, 24 * 72)


def encoders(attention, **options):
    torch.manual_seed(0)
    encoder = SamViT(
        image_size=96, dim=24, depth=2, num_heads=3, global_blocks=(1,), window=4,
        attention=attention, **options,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "rel_pos" in name or name == "pos_embed":
                parameter.normal_(0, 0.3)
    return encoder


def test_reference_is_upstreams_own_code():
    reference, auto = encoders("reference"), encoders("auto")
    assert all(block.attn.reference for block in reference.blocks)
    assert not any(block.attn.reference for block in auto.blocks)
    upstream, ours = make_pair((5, 4))
    set_attention(ours, "reference")
    tokens = torch.randn(2, 5, 4, 24)
    assert torch.equal(ours(tokens), upstream(tokens))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(auto(x), reference(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="attention must be 'auto' or 'reference', got 'flash'"):
        encoders("flash")


@pytest.mark.parametrize("small_grid", [0, 784])
@pytest.mark.parametrize("train", [False, True])
def test_no_graph_breaks(monkeypatch, small_grid, train):
    monkeypatch.setattr(forms, "SMALL_GRID", small_grid)
    encoder = encoders("auto").requires_grad_(False)
    x = torch.randn(1, 3, 96, 96, requires_grad=train)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(compiled(x), encoder(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_takes_the_same_forms(monkeypatch, dtype):
    monkeypatch.setattr(forms, "SMALL_GRID", 0)
    encoder = encoders("auto")
    x = torch.randn(1, 3, 96, 96)
    exact = encoder(x)
    with torch.autocast("cpu", dtype):
        loose = encoder(x)
    loose.square().mean().backward()
    assert encoder.blocks[1].attn.rel_pos_h.grad.isfinite().all()
    torch.testing.assert_close(loose.float(), exact, rtol=0.1, atol=0.15)

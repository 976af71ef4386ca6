"""Several methods at once: what trains together, and what is refused."""

import copy
from itertools import combinations

import pytest
import torch
from torch import nn

from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt, merge_adapters, unmerge_adapters
from samtune.peft.registry import METHODS


def image_batch(net):
    return torch.randn(1, 1, net.image_size, net.image_size)


def trained_names(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def names_of(make_small, method, decoder="frozen"):
    """What one method trains, and the class head."""
    net = make_small("sam_vit")
    adapt(net, method, decoder=decoder)
    return trained_names(net)


def moving_names(net, image, steps=2):
    """Parameters whose gradient isn't zero in one of the steps."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    moving = set()
    for _ in range(steps):
        optimizer.zero_grad()
        net(image).square().mean().backward()
        moving |= {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    return moving


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
@pytest.mark.parametrize(
    ("names", "decoder"),
    [
        (("lora", "bias"), "full"),
        (("bias", "lora"), "full"),
        (("ssam", "layernorm"), "frozen"),
        (("ssam", "layernorm"), "layernorm"),
        (("dora", "adaptformer"), "dora"),
        (("fact", "bias", "houlsby"), "fact"),
        (("salt", "sam_adapter"), "salt"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else value,
)
def test_several_methods(make_small, tiny_method, randomise_adapters, kind, names, decoder):
    net = make_small(kind)
    image = image_batch(net)
    with torch.no_grad():
        expected = net(image)
    adapt(net, [tiny_method(name) for name in names], decoder=decoder)
    with torch.no_grad():
        assert (net(image) - expected).abs().max() <= 1e-5 * expected.abs().max()
    trained = trained_names(net)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    assert moving_names(net, image) == trained
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert changed == trained
    randomise_adapters(net)
    with torch.no_grad():
        expected = net(image)
        if all(METHODS[name].mergeable for name in names):
            adapters = merge_adapters(net)
            assert (net(image) - expected).abs().max() <= 1e-5 * expected.abs().max()
            unmerge_adapters(net, adapters)
        assert torch.equal(net(image), expected)


def test_names_that_lora_and_bias_train(make_small, tiny_method):
    net = make_small("sam_vit")
    lora, bias = tiny_method("lora"), tiny_method("bias")
    adapt(net, [lora, bias], decoder="full")
    expected = names_of(make_small, lora) | names_of(make_small, bias)
    assert trained_names(net) == expected | names_of(make_small, None, "full")
    assert "image_encoder.blocks.0.attn.qkv.bias" in expected


def test_decoder_gets_the_named_method_alone(make_small, tiny_method):
    net = make_small("sam_vit")
    adapt(net, [tiny_method("lora"), tiny_method("ssf", targets=["mlp"])], decoder="ssf")
    names = {n for n in trained_names(net) if n.startswith("mask_decoder.")}
    assert names
    assert all(n.rsplit(".", 1)[1] in ("ssf_scale", "ssf_shift") for n in names)


# one layer under two methods, or one parameter
OVERLAPPING = [
    ("lora", "ssf"),
    ("lora", "dora"),
    ("salt", "ssam"),
    ("ssam", "svf"),
    ("lora", "fact"),
    ("adaptformer", "houlsby"),
    ("bias", "layernorm"),
    ("bias", "attention"),
    ("attention", "blocks"),
    ("blocks", "full"),
    ("pos_embed", "full"),
]


@pytest.mark.parametrize("names", OVERLAPPING, ids="+".join)
def test_overlaps_are_refused_in_both_orders(make_small, tiny_method, names):
    for order in (names, names[::-1]):
        with pytest.raises(ValueError, match=r"disjoint|already|replaced by another"):
            adapt(make_small("sam_vit"), [tiny_method(name) for name in order])


@pytest.mark.parametrize("names", OVERLAPPING, ids="+".join)
@torch.no_grad()
def test_a_refused_model_is_left_as_it_was(make_small, tiny_method, names):
    net = make_small("sam_vit").train()
    image = image_batch(net)
    expected, modules = net(image), dict(net.named_modules())
    state = net.state_dict()
    with pytest.raises(ValueError, match=r"disjoint|already|replaced by another"):
        adapt(net, [tiny_method(name) for name in names])
    assert dict(net.named_modules()) == modules
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(net(image), expected)
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    adapt(net, tiny_method(names[0]))


def test_a_method_twice_is_refused(make_small, tiny_method):
    with pytest.raises(ValueError, match="each at most once, got lora, lora"):
        adapt(make_small(), [tiny_method("lora"), tiny_method("lora", targets=["k"])])


@pytest.mark.parametrize(
    "names", list(combinations(sorted(set(METHODS) - {"qlora"}), 2)), ids="+".join
)
def test_any_pair_is_refused_or_trains_all_that_it_says(tiny_method, names):
    """A parameter that is said to train, but is not in use, deceives."""
    encoder = SamViT(image_size=32, dim=24, depth=1, num_heads=3, global_blocks=(0,))
    image = torch.randn(1, 3, 32, 32)
    expected = encoder(image)
    trained = []
    for order in (names, names[::-1]):
        net = nn.ModuleDict({"image_encoder": copy.deepcopy(encoder)})
        try:
            adapt(net, [tiny_method(name) for name in order], decoder="frozen")
        except ValueError:
            trained.append(None)
            continue
        with torch.no_grad():
            found = net.image_encoder(image)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        trained.append(trained_names(net.image_encoder))
    assert trained[0] == trained[1]
    if trained[0]:
        assert moving_names(net.image_encoder, image) == trained[0]

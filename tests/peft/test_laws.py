"""What holds for every method in both networks: start, training, merging, copies."""

import copy

import pytest
import torch
import torch.nn.functional as F

from samtune.peft.adapt import adapt, merge_adapters, method_configs, unmerge_adapters
from samtune.peft.adapter_file import load_adapter, read_adapter, save_adapter
from samtune.peft.protocol import NotMergeableError, adapted_modules
from samtune.peft.registry import METHODS, build_method

NATIVE = {"bias", "layernorm", "attention", "pos_embed", "blocks", "full", "decoder_only"}
own = pytest.mark.parametrize("own", [False, True], ids=["encoder", "decoder-too"])


def image_batch(net, batch=2):
    return torch.randn(batch, 1, net.image_size, net.image_size)


def adapted_net(make_small, kind, method, own=True, **options):
    """A network with the method in the encoder or, with ``own``, in the decoder too."""
    net = make_small(kind)
    adapt(net, method, decoder=method.name if own else "frozen", **options)
    return net


def trained_names(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def everything(net):
    """Copies of all tensors, buffers that no checkpoint holds included."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def step(net, optimizer):
    """A step as the bundle takes it; the names of parameters with a gradient that isn't zero."""
    image = image_batch(net)
    label = torch.randint(0, net.num_classes + 1, (2, net.image_size, net.image_size))
    optimizer.zero_grad()
    F.cross_entropy(net(image), label).backward()
    moving = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    optimizer.step()
    return moving


def train(net, steps=2):
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    net.train()
    return set().union(*(step(net, optimizer) for _ in range(steps)))


def assert_near(found, expected, tolerance=1e-5):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_every_method_knows_what_these_tests_go_by():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.identity in ("exact", "1e-5", "no")
        assert (name in NATIVE) == (not hasattr(method, "targets")) or not method.mergeable


@torch.no_grad()
def test_identity_at_start(make_small, tiny_method, kind, name):
    method = tiny_method(name)
    image = image_batch(net := make_small(kind))
    expected = net(image)
    adapted = adapted_net(make_small, kind, method)
    for mode in (True, False):
        logits = adapted.train(mode)(image)
        if method.identity == "exact":
            assert torch.equal(logits, expected)
        else:
            assert_near(logits, expected)


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
@torch.no_grad()
def test_salt_as_released_is_not_the_identity(make_small, tiny_method, kind):
    method = tiny_method("salt", reference=True)
    net = make_small(kind)
    image = image_batch(net)
    expected = net(image)
    adapt(net, method, decoder="salt")
    assert (net(image) - expected).abs().max() > 1e-4 * expected.abs().max()
    assert method.identity == "no"


@own
def test_two_steps_change_all_that_trains_and_nothing_else(
    make_small, tiny_method, kind, name, own
):
    net = adapted_net(make_small, kind, tiny_method(name), own)
    trained, before = trained_names(net), everything(net)
    assert train(net) == trained
    changed = {n for n, tensor in everything(net).items() if not torch.equal(tensor, before[n])}
    assert changed == trained
    if kind == "tiny_vit":
        assert sum(n.endswith("running_var") for n in before) == 2 + 3 + 3 * 3 + 5


@torch.no_grad()
def test_merge_is_forward_and_unmerging_brings_everything_back(
    make_small, tiny_method, randomise_adapters, kind, name
):
    method = tiny_method(name)
    net, plain = adapted_net(make_small, kind, method), make_small(kind)
    image = image_batch(net)
    randomise_adapters(net)
    expected, before, trained = net(image), everything(net), trained_names(net)
    if name not in NATIVE:
        assert (expected - plain(image)).abs().max() > 1e-2 * expected.abs().max()
    if not method.mergeable:
        with pytest.raises(NotMergeableError, match="not mergeable"):
            merge_adapters(net)
    else:
        adapters = merge_adapters(net)
        assert not list(adapted_modules(net))
        # a random network amplifies the rounding of a layer (1e-7, see test_definitions) a lot
        assert_near(net(image), expected, 1e-4)
        plain.load_state_dict(net.state_dict(), strict=True)
        assert_near(plain(image), expected, 1e-4)
        unmerge_adapters(net, adapters)
    after = everything(net)
    assert list(after) == list(before)
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert trained_names(net) == trained
    assert torch.equal(net(image), expected)


@torch.no_grad()
def test_salt_as_released_merges(make_small, tiny_method, randomise_adapters):
    net = make_small("sam_vit")
    adapt(net, tiny_method("salt", reference=True), decoder="salt")
    image = image_batch(net)
    expected = randomise_adapters(net)(image)
    merge_adapters(net)
    assert_near(net(image), expected)


def test_merged_network_adapts_again(make_small, tiny_method, name):
    method = tiny_method(name)
    net = adapted_net(make_small, "sam_vit", method)
    if not method.mergeable:
        with pytest.raises(ValueError, match="adapted already"):
            adapt(net, method, decoder=method.name)
        return
    trained = trained_names(net)
    merge_adapters(net)
    adapt(net, method, decoder=method.name)
    assert trained_names(net) == trained


def test_copies_are_independent(make_small, tiny_method, randomise_adapters, kind, name):
    """A copy, also of a network in training, has hooks and shared factors of its own."""
    net = randomise_adapters(adapted_net(make_small, kind, tiny_method(name)))
    train(net, steps=1)
    image = image_batch(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(image)
        assert torch.equal(twin(image), expected)
    assert not {id(p) for p in net.parameters()} & {id(p) for p in twin.parameters()}
    before = everything(net)
    train(twin)
    assert all(torch.equal(tensor, before[n]) for n, tensor in everything(net).items())
    with torch.no_grad():
        assert torch.equal(net(image), expected)
        assert not torch.equal(twin(image), expected)
    assert trained_names(twin) == trained_names(net)


def test_same_generator_same_network(make_small, tiny_method, name):
    def state(seed):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + 10)  # of no account where a generator is given
        return adapted_net(
            make_small, "sam_vit", tiny_method(name), generator=generator
        ).state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(tensor, again[n]) for n, tensor in first.items())
    random = {"lora", "dora", "salt", "fact", "conv_lora", "adaptformer", "houlsby", "sam_adapter"}
    assert (name in random) == any(not torch.equal(t, other[n]) for n, t in first.items())


@torch.no_grad()
def test_adapter_file_makes_the_same_network(
    tmp_path, make_small, tiny_method, randomise_adapters, kind, name
):
    method, path = tiny_method(name), tmp_path / "adapter.safetensors"
    net = randomise_adapters(adapted_net(make_small, kind, method))
    for n, p in net.named_parameters():
        if p.requires_grad and not n.startswith("class_head."):
            p.add_(torch.randn_like(p), alpha=0.05)
    image = image_batch(net)
    expected = net(image)
    save_adapter(path, net, peft=method_configs(method, name))
    other = make_small(kind)
    assert name == "decoder_only" or not torch.equal(other(image), expected)
    again = build_method(read_adapter(path).peft["method"])
    adapt(other, again, decoder=name)
    load_adapter(other, path, peft=method_configs(again, name))
    assert torch.equal(other(image), expected)


def test_frozen_features_give_the_same_logits(
    make_small, tiny_method, randomise_adapters, kind, name
):
    """What a run keeps of the frozen part, and the forward without it."""
    changes = {} if name == "sam_adapter" else {"blocks": "last:1"}
    net = adapted_net(make_small, kind, tiny_method(name, **changes), own=False)
    randomise_adapters(net)
    image = image_batch(net)
    with torch.no_grad():
        expected = net(image)
    assert_near(net(image), expected)
    start = net.frozen_prefix()
    if name in {"sam_adapter", "pos_embed", "full"}:
        assert start == -1
    else:
        number = len(net.image_encoder.adapter_sites())
        # S-SAM also trains the neck, behind the last block
        assert start == (number + 1 if name == "decoder_only" else number - 1)
        assert_near(net(net.prefix(image, start), from_block=start), expected)


def test_names_and_modes_are_kept(make_small, tiny_method, name):
    names = set(make_small("sam_vit").state_dict())
    net = make_small("sam_vit").train()
    adapt(net, tiny_method(name), decoder=name)
    assert names <= set(net.state_dict())
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in net.eval().modules())
    net = make_small("sam_vit").eval()
    adapt(net, tiny_method(name), decoder=name)
    assert not any(module.training for module in net.modules())


def test_blocks_that_are_not_chosen_stay_plain(make_small, tiny_method, name):
    def names(**changes):
        net = make_small("sam_vit")
        adapt(net, tiny_method(name, **changes), decoder="frozen")
        return {n for n in trained_names(net) if not n.startswith("class_head.")}

    if name == "sam_adapter":
        with pytest.raises(ValueError, match="blocks must be 'all'"):
            names(blocks=[1])
    elif name in {"pos_embed", "full", "decoder_only"}:
        assert names(blocks=[1]) == names()
    else:
        neck = {"convs": []} if name == "ssam" else {}
        chosen = names(blocks=[1], **neck)
        assert chosen
        assert chosen == {n for n in names(**neck) if n.startswith("image_encoder.blocks.1.")} | {
            n for n in chosen if n.endswith((".fact_u", ".fact_v"))
        }


def test_state_dict_makes_the_same_network_or_is_refused(
    make_small, tiny_method, randomise_adapters, kind, name
):
    """Also where the frozen weights here were others when the method went in."""
    net = randomise_adapters(adapted_net(make_small, kind, tiny_method(name)))
    image = image_batch(net)
    with torch.no_grad():
        expected = net(image)
    same = adapted_net(make_small, kind, tiny_method(name))
    same.load_state_dict(net.state_dict(), strict=True)
    other = make_small(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        assert torch.equal(same(image), expected)
    adapt(other, tiny_method(name), decoder=name)
    if name in ("salt", "ssam", "svf"):
        with pytest.raises(RuntimeError, match="load the base weights before adapting"):
            other.load_state_dict(net.state_dict())
        return
    other.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(image), expected)


def test_pos_embed_of_tiny_vit_is_refused(make_small, tiny_method):
    with pytest.raises(ValueError, match="no absolute position embedding"):
        adapt(make_small("tiny_vit"), tiny_method("pos_embed"))

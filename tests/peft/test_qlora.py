"""QLoRA against bitsandbytes' own dequantised weights; on the CPU, where bitsandbytes works too."""

import copy

import pytest
import torch
from torch import nn

from samtune.peft import qlora
from samtune.peft.adapt import adapt, merge_adapters, method_configs
from samtune.peft.adapter_file import load_adapter, save_adapter
from samtune.peft.lora import LoRALinear
from samtune.peft.protocol import adapted_modules
from samtune.peft.qlora import QLoRA, QLoRALinear, QuantisedLinear
from samtune.peft.registry import build_method

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture
def as_if_cuda(monkeypatch):
    """QLoRA asks for a CUDA device; its layers run without."""
    monkeypatch.setattr(qlora, "has_cuda", lambda: True)
    # on some CPUs bitsandbytes packs weights anew for inference, which wants widths in multiples
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: False)


def image_batch(net):
    return torch.randn(2, 1, net.image_size, net.image_size)


def dequantised(weight, quant_type):
    """Q(W) by bitsandbytes' functions, not its layer."""
    packed, state = bnb.functional.quantize_4bit(
        weight.detach(), quant_type=quant_type, compress_statistics=True
    )
    return bnb.functional.dequantize_4bit(packed, state)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("groups", [None, "qv"])
def test_definition(quant_type, groups):
    rows = None if groups is None else [torch.arange(32), torch.arange(64, 96)]
    base = nn.Linear(64, 96)
    weight = dequantised(base.weight, quant_type)
    layer = QLoRALinear(base, rank=2, scale=1.5, groups=rows, quant_type=quant_type)
    with torch.no_grad():
        for name in layer.adapter_parameter_names():
            layer.get_parameter(name).normal_(0, 0.3)
    a, b = layer.update.lora_a, layer.update.lora_b
    change = torch.zeros(96, 64)
    for g, index in enumerate(rows or [torch.arange(96)]):
        own = slice(sum(len(r) for r in (rows or [])[:g]), None)
        change[index] = 1.5 * b[own][: len(index)] @ a[2 * g : 2 * g + 2]
    x = torch.randn(3, 5, 64)
    expected = x @ (weight + change).T + base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    merged = layer.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-4)
    assert 0 < (weight - base.weight).abs().max() < 0.5 * base.weight.abs().max()


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
def test_starts_as_the_quantised_network_and_trains_its_factors_alone(make_small, as_if_cuda, kind):
    net, plain = make_small(kind), make_small(kind)
    summary = adapt(net, QLoRA(rank=2, blocks="last:1"), decoder="qlora")
    layers = dict(adapted_modules(net))
    assert set(layers) == set(summary.adapted)
    in_encoder = {p: m for p, m in layers.items() if p.startswith("image_encoder.")}
    assert len(in_encoder) == 4 * len(net.image_encoder.adapter_sites())
    assert sum(type(m) is QLoRALinear for m in in_encoder.values()) == 1
    assert sum(type(m) is QuantisedLinear for m in in_encoder.values()) == len(in_encoder) - 1
    assert all(type(m) is LoRALinear for p, m in layers.items() if p not in in_encoder)
    with torch.no_grad():
        for path in in_encoder:
            weight = plain.get_submodule(path).weight
            weight.copy_(dequantised(weight, "nf4"))
        image = image_batch(net)
        expected = plain(image)
        assert (net(image) - expected).abs().max() <= 1e-3 * expected.abs().max()
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {n.rsplit(".", 1)[1] for n in trained if not n.startswith("class_head")} == {
        "lora_a",
        "lora_b",
    }
    before = {n: t.detach().clone() for n, t in net.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        net.train()(image).square().mean().backward()
        optimizer.step()
    after = net.state_dict()
    assert {n for n, t in before.items() if not torch.equal(t, after[n])} == trained


@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
@torch.no_grad()
def test_merges_to_a_plain_network(make_small, as_if_cuda, kind):
    net, plain = make_small(kind), make_small(kind)
    adapt(net, QLoRA(rank=2), decoder="frozen")
    for name, parameter in net.named_parameters():
        if name.endswith("lora_b"):
            parameter.normal_(0, 0.1)
    image = image_batch(net)
    expected = net(image)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(image), expected)
    merge_adapters(net)
    assert (net(image) - expected).abs().max() <= 1e-3 * expected.abs().max()
    plain.load_state_dict(net.state_dict(), strict=True)
    assert (plain(image) - expected).abs().max() <= 1e-3 * expected.abs().max()


@torch.no_grad()
def test_adapter_file(tmp_path, make_small, as_if_cuda):
    method, path = QLoRA(rank=2), tmp_path / "adapter.safetensors"
    net, other = make_small("sam_vit"), make_small("sam_vit")
    adapt(net, method, decoder="qlora")
    for name, parameter in net.named_parameters():
        if name.endswith("lora_b"):
            parameter.normal_(0, 0.1)
    save_adapter(path, net, peft=method_configs(method, "qlora"))
    assert (
        path.stat().st_size < 4 * sum(p.numel() for p in net.parameters() if p.requires_grad) + 2e4
    )
    adapt(other, method, decoder="qlora")
    load_adapter(other, path, peft=method_configs(method, "qlora"))
    image = image_batch(net)
    assert torch.equal(other(image), net(image))


def test_overlap_with_another_method_is_refused(make_small, as_if_cuda):
    methods = [build_method({"name": "ssf", "targets": ["mlp"]}), QLoRA(rank=2)]
    for order in (methods, methods[::-1]):
        with pytest.raises(ValueError, match="disjoint"):
            adapt(make_small("sam_vit"), order)


def test_without_cuda(make_small, monkeypatch):
    monkeypatch.setattr(qlora, "has_cuda", lambda: False)
    with pytest.raises(ValueError, match="qlora needs a CUDA device to quantise on"):
        adapt(make_small("sam_vit"), QLoRA(rank=2))


def test_without_bitsandbytes(make_small, as_if_cuda, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"pip install 'samtune\[qlora\]'"):
        adapt(make_small("sam_vit"), QLoRA(rank=2))


def test_unknown_quantisation():
    with pytest.raises(ValueError, match="nf4, fp4, got 'int8'"):
        QLoRA(quant_type="int8")


@pytest.mark.gpu
def test_on_cuda(make_small):
    """Moved to the device, which is where it was made."""
    net = make_small("sam_vit").cuda()
    adapt(net, QLoRA(rank=2), decoder="full")
    image = image_batch(net).cuda()
    loss = net(image).square().mean()
    loss.backward()
    assert loss.isfinite()
    moved = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.endswith("lora_b") for name in moved)


def test_merges_what_inference_packed_anew():
    """On CPUs with bfloat16 units bitsandbytes repacks the weight at the first inference."""
    layer = QLoRALinear(nn.Linear(128, 256), rank=2).eval()
    before = layer.merge().weight
    with torch.no_grad():
        layer(torch.randn(1, 128))
    # the constants of its blocks are then bfloat16
    torch.testing.assert_close(layer.merge().weight, before, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1])
def test_biases_train_beside_it_in_either_order(make_small, as_if_cuda, order):
    methods = [build_method({"name": "bias"}), QLoRA(rank=2)]
    net = make_small("sam_vit")
    adapt(net, methods[::-1] if order else methods, decoder="frozen")
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert "image_encoder.blocks.0.attn.qkv.base.bias" in trained
    assert "image_encoder.blocks.0.attn.qkv.update.lora_a" in trained

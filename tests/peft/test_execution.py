"""Ways to run an adapted network: half precision, gradient checkpoints, torch.compile."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from samtune.peft.adapt import adapt


@pytest.fixture
def make_adapted(make_small, tiny_method, randomise_adapters):
    """``make_adapted(kind, name)``: a network with random adapters in encoder and decoder."""

    def make(kind, name, **changes):
        net = make_small(kind)
        if kind != "hiera":  # its neck has no LayerNorm2d, which squares: 256 is float16's end
            with torch.no_grad():
                net.image_encoder.neck[0].weight.div_(64)
        adapt(net, tiny_method(name, **changes), decoder=name)
        return randomise_adapters(net, 0.1)

    return make


def gradients(net, output):
    """Of a loss that weighs all outputs differently."""
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    found = torch.autograd.grad((output * weights).mean(), trained.values(), allow_unused=True)
    return dict(zip(trained, found, strict=True))


def image_batch(net):
    return torch.randn(2, 3, net.image_size, net.image_size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(make_adapted, kind, name, dtype):
    net = make_adapted(kind, name).train()
    image = image_batch(net)[:, :1]
    exact = net(image)
    with torch.autocast("cpu", dtype=dtype):
        logits = net(image)
        # as a gradient scaler does: small gradients would underflow in float16
        rounded = gradients(net, 1024 * logits.float())
    assert logits.isfinite().all()
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()
    for key, gradient in gradients(net, exact).items():
        assert rounded[key].dtype == torch.float32
        assert rounded[key].isfinite().all(), key
        assert (rounded[key] != 0).any() == (gradient != 0).any(), key


def test_bfloat16_autocast_of_salt_as_released(make_adapted):
    net = make_adapted("sam_vit", "salt", reference=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(image_batch(net))
        rounded = gradients(net, logits.float())
    assert all(g.isfinite().all() for g in rounded.values())


class Checkpointed(nn.Module):
    """A block as SAM-based training code runs it where memory is short."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def insert_checkpoints(encoder):
    for site in encoder.adapter_sites():
        parent, _, index = site.block.rpartition(".")
        encoder.get_submodule(parent)[int(index)] = Checkpointed(encoder.get_submodule(site.block))


def test_gradient_checkpoints(make_adapted, kind, name):
    net = make_adapted(kind, name).train()
    encoder, image = net.image_encoder, image_batch(net)
    output = encoder(image)
    if not output.requires_grad:
        assert name == "decoder_only"
        return
    expected = list(gradients(encoder, output).values())
    insert_checkpoints(encoder)
    again = encoder(image)
    assert torch.equal(again, output)
    for found, gradient in zip(gradients(encoder, again).values(), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


def test_gradient_checkpoints_of_two_forwards(make_adapted, kind, name):
    """Blocks are run again for the images that they saw, also after other images passed."""
    if name == "decoder_only":
        return
    net = make_adapted(kind, name).train()
    encoder, images = net.image_encoder, image_batch(net).split(1)
    expected = list(gradients(encoder, torch.cat([encoder(image) for image in images])).values())
    insert_checkpoints(encoder)
    again = torch.cat([encoder(image) for image in images])
    if name == "sam_adapter":  # its prompts are those of the last image
        with pytest.raises(RuntimeError, match="one forward before each backward"):
            gradients(encoder, again)
        return
    for found, gradient in zip(gradients(encoder, again).values(), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_compiled_as_one_graph(make_adapted, kind, name):
    net = make_adapted(kind, name)
    encoder, image = net.image_encoder, image_batch(net)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = encoder(image)
        torch.testing.assert_close(compiled(image), expected, rtol=1e-6, atol=1e-6)
    output = encoder.train()(image)
    if not output.requires_grad:
        assert name == "decoder_only"
        return
    found = gradients(encoder, compiled(image))
    for key, gradient in gradients(encoder, output).items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("layer_method", ["lora", "salt"])
@pytest.mark.parametrize("kind", ["sam_vit", "tiny_vit"])
def test_compiled_by_inductor(make_adapted, kind, layer_method):
    net = make_adapted(kind, layer_method).train()
    encoder, image = net.image_encoder, image_batch(net)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="inductor")
    output = encoder(image)
    again = compiled(image)
    torch.testing.assert_close(again, output, rtol=1e-4, atol=1e-4)
    found = gradients(encoder, again)
    for key, gradient in gradients(encoder, output).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-3 * scale)

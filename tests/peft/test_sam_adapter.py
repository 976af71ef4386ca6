"""SAM-Adapter: the whole encoder written out with its prompts, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samtune.peft.adapt import adapt
from samtune.peft.protocol import NotMergeableError
from samtune.peft.sam_adapter import SAMAdapter, high_frequencies

DOUBLE = torch.float64


def close(found, expected):
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)


def high_frequencies_by_numpy(image, tau):
    """|IFFT(FFT(I) without a centred square of half side int(sqrt(H W tau) // 2))|."""
    height, width = image.shape[-2:]
    half = int(math.sqrt(height * width * tau) // 2)
    spectrum = np.fft.fftshift(np.fft.fft2(image.numpy()), axes=(-2, -1))
    y, x = height // 2, width // 2
    spectrum[..., y - half : y + half, x - half : x + half] = 0
    return torch.from_numpy(np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real))


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (9, 9), (10, 12)])
@pytest.mark.parametrize("tau", [0, 0.1, 0.25, 0.6])
def test_high_frequencies(size, tau):
    image = torch.randn(2, 3, *size, dtype=DOUBLE) + 1
    found = high_frequencies(image, tau)
    assert found.dtype == DOUBLE
    close(found, high_frequencies_by_numpy(image, tau))


def test_removed_area_of_sam_input():
    """tau = 0.25 at 1024 px: the inner 512 x 512 frequencies, a quarter of them."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def wave(u, v):
        return torch.cos(2 * math.pi * (u * x + v * y) / 64)[None, None]

    for u, v in [(0, 0), (15, 0), (0, 15), (15, 15), (9, 3)]:  # |u|, |v| < 16 = side / 4
        assert high_frequencies(wave(u, v), 0.25).abs().max() < 1e-5
    for u, v in [(17, 0), (0, 17), (17, 17), (31, 3), (3, 31)]:
        torch.testing.assert_close(
            high_frequencies(wave(u, v), 0.25), wave(u, v).abs(), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_high_frequencies_of_half_precision(dtype):
    image = torch.randn(1, 3, 20, 20, dtype=dtype)
    found = high_frequencies(image, 0.25)
    assert found.dtype == dtype
    expected = high_frequencies_by_numpy(image.double(), 0.25)
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.01)


@pytest.fixture
def adapt_net(make_small, randomise_adapters):
    def call(kind):
        net, plain = make_small(kind).double(), make_small(kind).double()
        adapt(net, SAMAdapter(tune_width=7, hidden=5, tau=0.3), decoder="frozen")
        return randomise_adapters(net, 0.3), plain.requires_grad_(False)

    return call


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def task_information(p, x0, image, stride):
    """F = W_pe x0 + b + W_hfc patches + b; a patch is a vector (channel, row, column)."""
    patches = F.unfold(high_frequencies_by_numpy(image, 0.3), stride, stride=stride)
    grid = (image.shape[2] // stride, image.shape[3] // stride)
    patches = patches.transpose(1, 2).unflatten(1, grid)
    return linear(p, "patch_tune", x0) + linear(p, "hfc_tune", patches)


def prompt(p, index, task, width):
    """P_i = up(GELU(tune_i(F))), one ``up`` for all blocks of a width."""
    return linear(p, f"up.{width}", gelu(linear(p, f"tune.{index}", task)))


@torch.no_grad()
def test_encoder_of_sam(adapt_net):
    net, plain = adapt_net("sam_vit")
    encoder = plain.image_encoder
    image = torch.randn(2, 3, 64, 64, dtype=DOUBLE)
    p = dict(net.image_encoder.sam_adapter.named_parameters())
    assert len(p) == 2 * (2 + 4 + 1)  # two tunes of the input, depth + 1 of F, one up
    x = encoder.patch_embed(image) + encoder.pos_embed
    task = task_information(p, x, image, 16)
    x = x + prompt(p, 0, task, 24)
    for i, block in enumerate(encoder.blocks):
        x = block(x) + prompt(p, i + 1, task, 24)
    expected = encoder.neck(x.permute(0, 3, 1, 2))
    found = net.image_encoder(image)
    assert (expected - encoder(image)).abs().max() > 1e-2
    close(found, expected)


@torch.no_grad()
def test_encoder_of_tiny_vit(adapt_net):
    """F is on the grid of the first attention stage and averaged onto the coarser ones."""
    net, plain = adapt_net("tiny_vit")
    encoder = plain.image_encoder
    image = torch.randn(2, 3, 32, 32, dtype=DOUBLE)
    p = dict(net.image_encoder.sam_adapter.named_parameters())
    x = encoder.layers[0].blocks[0](encoder.patch_embed(image))
    x = encoder.layers[0].downsample(x).permute(0, 2, 3, 1)
    task = task_information(p, x, image, 2)
    x = x + prompt(p, 0, task, 12)
    index = 1
    for stage in list(encoder.layers)[1:]:
        while task.shape[1] > x.shape[1]:
            task = task.unflatten(2, (-1, 2)).mean(3).unflatten(1, (-1, 2)).mean(2)
        for block in stage.blocks:
            x = block(x)
            x = x + prompt(p, index, task, x.shape[-1])
            index += 1
        if stage.downsample is not None:
            x = stage.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = encoder.neck(x.permute(0, 3, 1, 2))
    assert index == 6
    assert (expected - encoder(image)).abs().max() > 1e-2
    close(net.image_encoder(image), expected)


@pytest.mark.parametrize("kind", ["tiny_vit", "sam_vit"])
@pytest.mark.parametrize("with_graph", [False, True])
def test_images_of_a_batch_have_their_own_prompts(adapt_net, kind, with_graph):
    net, _ = adapt_net(kind)
    encoder = net.image_encoder
    images = torch.randn(3, 3, net.image_size, net.image_size, dtype=DOUBLE)
    with torch.set_grad_enabled(with_graph):
        together = encoder(images)
        close(torch.cat([encoder(image[None]) for image in images]), together)
        close(encoder(images), together)


def test_a_forward_that_failed_leaves_nothing_behind(adapt_net):
    net, _ = adapt_net("sam_vit")
    image, other = torch.randn(2, 1, 3, 64, 64, dtype=DOUBLE)
    expected = net.image_encoder(image)
    handle = net.image_encoder.patch_embed.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.image_encoder(other)
    handle.remove()
    close(net.image_encoder(image), expected)


@pytest.mark.parametrize("blocks", ["last:1", [0, 1], "last:0"])
def test_some_blocks_are_refused(make_small, blocks):
    with pytest.raises(ValueError, match="blocks must be 'all'"):
        adapt(make_small("sam_vit"), SAMAdapter(blocks=blocks))


@pytest.mark.parametrize("tau", [-0.1, 1.01])
def test_tau_out_of_range(tau):
    with pytest.raises(ValueError, match=rf"tau must be in \[0, 1\], got {tau}"):
        SAMAdapter(tau=tau)


def test_not_mergeable_alone(adapt_net):
    net, _ = adapt_net("sam_vit")
    with pytest.raises(NotMergeableError, match="not mergeable"):
        net.image_encoder.sam_adapter.merge()

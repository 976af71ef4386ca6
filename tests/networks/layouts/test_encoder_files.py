"""Encoders without the rest of a SAM: MAE's pretraining files, and encoders alone."""

import argparse
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samtune.networks import build_sam
from samtune.networks.layouts import to_published_names

WIDTH, DEPTH, HEADS, GRID = 24, 3, 3, 4  # as in conftest
load = partial(build_sam, normalization="sam")


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


class MaskedAutoencoder(nn.Module):
    """Names and shapes of the official pretraining network; only the encoder is ever run."""

    def __init__(self, side=GRID):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, WIDTH))
        self.blocks = nn.ModuleList(self.block(WIDTH) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.decoder_embed = nn.Linear(WIDTH, 8)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, 8))
        self.decoder_blocks = nn.ModuleList([self.block(8)])
        self.decoder_norm = nn.LayerNorm(8)
        self.decoder_pred = nn.Linear(8, 16 * 16 * 3)

    @staticmethod
    def block(width):
        block = nn.Module()
        block.norm1, block.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        block.attn, block.mlp = nn.Module(), nn.Module()
        block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return block

    def tokens(self, image):
        """Patch tokens after all blocks, without the class token: timm's block, written out."""
        x = self.patch_embed.proj(image).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        for block in self.blocks:
            h = F.layer_norm(x, (WIDTH,), block.norm1.weight, block.norm1.bias, 1e-6)
            q, k, v = block.attn.qkv(h).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block.attn.proj(h)
            h = F.layer_norm(x, (WIDTH,), block.norm2.weight, block.norm2.bias, 1e-6)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(h)))
        return x.unflatten(1, (GRID, GRID))


@pytest.mark.parametrize("kind", ["pretraining", "encoder", "classifier"])
def test_mae_encoder_with_the_other_parts_from_a_sam(
    randomised, upstream, sam_file, image, assert_close, tmp_path, kind
):
    mae = randomised(MaskedAutoencoder())
    state = mae.state_dict()
    if kind != "pretraining":
        state = {n: t for n, t in state.items() if not n.startswith(("decoder", "mask_token"))}
    if kind == "classifier":
        state |= {"head.weight": torch.zeros(5, WIDTH), "fc_norm.bias": torch.zeros(WIDTH)}
    path = tmp_path / "mae.pth"
    args = argparse.Namespace(model="mae_vit_base_patch16", blr=1e-3, dist_url="env://", eval=False)
    scaler = {"scale": 65536.0, "growth_tracker": 3}
    torch.save(
        {"model": state, "optimizer": {}, "epoch": 799, "scaler": scaler, "args": args}, path
    )
    sam = load("auto", path, base=sam_file)
    assert sam.arch == "vit_b"
    own, base = sam.state_dict(), upstream.state_dict()
    from_base = [n for n in own if ".rel_pos_" in n or not n.startswith("image_encoder.")]
    from_base += [n for n in own if n.startswith("image_encoder.neck.")]
    assert len(from_base) > 100
    assert all(torch.equal(own[name], base[name]) for name in from_base)
    # without relative positions and windows the blocks are MAE's
    encoder = sam.image_encoder
    for block in encoder.blocks:
        block.window_size = 0
        block.attn.rel_pos_h.detach().zero_()
        block.attn.rel_pos_w.detach().zero_()
    with torch.no_grad():
        assert_close(encoder.forward_prefix(image, DEPTH), mae.tokens(image))


def test_mae_positions_of_another_grid_are_interpolated(
    randomised, sam_file, assert_close, tmp_path
):
    state = randomised(MaskedAutoencoder(side=7)).state_dict()
    torch.save({"model": state}, tmp_path / "mae.pth")
    found = load("vit_b", tmp_path / "mae.pth", base=sam_file).image_encoder.pos_embed
    grid = state["pos_embed"][0, 1:].T.view(1, WIDTH, 7, 7)
    expected = F.interpolate(grid, (GRID, GRID), mode="bicubic", align_corners=False)
    assert_close(found, expected.permute(0, 2, 3, 1))


def test_mae_with_an_unknown_name_or_no_square(randomised):
    state = randomised(MaskedAutoencoder()).state_dict()
    with pytest.raises(ValueError, match=r"autoencoder: blocks\.0\.gamma has no counterpart"):
        to_published_names(state | {"blocks.0.gamma": torch.zeros(1)}, source="'x'")
    with pytest.raises(ValueError, match=r"15 positions .* no square"):
        to_published_names(state | {"pos_embed": torch.zeros(1, 16, WIDTH)}, source="'x'")


@pytest.mark.parametrize("prefix", ["", "image_encoder.", "module.image_encoder."])
def test_encoder_alone(upstream, upstream_sam, sam_file, image, assert_close, tmp_path, prefix):
    other = upstream_sam()
    torch.save(prefixed(other.image_encoder.state_dict(), prefix), tmp_path / "encoder.pth")
    sam = load("auto", tmp_path / "encoder.pth", base=sam_file)
    with torch.no_grad():
        assert_close(sam.image_encoder(image), other.image_encoder(image))
    parts = {**sam.prompt_encoder.state_dict(), **sam.mask_decoder.state_dict()}
    expected = {**upstream.prompt_encoder.state_dict(), **upstream.mask_decoder.state_dict()}
    assert parts.keys() == expected.keys()
    assert all(torch.equal(parts[name], expected[name]) for name in parts)


@pytest.fixture
def encoder_file(upstream, tmp_path):
    torch.save(upstream.image_encoder.state_dict(), tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def test_encoder_without_a_base_says_what_is_missing_and_how_to_give_it(encoder_file):
    with pytest.raises(ValueError, match=r"\.pth' \(encoder\) has nothing of prompt_encoder"):
        load("vit_b", encoder_file)
    with pytest.raises(ValueError, match=r"mask_decoder: name with base=FILE"):
        load("auto", encoder_file)


def test_parts_that_may_be_missing_are_named(encoder_file, upstream, image, assert_close):
    sam = load("vit_b", encoder_file, allow_missing=["prompt_encoder.*", "mask_decoder.*"])
    with torch.no_grad():
        assert_close(sam.image_encoder(image), upstream.image_encoder(image))
    with pytest.raises(ValueError, match=r"missing: prompt_encoder\."):
        load("vit_b", encoder_file, allow_missing=["mask_decoder.*"])


def test_single_tensors_are_not_taken_from_a_base(encoder_file, sam_file):
    state = torch.load(encoder_file)
    del state["neck.0.weight"], state["blocks.1.attn.rel_pos_h"]
    torch.save(state, encoder_file)
    with pytest.raises(ValueError, match=r"lacks single tensors .*blocks\.1.*neck\.0\.weight"):
        load("vit_b", encoder_file, base=sam_file)


def test_a_base_that_is_not_needed_is_refused(sam_file):
    with pytest.raises(ValueError, match="has all parts of a SAM: nothing to take from base"):
        load("vit_b", sam_file, base=sam_file)
    with pytest.raises(ValueError, match="base goes with a checkpoint"):
        load("vit_b", "random", base=sam_file)


def test_base_is_part_of_the_hash(encoder_file, sam_file, upstream_sam, tmp_path):
    torch.save(upstream_sam().state_dict(), tmp_path / "other.pth")
    hashes = {
        load("vit_b", encoder_file, base=base).base_sha256
        for base in (sam_file, tmp_path / "other.pth")
    }
    assert len(hashes) == 2

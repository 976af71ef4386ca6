"""Unmodified ``segment_anything`` models: adapted, merged, and run by its own predictor."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from samtune.networks.sam_vit import SamViT
from samtune.peft.adapt import adapt, merge_adapters, unmerge_adapters
from samtune.peft.protocol import NotMergeableError, adapted_modules

SIZES = {"depth": 2, "num_heads": 3}


@pytest.fixture
def sam():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=16,
        embed_dim=24,
        out_chans=256,
        use_rel_pos=True,
        window_size=2,
        global_attn_indexes=(1,),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **SIZES,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16
    )
    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=64, num_heads=8),
        num_multimask_outputs=3,
    )
    sam = Sam(encoder, prompt_encoder, decoder).eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(0, 1.5 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.3)
    return sam


def masks_and_logits(sam):
    """What the predictor says about an image, a box and a point."""
    predictor = SamPredictor(sam)
    image = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    predictor.set_image(image)
    prompts = {
        "box": np.array([5, 6, 30, 40]),
        "point_coords": np.array([[20, 20]]),
        "point_labels": np.array([1]),
    }
    masks, quality, low_resolution = predictor.predict(**prompts, return_logits=True)
    assert masks.shape == (3, 48, 40)
    binary, _, _ = predictor.predict(**prompts)
    assert np.array_equal(binary, masks > 0)
    return masks, quality, low_resolution


def assert_near(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def difference(a, b):
    return np.abs(a[0] - b[0]).max() / np.abs(b[0]).max()


def test_predictor_runs_adapted_and_merged(sam, tiny_method, randomise_adapters, name):
    method = tiny_method(name)
    plain, names = masks_and_logits(sam), list(sam.state_dict())
    adapt(sam, method, decoder=name)
    if method.identity == "exact":
        assert all(np.array_equal(a, b) for a, b in zip(masks_and_logits(sam), plain, strict=True))
    else:
        assert_near(masks_and_logits(sam), plain)
    randomise_adapters(sam)
    expected = masks_and_logits(sam)
    if list(adapted_modules(sam)):
        assert difference(expected, plain) > 1e-2
    if not method.mergeable:
        with pytest.raises(NotMergeableError):
            merge_adapters(sam)
        return
    adapters = merge_adapters(sam)
    assert list(sam.state_dict()) == names
    merged = masks_and_logits(sam)
    assert_near(merged, expected)
    unmerge_adapters(sam, adapters)
    again = masks_and_logits(sam)
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


def test_the_same_as_in_our_encoder(sam, tiny_method, name):
    """Structure found by names gives the layers that our encoder lists."""
    upstream = sam.image_encoder
    own = SamViT(
        image_size=64, dim=24, global_blocks=(1,), window=2, attention="reference", **SIZES
    )
    own.load_state_dict(upstream.state_dict(), strict=True)
    twin = Sam(own, sam.prompt_encoder, sam.mask_decoder).eval()
    summaries = [
        adapt(
            model,
            tiny_method(name),
            decoder="frozen",
            generator=torch.Generator().manual_seed(1),
        )
        for model in (sam, twin)
    ]
    assert summaries[0] == summaries[1]
    assert list(own.state_dict()) == list(upstream.state_dict())
    for _, module in [*adapted_modules(upstream), *adapted_modules(own)]:
        for index, name in enumerate(module.adapter_parameter_names()):
            parameter = module.get_parameter(name)
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.data.add_(noise, alpha=0.1)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(upstream(image), own(image))


def test_full_decoder_is_all_of_it(sam, tiny_method):
    adapt(sam, tiny_method("lora"), decoder="full")
    assert all(p.requires_grad for p in sam.mask_decoder.parameters())
    assert not any(p.requires_grad for p in sam.prompt_encoder.parameters())


def test_trains_with_upstream_calls(sam, tiny_method):
    adapt(sam, tiny_method("lora"), decoder="full")
    sparse, dense = sam.prompt_encoder(
        points=None, boxes=torch.tensor([[5, 5, 40, 40]]), masks=None
    )
    masks, quality = sam.mask_decoder(
        image_embeddings=sam.image_encoder(torch.randn(1, 3, 64, 64)),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    (masks.square().mean() + quality.square().mean()).backward()
    for name, p in sam.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_encoder_of_another_structure_is_refused(sam, tiny_method):
    del sam.image_encoder.blocks[0].norm1
    with pytest.raises(ValueError, match=r"ImageEncoderViT has no adapter_sites\(\)"):
        adapt(sam, tiny_method("lora"))
    sam.image_encoder = nn.Conv2d(3, 256, 16)
    with pytest.raises(ValueError, match=r"Conv2d has no adapter_sites\(\)"):
        adapt(sam, tiny_method("lora"))

"""SAM's ViT at a size that costs nothing, ours and upstream's, for files in all layouts."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as UpstreamSam
from torch import nn

from samtune.networks import ARCHITECTURES, SamSegmenter
from samtune.networks.architectures import Architecture
from samtune.networks.sam_vit import SamViT

SIZE, WIDTH, DEPTH, HEADS, WINDOW = 64, 24, 3, 3, 3  # four blocks of tokens a side
GRID = SIZE // 16


def make_upstream_sam(num_multimask=3):
    encoder = ImageEncoderViT(
        img_size=SIZE,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=256,
        image_embedding_size=(GRID, GRID),
        input_image_size=(SIZE, SIZE),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=num_multimask,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
    )
    return UpstreamSam(encoder, prompts, decoder)


@pytest.fixture
def upstream_sam(randomised):
    """``upstream_sam(num_multimask=3)``: ``segment_anything``'s, with seeded weights."""
    return lambda num_multimask=3: randomised(make_upstream_sam(num_multimask))


@pytest.fixture
def upstream(upstream_sam):
    return upstream_sam()


@pytest.fixture
def sam_file(upstream, tmp_path):
    torch.save(upstream.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture(autouse=True)
def _tiny_vit_b(monkeypatch):
    """SAM's ViT at a size that costs nothing, under the name of the real one."""

    def encoder(size):
        return SamViT(
            image_size=size,
            dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            global_blocks=(1,),
            window=WINDOW,
        )

    monkeypatch.setitem(ARCHITECTURES, "vit_b", Architecture(encoder, SIZE, 16, "sam"))


@pytest.fixture
def image():
    return torch.randn(2, 3, SIZE, SIZE)


@pytest.fixture
def boxes():
    """One an image."""
    return torch.tensor([[5.0, 9, 40, 50], [20, 3, 60, 33]])


def masks_of(upstream, embedding, boxes):
    """Single masks of one box an image, by upstream's parts."""
    out = []
    for one, box in zip(embedding, boxes, strict=True):
        sparse, dense = upstream.prompt_encoder(points=None, boxes=box[None], masks=None)
        low, _ = upstream.mask_decoder(
            image_embeddings=one[None],
            image_pe=upstream.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        out.append(F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False))
    return torch.cat(out)


def close(found, expected, tolerance=1e-5):
    """Equal up to rounding, relative to the largest value, which is not small."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture
def assert_close():
    return close


@pytest.fixture
def assert_computes_the_same(image, boxes):
    """``assert_computes_the_same(sam, upstream)``: embedding and the masks of boxes."""

    @torch.no_grad()
    def check(sam, upstream):
        embedding = upstream.image_encoder(image)
        close(sam.image_encoder(image), embedding)
        masks, valid = SamSegmenter(sam, 1).eval()(image, boxes=boxes[:, None])
        assert valid.all()
        close(masks, masks_of(upstream, embedding, boxes))

    return check

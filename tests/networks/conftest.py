"""Tiny encoders and SAMs with random weights, statistics included, for the tests of networks."""

import pytest
import torch

from samtune.networks import SamSegmenter
from samtune.networks.build import assemble_sam
from samtune.networks.sam2_encoder import Hiera
from samtune.networks.sam_vit import SamViT
from tests.tiny_encoders import tiny_vit


def randomise(module, generator):
    """Fill every parameter and every BatchNorm statistic: a zero or a one would hide a mistake.

    The scales let the image through to the output: ``test_fixtures_depend_on_the_image``.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                fan_in = max(parameter[0].numel(), 1)
                parameter.normal_(0, 1.5 * fan_in**-0.5, generator=generator)
            elif name.endswith("weight"):  # of a normalisation
                parameter.uniform_(0.7, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.1, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def sam_vit(image_size=64, attention="auto"):
    return SamViT(
        image_size=image_size,
        dim=24,
        depth=3,
        num_heads=3,
        global_blocks=(1,),
        window=3,
        attention=attention,
    )


def hiera(image_size=64):
    """Blocks 0 | 1 2 | 3 4 5 | 6 by stage, number 4 global."""
    return Hiera(
        image_size=image_size, dim=16, depths=(1, 2, 3, 1), num_heads=2, global_blocks=(4,)
    )


@pytest.fixture(autouse=True)
def _own_chance():
    """Every test draws the same numbers, and leaves torch's generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def randomised(generator):
    """``randomised(module)``: :func:`randomise` with the test's generator."""
    return lambda module: randomise(module, generator)


@pytest.fixture
def make_encoder(generator):
    """``make_encoder("tiny_vit" | "sam_vit" | "hiera", **options)``."""
    kinds = {"tiny_vit": tiny_vit, "sam_vit": sam_vit, "hiera": hiera}

    def make(kind, **options):
        return randomise(kinds[kind](**options), generator)

    return make


@pytest.fixture
def make_segmenter(make_encoder, generator):
    """A segmenter around a tiny encoder: 32 px with TinyViT, 64 px with the others."""

    def make(kind="tiny_vit", num_classes=2):
        sam = assemble_sam(
            make_encoder(kind),
            arch=kind,
            image_size={"tiny_vit": 32, "sam_vit": 64, "hiera": 64}[kind],
            normalization="medsam",
        )
        randomise(sam.prompt_encoder, generator)
        randomise(sam.mask_decoder, generator)
        return SamSegmenter(sam, num_classes).eval()

    return make


@pytest.fixture
def transformers_sam2(generator):
    """``transformers_sam2(image_size)``: a tiny ``Sam2Model``, random, with ``hiera``'s blocks."""
    transformers = pytest.importorskip("transformers")

    def make(image_size=64):
        side = image_size // 16
        backbone = transformers.Sam2HieraDetConfig(
            hidden_size=16,
            num_attention_heads=2,
            blocks_per_stage=[1, 2, 3, 1],
            embed_dim_per_stage=[16, 32, 64, 128],
            num_attention_heads_per_stage=[2, 4, 8, 16],
            global_attention_blocks=[4],
        )
        config = transformers.Sam2Config(
            vision_config=transformers.Sam2VisionConfig(
                backbone_config=backbone,
                backbone_channel_list=[128, 64, 32, 16],
                backbone_feature_sizes=[[4 * side] * 2, [2 * side] * 2, [side] * 2],
            ),
            prompt_encoder_config={"image_size": image_size},
            mask_decoder_config={"dynamic_multimask_via_stability": False},
        )
        model = transformers.Sam2Model(config).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.ndim > 1:
                    scale = 1.5 * max(tensor[0].numel(), 1) ** -0.5
                    tensor.normal_(0, scale, generator=generator)
                elif name.endswith("weight"):
                    tensor.uniform_(0.7, 1.5, generator=generator)
                else:
                    tensor.normal_(0, 0.1, generator=generator)
            model.prompt_encoder.shared_embedding.positional_embedding.copy_(
                model.shared_image_embedding.positional_embedding
            )
        return model

    return make


@pytest.fixture
def make_sam2(make_encoder):
    """``make_sam2(image_size)``: our parts with the same shapes."""

    def make(image_size=64):
        encoder = make_encoder("hiera", image_size=image_size)
        return assemble_sam(encoder, arch="tiny", image_size=image_size, normalization="sam")

    return make


@pytest.fixture
def to_meta():
    """``to_meta(name)``: Meta's name of one of ours."""
    return meta_name


def meta_name(own):
    """Meta's name of one of our names."""
    part, _, rest = own.partition(".")
    if part == "prompt_encoder":
        return f"sam_prompt_encoder.{rest}"
    if part == "mask_decoder":
        return "sam_mask_decoder." + rest.replace("lin1", "layers.0").replace("lin2", "layers.1")
    if rest == "no_mem_embed":
        return rest
    if rest.startswith("conv_s"):
        return f"sam_mask_decoder.{rest}"
    if rest.startswith("neck."):
        head, leaf = rest.rsplit(".", 1)
        return f"image_encoder.{head}.conv.{leaf}"
    for ours, theirs in (
        ("projection", "proj"),
        ("layer_norm", "norm"),
        ("proj_in", "layers.0"),
        ("proj_out", "layers.1"),
    ):
        rest = rest.replace(ours, theirs)
    return f"image_encoder.trunk.{rest}"

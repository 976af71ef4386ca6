"""SAM 2's published parameter names, Meta's and Hugging Face's, to the names of our networks.

Meta's ``.pt`` files ({"model": ...}) and Hugging Face's ``Sam2Model`` or ``Sam2VideoModel`` hold
the same image path; what else they hold serves video and is left out. Files of SAM 2.1 differ from
those of SAM 2 in such entries alone.
"""

import logging
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Names without their last .weight or .bias: (pattern of all of it, ours). The first that fits.
Table = tuple[tuple[str, str], ...]

META: Table = (
    (r"image_encoder\.trunk\.patch_embed\.proj", r"image_encoder.patch_embed.projection"),
    (r"image_encoder\.trunk\.(blocks\.\d+)\.norm([12])", r"image_encoder.\1.layer_norm\2"),
    (r"image_encoder\.trunk\.(blocks\.\d+\.mlp)\.layers\.0", r"image_encoder.\1.proj_in"),
    (r"image_encoder\.trunk\.(blocks\.\d+\.mlp)\.layers\.1", r"image_encoder.\1.proj_out"),
    (r"image_encoder\.trunk\.(blocks\.\d+\.(?:attn\.qkv|attn\.proj|proj))", r"image_encoder.\1"),
    (r"image_encoder\.trunk\.(pos_embed|pos_embed_window)", r"image_encoder.\1"),
    (r"image_encoder\.(neck\.convs\.\d)\.conv", r"image_encoder.\1"),
    (r"no_mem_embed", r"image_encoder.no_mem_embed"),
    (r"sam_mask_decoder\.(conv_s[01])", r"image_encoder.\1"),
    (r"sam_mask_decoder\.(transformer\.layers\.\d\.mlp)\.layers\.0", r"mask_decoder.\1.lin1"),
    (r"sam_mask_decoder\.(transformer\.layers\.\d\.mlp)\.layers\.1", r"mask_decoder.\1.lin2"),
    (r"sam_mask_decoder\.(.+)", r"mask_decoder.\1"),
    (r"sam_prompt_encoder\.(.+)", r"prompt_encoder.\1"),
)

_MLP = r"output_hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head"
_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
HUGGING_FACE: Table = (
    (r"vision_encoder\.backbone\.(.+)", r"image_encoder.\1"),
    (r"vision_encoder\.(neck\.convs\.\d)", r"image_encoder.\1"),
    (r"no_memory_embedding", r"image_encoder.no_mem_embed"),
    (r"shared_image_embedding\.positional_embedding", _MATRIX),
    (r"prompt_encoder\.shared_embedding\.positional_embedding", _MATRIX),  # the same again
    (r"prompt_encoder\.mask_embed\.conv1", r"prompt_encoder.mask_downscaling.0"),
    (r"prompt_encoder\.mask_embed\.layer_norm1", r"prompt_encoder.mask_downscaling.1"),
    (r"prompt_encoder\.mask_embed\.conv2", r"prompt_encoder.mask_downscaling.3"),
    (r"prompt_encoder\.mask_embed\.layer_norm2", r"prompt_encoder.mask_downscaling.4"),
    (r"prompt_encoder\.mask_embed\.conv3", r"prompt_encoder.mask_downscaling.6"),
    (r"mask_decoder\.(conv_s[01])", r"image_encoder.\1"),
    (r"mask_decoder\.upscale_conv1", r"mask_decoder.output_upscaling.0"),
    (r"mask_decoder\.upscale_layer_norm", r"mask_decoder.output_upscaling.1"),
    (r"mask_decoder\.upscale_conv2", r"mask_decoder.output_upscaling.3"),
    (rf"mask_decoder\.({_MLP})\.proj_in", r"mask_decoder.\1.layers.0"),
    (rf"mask_decoder\.({_MLP})\.layers\.0", r"mask_decoder.\1.layers.1"),
    (rf"mask_decoder\.({_MLP})\.proj_out", r"mask_decoder.\1.layers.2"),
    (
        r"mask_decoder\.transformer\.layer_norm_final_attn",
        r"mask_decoder.transformer.norm_final_attn",
    ),
    (r"mask_decoder\.(transformer\.layers\.\d)\.layer_norm(\d)", r"mask_decoder.\1.norm\2"),
    (r"mask_decoder\.(transformer\.layers\.\d)\.mlp\.proj_in", r"mask_decoder.\1.mlp.lin1"),
    (r"mask_decoder\.(transformer\.layers\.\d)\.mlp\.proj_out", r"mask_decoder.\1.mlp.lin2"),
    (r"mask_decoder\.(transformer\..+)\.o_proj", r"mask_decoder.\1.out_proj"),
)
POINTS = "prompt_encoder.point_embed.weight"  # Hugging Face: four embeddings in one tensor

# beginnings of names that serve video alone
VIDEO_ONLY = (
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    # Meta
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    # Hugging Face
    "memory_temporal_positional_encoding",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
    "object_pointer_proj.",
    "temporal_positional_encoding_projection_layer.",
)


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` has the names of a SAM 2 as Meta or Hugging Face publish it."""
    return _table(state) is not None


def video_only(state: Mapping[str, Tensor]) -> list[str]:
    """Names of ``state`` that serve video alone, which :func:`convert` leaves out."""
    return [name for name in state if name.startswith(VIDEO_ONLY)]


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image path of a published SAM 2 under our names.

    Names that no table knows are kept, so that strict loading lists them.

    Raises:
        ValueError: the names are no SAM 2's, or two entries are the same parameter with different
            values.
    """
    table = _table(state)
    if table is None:
        first = ", ".join(list(state)[:3])
        msg = (
            "expected the names of a SAM 2 as published (image_encoder.trunk.… or "
            f"vision_encoder.backbone.…), got {first}"
        )
        raise ValueError(msg)
    dropped = set(video_only(state))
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in dropped:
            continue
        for own, part in _entries(name, tensor, table):
            if own in out and not torch.equal(out[own], part):
                msg = f"two entries are {own}, '{name}' is one of them, and their values differ"
                raise ValueError(msg)
            out[own] = part
    if dropped:
        logger.info("SAM 2: left out %d entries that serve video only", len(dropped))
    return out


def _table(state: Mapping[str, Tensor]) -> Table | None:
    if "image_encoder.trunk.pos_embed_window" in state:
        return META
    return HUGGING_FACE if "vision_encoder.backbone.pos_embed_window" in state else None


def _entries(name: str, tensor: Tensor, table: Table) -> Iterator[tuple[str, Tensor]]:
    if name == POINTS:
        for i, row in enumerate(tensor):
            yield f"prompt_encoder.point_embeddings.{i}.weight", row[None]
    else:
        yield _own_name(name, table), tensor


def _own_name(name: str, table: Table) -> str:
    stem, _, leaf = name.rpartition(".")
    stem, leaf = (stem, f".{leaf}") if leaf in ("weight", "bias") else (name, "")
    for pattern, own in table:
        if match := re.fullmatch(pattern, stem):
            return match.expand(own) + leaf
    return name

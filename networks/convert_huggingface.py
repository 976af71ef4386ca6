"""Hugging Face ``SamModel`` (``transformers``) under SAM's published names."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# (their name, published name); first match counts, \\1 is the rest of the name
_TABLE = [
    (r"vision_encoder\.patch_embed\.projection\.(.+)", r"image_encoder.patch_embed.proj.\1"),
    (r"vision_encoder\.pos_embed", r"image_encoder.pos_embed"),
    (
        r"vision_encoder\.layers\.(\d+)\.layer_norm([12])\.(.+)",
        r"image_encoder.blocks.\1.norm\2.\3",
    ),
    (
        r"vision_encoder\.layers\.(\d+)\.((?:attn|mlp)\..+)",
        r"image_encoder.blocks.\1.\2",
    ),
    (r"vision_encoder\.neck\.conv1\.(.+)", r"image_encoder.neck.0.\1"),
    (r"vision_encoder\.neck\.layer_norm1\.(.+)", r"image_encoder.neck.1.\1"),
    (r"vision_encoder\.neck\.conv2\.(.+)", r"image_encoder.neck.2.\1"),
    (r"vision_encoder\.neck\.layer_norm2\.(.+)", r"image_encoder.neck.3.\1"),
    (r"prompt_encoder\.point_embed\.(.+)", r"prompt_encoder.point_embeddings.\1"),
    (r"prompt_encoder\.((?:not_a_point|no_mask)_embed\..+)", r"prompt_encoder.\1"),
    (r"prompt_encoder\.mask_embed\.conv1\.(.+)", r"prompt_encoder.mask_downscaling.0.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.(.+)", r"prompt_encoder.mask_downscaling.1.\1"),
    (r"prompt_encoder\.mask_embed\.conv2\.(.+)", r"prompt_encoder.mask_downscaling.3.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.(.+)", r"prompt_encoder.mask_downscaling.4.\1"),
    (r"prompt_encoder\.mask_embed\.conv3\.(.+)", r"prompt_encoder.mask_downscaling.6.\1"),
    (r"mask_decoder\.upscale_conv1\.(.+)", r"mask_decoder.output_upscaling.0.\1"),
    (r"mask_decoder\.upscale_layer_norm\.(.+)", r"mask_decoder.output_upscaling.1.\1"),
    (r"mask_decoder\.upscale_conv2\.(.+)", r"mask_decoder.output_upscaling.3.\1"),
    (
        r"mask_decoder\.transformer\.layer_norm_final_attn\.(.+)",
        r"mask_decoder.transformer.norm_final_attn.\1",
    ),
    (
        r"mask_decoder\.transformer\.layers\.(\d+)\.layer_norm([1-4])\.(.+)",
        r"mask_decoder.transformer.layers.\1.norm\2.\3",
    ),
    (r"mask_decoder\.((?:transformer|iou_token|mask_tokens)\..+)", r"mask_decoder.\1"),
]
_RULES = [(re.compile(theirs), ours) for theirs, ours in _TABLE]
_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
_PUBLISHED_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# their perceptrons: proj_in, layers.0 .. layers.n-1, proj_out; published: layers.0 .. layers.n+1
_MLP = re.compile(
    r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\."
    r"(proj_in|proj_out|layers\.(\d+))\.(weight|bias)"
)


def is_huggingface(state: Mapping[str, Tensor]) -> bool:
    """``SamModel`` or ``SamVisionModel`` (SAM 2's vision encoder has other names)."""
    return "vision_encoder.layers.0.layer_norm1.weight" in state


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename; of the positional matrix, which ``SamModel`` names twice, one copy stays.

    Raises:
        ValueError: a name without a counterpart, or the two copies differ.
    """
    out: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        new = _published(name, state)
        if new is None:
            unknown.append(name)
        elif new in out:
            if not torch.equal(out[new], tensor):
                msg = f"its two copies of {new} differ ({' and '.join(_POSITIONS)})"
                raise ValueError(msg)
        else:
            out[new] = tensor
    if unknown:
        msg = f"{len(unknown)} names have no counterpart in SAM, such as {unknown[0]}"
        raise ValueError(msg)
    return out


def _published(name: str, state: Mapping[str, Tensor]) -> str | None:
    if name in _POSITIONS:
        return _PUBLISHED_POSITIONS
    if found := _MLP.fullmatch(name):
        mlp, part, index, kind = found.groups()
        hidden = sum(k.startswith(f"{mlp}.layers.") and k.endswith(".weight") for k in state)
        layer = {"proj_in": 0, "proj_out": hidden + 1}.get(part)
        return f"{mlp}.layers.{int(index) + 1 if layer is None else layer}.{kind}"
    for theirs, ours in _RULES:
        if match := theirs.fullmatch(name):
            return match.expand(ours)
    return None

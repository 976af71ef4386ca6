"""Encoders pretrained as masked autoencoders (He et al. 2022, arXiv:2111.06377) in SAM's names.

The layout is that of the official code, whole or encoder only. Its position table is fixed
(sine-cosine) with an entry for the class token, which SAM doesn't have. Of SAM's encoder it lacks
the relative positions and the neck; its last norm has no place in SAM.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

_PLAIN = re.compile(r"patch_embed\.proj\..+|blocks\.\d+\.(norm[12]|attn\.(qkv|proj))\..+")
_MLP = re.compile(r"(blocks\.\d+\.mlp\.)fc([12])(\..+)")
# the reconstruction half, the class token, the last norm, a classifier fine-tuned on top
_UNUSED = re.compile(r"(decoder_|norm\.|fc_norm\.|head\.).*|mask_token|cls_token")


def is_mae(state: Mapping[str, Tensor]) -> bool:
    """A ViT with a class token and tokens in one row: ``pos_embed`` is ``1 (1 + L) D``."""
    position = state.get("pos_embed")
    return "cls_token" in state and position is not None and position.ndim == 3


def from_mae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What SAM's encoder takes over: patch embedding, positions (square grid), blocks.

    Raises:
        ValueError: a name without a counterpart, or positions that are no square.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "pos_embed":
            out["image_encoder.pos_embed"] = _grid(tensor)
        elif _PLAIN.fullmatch(name):
            out[f"image_encoder.{name}"] = tensor
        elif found := _MLP.fullmatch(name):
            out[f"image_encoder.{found[1]}lin{found[2]}{found[3]}"] = tensor
        elif not _UNUSED.fullmatch(name):
            msg = f"{name} has no counterpart in SAM's encoder"
            raise ValueError(msg)
    return out


def _grid(position: Tensor) -> Tensor:  # 1 (1 + h w) d -> 1 h w d
    tokens = position.shape[1] - 1
    side = math.isqrt(tokens)
    if side * side != tokens:
        msg = f"pos_embed has {tokens} positions besides the class token's, which is no square"
        raise ValueError(msg)
    return position[:, 1:].reshape(1, side, side, -1)

"""What an image encoder tells others about its attention blocks."""

from dataclasses import dataclass
from typing import Literal

QkvLayout = Literal["qkv", "heads"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention block of an encoder, in forward order. Paths are below the encoder.

    Attributes:
        index: position in forward order, from 0; convolution stages are not counted.
        block: the block, e.g. ``blocks.0``.
        attn: its attention module.
        qkv: the fused query/key/value ``nn.Linear``.
        num_heads: attention heads.
        layout: how the rows of the fused weight are ordered. ``qkv``: all queries, all keys, all
            values (SAM's ViT). ``heads``: head after head, each [q_h, k_h, v_h] (TinyViT).
        proj: the attention's output ``nn.Linear``.
        mlp: the MLP module.
        lin1, lin2: its two ``nn.Linear``.
        norms: the block's two LayerNorms, attention's first.
        mlp_norm: the second of them if the MLP module applies it itself, else ``None``.
        stride: image pixels a token is wide.
    """

    index: int
    block: str
    attn: str
    qkv: str
    num_heads: int
    layout: QkvLayout
    proj: str
    mlp: str
    lin1: str
    lin2: str
    norms: tuple[str, str]
    mlp_norm: str | None
    stride: int

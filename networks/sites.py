"""What an image encoder tells others about its attention blocks."""

from dataclasses import dataclass
from typing import Literal

QkvLayout = Literal["qkv", "heads"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention block of an encoder, in forward order.

    Attributes:
        index: position in forward order, from 0; convolution stages are not counted.
        block: module path of the block below the encoder, e.g. ``blocks.0``.
        qkv: module path of the fused query/key/value ``nn.Linear``.
        num_heads: attention heads.
        layout: how the rows of the fused weight are ordered. ``qkv``: all queries, all keys, all
            values (SAM's ViT). ``heads``: head after head, each [q_h, k_h, v_h] (TinyViT).
    """

    index: int
    block: str
    qkv: str
    num_heads: int
    layout: QkvLayout

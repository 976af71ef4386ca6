"""Gradient checkpointing: activations of encoder blocks are computed again, not kept."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def set_checkpointing(encoder: nn.Module, on: bool) -> None:
    """Keep only what goes into each attention block and compute the block again going backward.

    Gradients are the same to the bit: random draws within a block are repeated. Memory falls from
    all activations of the encoder to one tensor a block and the activations of one block; the
    trained blocks are run twice.
    """
    encoder_: Any = encoder
    encoder_.checkpointing = on


def run_block(block: nn.Module, x: Tensor, *, is_checkpointed: bool) -> Tensor:
    """``block(x)``."""
    if is_checkpointed and torch.is_grad_enabled():
        again: Tensor = checkpoint(block, x, use_reentrant=False)
        return again
    out: Tensor = block(x)
    return out

"""Untouched SAM with prompts from the reference label: every fine-tuned model's competitor."""

from pathlib import Path

import torch
from torch import Tensor, nn

from samtune.networks import SamSegmenter, build_sam

# what the companion of a table of metrics says about these masks
ORACLE_PROTOCOL = {
    "prompt": "oracle_box",
    "prompt_source": "the reference label: one tight box a class present in the slice, one"
    " around all for a region; slices without the class are predicted empty",
    "fine_tuned": False,
}


class PromptedSegmenter(nn.Module):
    """SAM with one box a scored region, as a network of one output.

    Args:
        arch, checkpoint, normalization: see :func:`samtune.networks.build_sam`.
        image_size: pixels; ``None``: the size it was trained at.
    """

    def __init__(
        self,
        arch: str = "auto",
        checkpoint: str | Path | None = None,
        image_size: int | None = None,
        normalization: str = "auto",
    ) -> None:
        super().__init__()
        sam = build_sam(arch, checkpoint, image_size, normalization=normalization)
        self.segmenter = SamSegmenter(sam, num_classes=1)  # the class head is not used
        self.image_size = sam.image_size
        self.normalization = sam.normalization

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Logits ``b p s s`` of boxes ``b p 4``; -inf where a box is NaN: no prompt, no mask."""
        logits, valid = self.segmenter(image, boxes=boxes)
        out: Tensor = logits.masked_fill(~valid[..., None, None], -torch.inf)
        return out

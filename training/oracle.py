"""Untouched SAM, prompted from the reference label or not at all: what fine-tuning has to beat."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samtune.networks import SamSegmenter, build_sam
from samtune.preprocessing.prompt_schemes import scheme_of

_SOURCES = {
    "oracle_box": "the reference label: one tight box a class present in the slice, one"
    " around all for a region; slices without the class are predicted empty",
    "centre_point": "the reference label: the deepest pixel of a class present in the slice, of"
    " all its classes for a region; slices without the class are predicted empty",
    "oracle_hybrid": "the reference label: box and deepest pixel of a class present in the slice,"
    " of all its classes for a region; slices without the class are predicted empty",
    "full_box": "none: a box around each slice, one mask for all classes",
    "no_prompt": "none: SAM's mask of each slice without a prompt, one for all classes",
}


def zero_shot_protocol(name: str) -> dict[str, Any]:
    """What the companion of a table of metrics says about zero-shot masks.

    Args:
        name: ``oracle_box``, ``centre_point``, ``oracle_hybrid``, ``full_box`` or ``no_prompt``.

    Raises:
        ValueError: no such protocol.
    """
    if name not in _SOURCES:
        msg = f"unknown zero-shot protocol '{name}', expected one of: {', '.join(_SOURCES)}"
        raise ValueError(msg)
    return {"prompt": name, "prompt_source": _SOURCES[name], "fine_tuned": False}


def needs_label(name: str) -> bool:
    """Are the prompts of a protocol made from the label, so that slices without one have none?"""
    zero_shot_protocol(name)
    return scheme_of(name).uses_label


class PromptedSegmenter(nn.Module):
    """SAM with one prompt a scored region, as a network of one output.

    Args:
        arch, checkpoint, normalization: see :func:`samtune.networks.build_sam`.
        image_size: pixels; ``None``: the size it was trained at.
        protocol: see :func:`zero_shot_protocol`.
    """

    def __init__(
        self,
        arch: str = "auto",
        checkpoint: str | Path | None = None,
        image_size: int | None = None,
        protocol: str = "oracle_box",
        normalization: str = "auto",
    ) -> None:
        super().__init__()
        zero_shot_protocol(protocol)
        sam = build_sam(arch, checkpoint, image_size, normalization=normalization)
        self.segmenter = SamSegmenter(sam, num_classes=1)  # the class head is not used
        self.image_size = sam.image_size
        self.normalization = sam.normalization
        self.protocol = protocol

    def forward(
        self,
        image: Tensor,
        boxes: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        """Logits ``b p s s`` of prompts, see :class:`~samtune.networks.SamSegmenter`.

        -inf where a prompt holds nothing: no prompt, no mask. With ``no_prompt`` the prompts only
        say how many masks are wanted: the same one each.
        """
        if self.protocol == "no_prompt":
            bare: Tensor = self.segmenter.forward_uniform(image)
            return bare.expand(-1, boxes.shape[1], -1, -1)
        if points is not None and points.shape[2] == 0:
            points = point_labels = None
        logits, valid = self.segmenter(image, boxes=boxes, points=points, point_labels=point_labels)
        out: Tensor = logits.masked_fill(~valid[..., None, None], -torch.inf)
        return out

"""Losses where pixels were not judged, or samples of a batch are annotated for different classes.

What does not count has a gradient of exactly zero: it is multiplied by zero, or left out of the
softmax, before anything is summed, and the means are taken over what counts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from torch import Tensor

from samtune.preprocessing.slice_transforms import IGNORED, IGNORED_REGION

Overlap = Literal["dice", "iou"]
Pixels = Literal["ce", "bce", "focal"]

SMOOTH = 1e-5  # as MONAI's DiceLoss
TINY = 1e-12  # a mean over nothing is 0


@dataclass(frozen=True)
class Terms:
    """What a loss is the sum of.

    Attributes:
        overlap: Dice, or intersection over union, of the foreground probabilities; ``None``: none.
        pixels: of each pixel. ``ce``: cross entropy of one class a pixel (softmax); ``bce``: binary
            cross entropy of each foreground channel by itself; ``focal``: the same with the weight
            (1 - p) ** 2 of what is already right.
    """

    overlap: Overlap | None
    pixels: Pixels


def ignored_pixels(target: Tensor, activation: str) -> Tensor:
    """Bool mask, of the shape of ``target``, of the pixels that nobody judged."""
    return target == (IGNORED if activation == "softmax" else IGNORED_REGION)


def softmax_loss(
    logits: Tensor,
    label: Tensor,
    annotated: Tensor | None = None,
    *,
    terms: Terms,
    batch: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """Loss of class logits, each sample over its annotated classes and judged pixels alone.

    Logits of the other classes leave the softmax. A pixel of such a class is background to a sample
    that doesn't annotate it.

    Args:
        logits: ``b 1+c h w``.
        label: ``b 1 h w``, class indices; :data:`IGNORED` where nobody judged.
        annotated: ``b c`` bool; ``None``: all.
        terms: what is summed.
        batch: overlap over the samples that annotate a class together, else each by itself.
        weights: ``1+c``, of the pixel term; ``None``: all alike.
    """
    if annotated is None:
        annotated = torch.ones_like(logits[:, 1:, 0, 0], dtype=torch.bool)
    background = torch.ones_like(annotated[:, :1])
    known = torch.cat([background, annotated], 1)[:, :, None, None]
    logits = logits.float()
    soft = logits.masked_fill(~known, -torch.inf)
    judged = ~ignored_pixels(label, "softmax")
    label = label[:, 0].long().clamp(min=0)
    target = F.one_hot(label, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    counted = annotated[:, :, None, None] & judged
    if terms.pixels == "ce":
        own = torch.ones_like(soft[:, 0]) if weights is None else weights.to(soft)[label]
        own = own * judged[:, 0]
        pixels = F.cross_entropy(soft, label, reduction="none") * own
        pixel_loss = pixels.sum() / own.sum().clamp(min=TINY)
    else:
        pixel_loss = _channel_loss(logits[:, 1:], target, counted, terms.pixels, weights)
    if terms.overlap is None:
        return pixel_loss
    probabilities = soft.softmax(1)[:, 1:]
    return _overlap(probabilities, target, counted, annotated, terms.overlap, batch) + pixel_loss


def region_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    terms: Terms,
    batch: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """Loss of channels that may overlap, over the annotated ones and the judged pixels.

    Args:
        logits: ``b 1+r h w``, channel 0 constant.
        target: ``b r h w``, 0 or 1; :data:`IGNORED_REGION` where nobody judged.
        annotated: ``b r`` bool; ``None``: all.
        terms, batch: as in :func:`softmax_loss`.
        weights: ``1+r``, the first unused; ``None``: all alike.
    """
    logits = logits[:, 1:].float()
    if annotated is None:
        annotated = torch.ones_like(logits[:, :, 0, 0], dtype=torch.bool)
    judged = ~ignored_pixels(target, "sigmoid")
    counted = annotated[:, :, None, None] & judged
    target = (target * judged).float()
    pixel_loss = _channel_loss(logits, target, counted, terms.pixels, weights)
    if terms.overlap is None:
        return pixel_loss
    overlap = _overlap(logits.sigmoid(), target, counted, annotated, terms.overlap, batch)
    return overlap + pixel_loss


def channel_values(logits: Tensor, target: Tensor, pixels: Pixels) -> Tensor:
    """The pixel term of each element: foreground logits and a target of 0 and 1, ``b c h w``."""
    if pixels == "focal":
        focal: Tensor = FocalLoss(reduction="none")(logits, target)
        return focal
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _channel_loss(
    logits: Tensor, target: Tensor, counted: Tensor, pixels: Pixels, weights: Tensor | None
) -> Tensor:
    own = counted.to(logits.dtype)
    if weights is not None:
        own = own * weights.to(logits)[1:, None, None]
    return (channel_values(logits, target, pixels) * own).sum() / own.sum().clamp(min=TINY)


def _overlap(
    probabilities: Tensor,
    target: Tensor,
    counted: Tensor,
    annotated: Tensor,
    kind: Overlap,
    batch: bool,
) -> Tensor:
    probabilities, target = probabilities * counted, target * counted
    axes = (0, 2, 3) if batch else (2, 3)
    both = (probabilities * target).sum(axes)
    sizes = probabilities.sum(axes) + target.sum(axes)
    if kind == "iou":
        sizes = 2 * (sizes - both)
    known = annotated.any(0) if batch else annotated  # c, or b c
    loss = 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)
    return (loss * known).sum() / known.sum().clamp(min=1)

"""Dice and cross entropy where samples of a batch are annotated for different classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-5  # as MONAI's DiceLoss


def softmax_loss(logits: Tensor, label: Tensor, annotated: Tensor, *, batch: bool = True) -> Tensor:
    """Cross entropy and Dice of class logits, each sample over its annotated classes alone.

    Logits of the other classes leave the softmax: their gradient is zero. A pixel of such a class
    is background to a sample that doesn't annotate it.

    Args:
        logits: ``b 1+c h w``.
        label: ``b 1 h w``, class indices.
        annotated: ``b c`` bool.
        batch: Dice over the samples that annotate a class together, else each by itself.
    """
    background = torch.ones_like(annotated[:, :1])
    known = torch.cat([background, annotated], 1)[:, :, None, None]
    logits = logits.float().masked_fill(~known, -torch.inf)
    label = label[:, 0].long()
    target = F.one_hot(label, logits.shape[1]).movedim(-1, 1)
    dice = _dice(logits.softmax(1)[:, 1:], target[:, 1:], annotated, batch)
    return dice + F.cross_entropy(logits, label)


def region_loss(logits: Tensor, target: Tensor, annotated: Tensor, *, batch: bool = True) -> Tensor:
    """Binary cross entropy and Dice of channels that may overlap, over the annotated ones.

    Args:
        logits: ``b 1+r h w``, channel 0 constant.
        target: ``b r h w``, 0 or 1.
        annotated: ``b r`` bool.
        batch: as in :func:`softmax_loss`.
    """
    logits, target = logits[:, 1:].float(), target.float()
    pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
    cross_entropy = (pixels * annotated).sum() / annotated.sum().clamp(min=1)
    return _dice(logits.sigmoid(), target, annotated, batch) + cross_entropy


def _dice(probabilities: Tensor, target: Tensor, annotated: Tensor, batch: bool) -> Tensor:
    known = annotated[:, :, None, None]
    probabilities, target = probabilities * known, target * known
    axes = (0, 2, 3) if batch else (2, 3)
    both = (probabilities * target).sum(axes)
    sizes = probabilities.sum(axes) + target.sum(axes)
    counted = annotated.any(0) if batch else annotated  # c, or b c
    loss = 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)
    return (loss * counted).sum() / counted.sum().clamp(min=1)

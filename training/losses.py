"""The training loss of class logits: by name, for each way of reading the logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss
from torch import Tensor, nn

from samtune.training.partial_loss import (
    Terms,
    channel_values,
    ignored_pixels,
    region_loss,
    softmax_loss,
)

LOSSES = {
    "dice_ce": Terms("dice", "ce"),
    "dice_bce": Terms("dice", "bce"),
    "dice_focal": Terms("dice", "focal"),
    "bce_iou": Terms("iou", "bce"),
    "ce": Terms(None, "ce"),
}
# MONAI's own losses, where it has the sum
_MONAI = {"dice_ce": DiceCELoss, "dice_focal": DiceFocalLoss}


class RegionLoss(nn.Module):
    """Loss of channels that may overlap, each by itself; all pixels and channels count.

    MONAI's ``DiceCELoss(sigmoid=True)`` takes the softmax cross entropy over the channels as soon
    as there are two: a pixel of two regions could then not be right.

    Args:
        terms: what is summed; ``ce`` is the binary one here.
        batch: Dice over the batch: slices without a region don't dominate it.
        weights: of the channels in the pixel term, background first.
        options: further arguments of MONAI's ``DiceLoss``.
    """

    def __init__(
        self,
        terms: Terms = LOSSES["dice_ce"],
        *,
        batch: bool = True,
        weights: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.terms = terms
        self.dice = _overlap_loss(terms, batch, {"sigmoid": True, **options})
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor | None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``b 1+r h w``, whose channel 0 is constant, and a target ``b r h w``."""
        logits, target = logits[:, 1:], target.to(logits.dtype)
        pixels = channel_values(logits, target, self.terms.pixels)
        loss = _channel_mean(pixels, self.weights)
        if self.terms.overlap is not None:
            loss = self.dice(logits, target) + loss
        return loss


class SoftmaxLoss(nn.Module):
    """Loss of one class a pixel, for the sums that MONAI doesn't have; all pixels count.

    Args:
        terms: what is summed. ``bce`` and ``focal`` take each class against all else.
        batch: Dice over the batch.
        weights: of the classes in the pixel term, background first.
        options: further arguments of MONAI's ``DiceLoss``.
    """

    def __init__(
        self, terms: Terms, *, batch: bool = True, weights: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.terms = terms
        self.dice = _overlap_loss(terms, batch, {**_SOFTMAX, **options})
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor | None

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss of logits ``b 1+c h w`` and class indices ``b 1 h w``."""
        index = label[:, 0].long()
        if self.terms.pixels == "ce":
            weights = None if self.weights is None else self.weights.to(logits)
            loss = F.cross_entropy(logits, index, weights)
        else:
            target = F.one_hot(index, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
            pixels = channel_values(logits[:, 1:], target, self.terms.pixels)
            loss = _channel_mean(pixels, self.weights)
        if self.terms.overlap is not None:
            loss = self.dice(logits, label) + loss
        return loss


class AnnotatedLoss(nn.Module):
    """A loss where pixels may be unjudged and samples annotated for different classes.

    Args:
        loss: of batches that are judged everywhere, for all classes.
        activation: ``softmax`` or ``sigmoid``.
        terms, batch, weights: what ``loss`` is made of.
        options: further ones of ``loss``; where something is left out there may be none.
    """

    def __init__(
        self,
        loss: nn.Module,
        activation: str,
        *,
        terms: Terms,
        batch: bool,
        weights: Tensor | None = None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.loss = loss
        self.activation = activation
        self.partial = softmax_loss if activation == "softmax" else region_loss
        self.terms = terms
        self.batch = batch
        self.weights = weights
        self.options = sorted(options)

    def forward(self, logits: Tensor, target: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Loss of a target, or of a mapping of ``label`` and ``annotated`` (``b c`` bool).

        Raises:
            ValueError: a target of another number of regions, or options of MONAI's loss where
                classes or pixels are left out.
        """
        annotated: Tensor | None = None
        if isinstance(target, Mapping):
            label, annotated = target["label"], target.get("annotated")
        else:
            label = target
        if self.activation == "sigmoid" and label.shape[1] != logits.shape[1] - 1:
            msg = (
                f"sigmoid training needs a target of {logits.shape[1] - 1} regions (ToTargetd), "
                f"got {tuple(label.shape)}"
            )
            raise ValueError(msg)
        if annotated is None and not ignored_pixels(label, self.activation).any():
            loss: Tensor = self.loss(logits, label)
            return loss
        if self.options:
            msg = (
                "with joined folders or ignored pixels the loss takes no options, got "
                f"{', '.join(self.options)}"
            )
            raise ValueError(msg)
        return self.partial(
            logits, label, annotated, terms=self.terms, batch=self.batch, weights=self.weights
        )


def class_loss(
    activation: str = "softmax",
    *,
    name: str = "dice_ce",
    batch: bool = True,
    class_weights: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """A loss by name, also where pixels are unjudged or folders annotate different classes.

    Args:
        activation: ``softmax``: one class a pixel, the background left out of the overlap term;
            ``sigmoid``: channels that may overlap.
        name: of :data:`LOSSES`. ``dice_ce`` with softmax is MONAI's ``DiceCELoss``, ``dice_focal``
            its ``DiceFocalLoss``; with sigmoid cross entropy is the binary one of each channel.
        batch: overlap over the batch: slices without a class don't dominate it.
        class_weights: of background and foreground channels in the pixel term, see
            :func:`samtune.training.class_weights.class_weights`. Overlap terms weigh all classes
            alike.
        options: further arguments of MONAI's loss.

    Raises:
        ValueError: another activation or name.
    """
    if activation not in ("softmax", "sigmoid"):
        msg = f"activation must be 'softmax' or 'sigmoid', got '{activation}'"
        raise ValueError(msg)
    if name not in LOSSES:
        msg = f"loss_name must be one of {', '.join(LOSSES)}, got '{name}'"
        raise ValueError(msg)
    terms = LOSSES[name]
    if activation == "sigmoid" and terms.pixels == "ce":
        terms = Terms(terms.overlap, "bce")
    weights = None if class_weights is None else torch.tensor(list(class_weights)).float()
    loss: nn.Module
    if activation == "sigmoid":
        loss = RegionLoss(terms, batch=batch, weights=weights, **options)
    elif weights is None and name in _MONAI:
        loss = _MONAI[name](**{**_SOFTMAX, **options}, batch=batch)
    else:
        loss = SoftmaxLoss(terms, batch=batch, weights=weights, **options)
    return AnnotatedLoss(
        loss, activation, terms=terms, batch=batch, weights=weights, options=options
    )


_SOFTMAX = {"include_background": False, "to_onehot_y": True, "softmax": True}


def _overlap_loss(terms: Terms, batch: bool, options: Mapping[str, Any]) -> nn.Module:
    return DiceLoss(**{"jaccard": terms.overlap == "iou", **options}, batch=batch)


def _channel_mean(pixels: Tensor, weights: Tensor | None) -> Tensor:  # b c h w
    if weights is None:
        return pixels.mean()
    own = weights.to(pixels)[1:]
    return (pixels.mean((0, 2, 3)) * own).sum() / own.sum()

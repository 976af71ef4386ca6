"""Losses of prompted masks: each valid prompt counts alike, one that holds nothing not at all."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.training.partial_loss import SMOOTH
from samtune.training.prompt_plan import PromptPlan

MaskLoss = Literal["dice_bce", "dice_focal"]
FOCAL_WEIGHT = 20.0  # against Dice, as SAM was trained
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def mask_losses(
    logits: Tensor, target: Tensor, kind: MaskLoss, judged: Tensor | None = None
) -> Tensor:
    """Dice loss and a loss of pixels for each mask: ``... h w`` to ``...``.

    Args:
        kind: ``dice_bce``: and binary cross entropy; ``dice_focal``: and 20 times focal loss
            (alpha 0.25, gamma 2).
        judged: bool, of shape ``... h w``: the pixels that count, in both terms; ``None``: all.
    """
    logits, target = logits.float(), target.float().expand(logits.shape)
    probability = logits.sigmoid()
    if judged is not None:
        probability, target = probability * judged, target * judged
    both = (probability * target).sum((-2, -1))
    sizes = probability.sum((-2, -1)) + target.sum((-2, -1))
    dice = 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)
    pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if kind == "dice_bce":
        return dice + _pixel_mean(pixels, judged)
    right = probability * target + (1 - probability) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = alpha * (1 - right) ** FOCAL_GAMMA * pixels
    return dice + FOCAL_WEIGHT * _pixel_mean(focal, judged)


def _pixel_mean(pixels: Tensor, judged: Tensor | None) -> Tensor:
    if judged is None:
        return pixels.mean((-2, -1))
    return (pixels * judged).sum((-2, -1)) / judged.sum((-2, -1)).clamp(min=1)


@torch.no_grad()
def real_iou(logits: Tensor, target: Tensor, judged: Tensor | None = None) -> Tensor:
    """IoU of masks ``... h w`` (logit > 0) and targets; 1 where both are empty.

    Args:
        judged: bool, the pixels that count; ``None``: all.
    """
    mask, target = logits > 0, target.bool().expand(logits.shape)
    if judged is not None:
        mask, target = mask & judged, target & judged
    union = (mask | target).sum((-2, -1))
    return torch.where(union > 0, (mask & target).sum((-2, -1)) / union.clamp(min=1), 1.0)


class PromptLoss(nn.Module):
    """Loss of what :class:`samtune.training.prompted.PromptedInferer` gives in training.

    Of clicks: the mean over the rounds. After one point alone, which may mean several things, only
    the best of SAM's three masks is trained; the quality head learns the real IoU of every mask
    that it would rank, by its squared error.

    Args:
        mask_loss: see :func:`mask_losses`.

    Raises:
        ValueError: another ``mask_loss``.
    """

    def __init__(self, mask_loss: MaskLoss = "dice_bce") -> None:
        super().__init__()
        if mask_loss not in get_args(MaskLoss):
            msg = f"mask_loss must be one of {', '.join(get_args(MaskLoss))}, got '{mask_loss}'"
            raise ValueError(msg)
        self.mask_loss: MaskLoss = mask_loss

    def forward(self, found: dict[str, Tensor], target: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Loss against targets ``B P h w``, or a mapping of ``targets`` and ``judged``.

        ``judged``: ``B 1 h w`` bool, the pixels that count.
        """
        valid, judged = found["valid"], None
        if isinstance(target, Mapping):
            targets, judged = target["targets"], target["judged"]
        else:
            targets = target
        if "logits" in found:
            return _mean(mask_losses(found["logits"], targets, self.mask_loss, judged), valid)
        if judged is not None:
            judged = judged[:, :, None]
        targets = targets[:, :, None]
        rounds = [self._first(found, targets, judged), *self._later(found, targets, judged)]
        return _mean(torch.stack(rounds).mean(0), valid)

    def _first(self, found: dict[str, Tensor], target: Tensor, judged: Tensor | None) -> Tensor:
        losses = mask_losses(found["first"], target, self.mask_loss, judged)
        errors = (found["first_iou"].float() - real_iou(found["first"], target, judged)) ** 2
        single = losses[..., 0] + errors[..., 0]
        several = losses[..., 1:].amin(-1) + errors[..., 1:].mean(-1)
        return torch.where(found["ambiguous"], several, single)

    def _later(
        self, found: dict[str, Tensor], target: Tensor, judged: Tensor | None
    ) -> list[Tensor]:
        losses = mask_losses(found["later"], target, self.mask_loss, judged)
        errors = (found["later_iou"].float() - real_iou(found["later"], target, judged)) ** 2
        return list((losses + errors).unbind(-1))


def _mean(losses: Tensor, valid: Tensor) -> Tensor:
    counted = losses.masked_fill(~valid, 0.0)
    return counted.sum() / valid.sum().clamp(min=1)


def prompt_loss(plan: PromptPlan, mask_loss: str = "auto") -> PromptLoss:
    """The loss of a run.

    Args:
        plan: its prompts.
        mask_loss: ``auto``: ``dice_focal`` with clicks, as SAM was trained, else ``dice_bce``.

    Raises:
        ValueError: another ``mask_loss``.
    """
    if mask_loss == "auto":
        return PromptLoss("dice_focal" if plan.kind == "clicks" else "dice_bce")
    return PromptLoss(mask_loss)  # type: ignore[arg-type]

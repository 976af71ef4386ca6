"""The training loss of class logits, one for each way of reading them."""

from collections.abc import Mapping
from typing import Any

from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from samtune.training.partial_loss import region_loss, softmax_loss


class RegionLoss(nn.Module):
    """Dice loss and binary cross entropy of channels that may overlap.

    MONAI's ``DiceCELoss(sigmoid=True)`` takes the softmax cross entropy over the channels as soon
    as there are two: a pixel of two regions could then not be right.

    Args:
        batch: Dice over the batch: slices without a region don't dominate it.
        options: further arguments of MONAI's ``DiceLoss``.
    """

    def __init__(self, *, batch: bool = True, **options: Any) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, batch=batch, **options)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits ``b 1+r h w``, whose channel 0 is constant, and a target ``b r h w``.

        Raises:
            ValueError: the target has another number of regions.
        """
        if target.shape[1] != logits.shape[1] - 1:
            msg = (
                f"sigmoid training needs a target of {logits.shape[1] - 1} regions (ToTargetd), "
                f"got {tuple(target.shape)}"
            )
            raise ValueError(msg)
        logits, target = logits[:, 1:], target.to(logits.dtype)
        loss: Tensor = self.dice(logits, target) + self.cross_entropy(logits, target)
        return loss


class AnnotatedLoss(nn.Module):
    """A loss whose samples may be annotated for different classes.

    Args:
        loss: of samples that are annotated for all classes.
        activation: ``softmax`` or ``sigmoid``.
        batch: Dice over the batch.
        options: those of ``loss``; with samples of joined folders there may be none.
    """

    def __init__(
        self, loss: nn.Module, activation: str, *, batch: bool, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.loss = loss
        self.partial = softmax_loss if activation == "softmax" else region_loss
        self.batch = batch
        self.options = sorted(options)

    def forward(self, logits: Tensor, target: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Loss of a target, or of a mapping of ``label`` and ``annotated`` (``b c`` bool).

        Raises:
            ValueError: options of MONAI's loss with such a mapping.
        """
        if isinstance(target, Mapping):
            if self.options:
                msg = f"joined folders take no options of the loss, got {', '.join(self.options)}"
                raise ValueError(msg)
            return self.partial(logits, target["label"], target["annotated"], batch=self.batch)
        loss: Tensor = self.loss(logits, target)
        return loss


def class_loss(activation: str = "softmax", *, batch: bool = True, **options: Any) -> nn.Module:
    """Dice and cross entropy for an activation, also where folders annotate different classes.

    Args:
        activation: ``softmax``: MONAI's ``DiceCELoss``, background left out of the Dice term;
            ``sigmoid``: :class:`RegionLoss`.
        batch: Dice over the batch.
        options: further arguments of MONAI's loss.

    Raises:
        ValueError: another activation.
    """
    if activation == "softmax":
        loss: nn.Module = DiceCELoss(
            **{"include_background": False, "to_onehot_y": True, "softmax": True, **options},
            batch=batch,
        )
        return AnnotatedLoss(loss, activation, batch=batch, options=options)
    if activation == "sigmoid":
        loss = RegionLoss(batch=batch, **options)
        return AnnotatedLoss(loss, activation, batch=batch, options=options)
    msg = f"activation must be 'softmax' or 'sigmoid', got '{activation}'"
    raise ValueError(msg)

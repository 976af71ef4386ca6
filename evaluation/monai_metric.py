"""The metrics for MONAI's loops: a cumulative metric and its Ignite handler, on the same core."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from samtune.evaluation.metrics import MaskScores, check_tolerances, score_masks
from samtune.evaluation.surface_scores import DEFAULT_DEFINITION, Definition, check_definition

METRICS = ("dice", "iou", "nsd", "hd95", "assd", "sensitivity", "precision", "cldice")


class SegmentationScores(CumulativeIterationMetric):
    """Scores of one-hot masks, several metrics at once, as in ``metrics.csv``.

    Call it with predictions and references, a list of ``c x y z`` or a batch ``b c x y z`` (2D
    likewise), zeros and ones; :meth:`aggregate` gives means over cases a class.

    Args:
        include_background: whether channel 0 is scored. MONAI's metrics differ in their default,
            so there is none here: False drops the first of two foreground channels too.
        metrics: which, of :data:`METRICS`.
        spacing: voxel size in mm along the array axes; None takes it from the call
            (``spacing=…``) or from references that are MetaTensors.
        tolerance_mm: of the Surface Dice.
        definition: of the surface metrics, ``surface-distance`` or ``monai``.

    Raises:
        ValueError: an unknown metric or definition, or a wrong tolerance.
    """

    def __init__(
        self,
        *,
        include_background: bool,
        metrics: Sequence[str] = ("dice", "nsd", "hd95"),
        spacing: Sequence[float] | None = None,
        tolerance_mm: float = 1.0,
        definition: Definition = DEFAULT_DEFINITION,
    ) -> None:
        super().__init__()
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise ValueError(f"metrics {list(metrics)}: expected some of {', '.join(METRICS)}")
        self.include_background = include_background
        self.metrics = tuple(metrics)
        self.spacing = spacing
        (self.tolerance_mm,) = check_tolerances([tolerance_mm])
        self.definition = check_definition(definition)

    def _compute_tensor(
        self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any
    ) -> list[Tensor]:
        if y is None or y_pred.shape != y.shape:
            shape = None if y is None else tuple(y.shape)
            raise ValueError(f"y_pred has shape {tuple(y_pred.shape)}, y {shape}: expected one")
        spacing = self._find_spacing(y, kwargs.get("spacing"))
        first = 0 if self.include_background else 1
        if y.shape[1] <= first:
            raise ValueError(f"y has {y.shape[1]} channel and include_background is False")
        pred, ref = (
            _to_masks(tensor[:, first:], name) for tensor, name in ((y_pred, "y_pred"), (y, "y"))
        )
        scores = [
            [self._score(p, r, spacing) for p, r in zip(*channels, strict=True)]
            for channels in zip(pred, ref, strict=True)
        ]
        return [
            torch.tensor([[self._value(found, name) for found in case] for case in scores])
            for name in self.metrics
        ]

    def aggregate(self) -> dict[str, Tensor]:
        """Means over cases: ``NAME`` over all, ``NAME_per_class`` and ``NAME_n``, ``c`` each.

        NaN, a class in neither mask, is left out and ``NAME_n`` says how many were not; infinite
        distances stay infinite.
        """
        get: Callable[[], Any] = self.get_buffer  # has no types
        buffers = get()
        if buffers is None:
            raise ValueError("no case was scored")
        tensors = [buffers] if isinstance(buffers, Tensor) else list(buffers)
        result = {}
        for name, values in zip(self.metrics, tensors, strict=True):
            per_class = values.nanmean(dim=0)
            result[name] = per_class.nanmean()  # classes count alike
            result[f"{name}_per_class"] = per_class
            result[f"{name}_n"] = (~values.isnan()).sum(dim=0)
        return result

    def _find_spacing(self, y: Tensor, given: Sequence[float] | None) -> list[float]:
        spacing = self.spacing if given is None else given
        if spacing is None and isinstance(y, MetaTensor):
            spacing = y.pixdim[0] if y.is_batch else y.pixdim
        if spacing is None:
            raise ValueError("no spacing: give it to the metric or the call, or use MetaTensors")
        return [float(step) for step in spacing][: y.ndim - 2]

    def _score(self, pred: Any, ref: Any, spacing: Sequence[float]) -> MaskScores:
        return score_masks(
            pred,
            ref,
            spacing=spacing,
            tolerances_mm=(self.tolerance_mm,),
            definition=self.definition,
            assd="assd" in self.metrics,
            cldice="cldice" in self.metrics,
        )

    def _value(self, scores: MaskScores, name: str) -> float:
        if name == "nsd":
            return scores.nsd[self.tolerance_mm]
        field = f"{name}_mm" if name in ("hd95", "assd") else name
        return float(getattr(scores, field))


class SegmentationScoresHandler(IgniteMetricHandler):
    """Ignite handler: each metric of :class:`SegmentationScores` in ``engine.state.metrics``.

    Args:
        output_transform: engine output to ``(y_pred, y)``, as ``from_engine(["pred", "label"])``.
        save_details: keep every case's scores in ``engine.state.metric_details``.
        options: those of :class:`SegmentationScores`.
    """

    def __init__(
        self,
        output_transform: Callable[..., Any] = lambda output: output,
        *,
        save_details: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            metric_fn=SegmentationScores(**options),
            output_transform=output_transform,
            save_details=save_details,
        )


def _to_masks(tensor: Tensor, name: str) -> Any:
    """``b c …`` zeros and ones as a bool array."""
    array = tensor.detach().cpu()
    if isinstance(array, MetaTensor):
        array = array.as_tensor()
    if array.dtype != torch.bool:
        if not bool(((array == 0) | (array == 1)).all()):
            raise ValueError(f"{name} holds other values than 0 and 1: expected one-hot masks")
        array = array != 0
    return array.contiguous().numpy()

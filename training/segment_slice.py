"""Masks of one slice by prompts given in its own pixels, with the network of a trained run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from samtune.preprocessing.model_frame import logits_to_slice
from samtune.preprocessing.slice_transforms import ToFramed, image_tensor
from samtune.training.clicks import Clicks, best_masks
from samtune.training.network import AdaptedSegmenter

Box = Sequence[float]
Point = Sequence[float]  # x, y, label


@torch.no_grad()
def segment_slice(
    network: AdaptedSegmenter,
    image: npt.NDArray[Any],
    *,
    boxes: Sequence[Box | None] = (),
    points: Sequence[Sequence[Point]] = (),
) -> npt.NDArray[np.float32]:
    """Logits ``P h w`` of prompts; a mask is where they are above 0.

    Args:
        network: of a run that was trained with prompts, from ``TrainedRun.network``.
        image: ``h w`` or ``h w 3`` as slices are stored, after the run's intensity step and cut,
            and with its neighbours where it has them.
        boxes: of each prompt (x0, y0, x1, y1) in pixels, x1 and y1 one past the last; ``None``:
            it has no box.
        points: of each prompt (x, y, label) in pixel indices, label 1 inside, 0 outside.

    Raises:
        ValueError: no prompt, one that is empty, boxes and points for other numbers of prompts, a
            prompt outside the slice, a label that isn't 0 or 1, or a network trained without
            prompts.
    """
    if network.prompts == "none":
        msg = (
            "the run was trained without prompts and segments its classes without: train with "
            "prompted.yaml to use prompts"
        )
        raise ValueError(msg)
    size = (int(image.shape[0]), int(image.shape[1]))
    box_rows, point_rows, labels = _checked(boxes, points, size)
    framed = ToFramed(network.image_size, network.normalization)(
        {
            "image": image_tensor(image),
            "size_hw": size,
            "boxes": box_rows,
            "points": point_rows,
        }
    )
    device = next(network.parameters()).device
    given = {
        "boxes": framed["boxes"][None].to(device),
        "points": framed["points"][None].to(device),
        "point_labels": labels[None].to(device),
    }
    frame = framed["image"][None].to(device)
    if network.prompts == "clicks":  # of one click alone the best of three masks
        side = network.image_size
        nothing = torch.zeros(1, len(labels), side, side, dtype=torch.bool)
        logits = best_masks(network(frame, **given, clicks=Clicks(nothing, 0, 0)))
    else:
        logits, _ = network(frame, **given)
    return np.asarray(logits_to_slice(logits[0].float().cpu(), size).numpy())


def _checked(
    boxes: Sequence[Box | None], points: Sequence[Sequence[Point]], size_hw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes ``P 4``, points ``P N 2`` and their labels ``P N`` in pixels of the slice."""
    number = max(len(boxes), len(points))
    if number == 0 or {len(boxes), len(points)} - {0, number}:
        msg = f"boxes and points must be for the same prompts, got {len(boxes)} and {len(points)}"
        raise ValueError(msg)
    height, width = size_hw
    own_boxes = list(boxes) or [None] * number
    own_points = [list(row) for row in points] or [[] for _ in range(number)]
    length = max(len(row) for row in own_points)
    out_boxes = torch.full((number, 4), torch.nan)
    out_points = torch.zeros(number, length, 2)
    labels = torch.full((number, length), -1, dtype=torch.long)
    for i, (box, row) in enumerate(zip(own_boxes, own_points, strict=True)):
        if box is None and not row:
            msg = f"prompt {i} has neither box nor point"
            raise ValueError(msg)
        if box is not None:
            x0, y0, x1, y1 = (float(value) for value in box)
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                msg = (
                    f"prompt {i}: box must be x0,y0,x1,y1 with 0 <= x0 < x1 <= {width} and "
                    f"0 <= y0 < y1 <= {height}, got {list(box)}"
                )
                raise ValueError(msg)
            out_boxes[i] = torch.tensor([x0, y0, x1, y1])
        for n, (x, y, label) in enumerate(row):
            if not (0 <= x < width and 0 <= y < height and label in (0, 1)):
                msg = (
                    f"prompt {i}: point must be x,y,label with x below {width}, y below {height} "
                    f"and label 1 (inside) or 0 (outside), got {[x, y, label]}"
                )
                raise ValueError(msg)
            out_points[i, n] = torch.tensor([float(x), float(y)])
            labels[i, n] = int(label)
    return out_boxes, out_points, labels

"""Simulated clicks, as SAM was trained for interaction (arXiv:2304.02643, appendix A).

A first prompt; then one click a round into the region where mask and target differ, inside where
the mask lacks and outside where it has too much; the previous mask's logits go in with each. Some
rounds bring no new click: the network learns to refine its own mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from samtune.networks.mask_candidates import mask_candidates
from samtune.networks.prompting import PromptBatch
from samtune.networks.segmenter import SamSegmenter
from samtune.preprocessing.model_frame import content_size
from samtune.preprocessing.prompts import Mask, centre_point, connected_regions, random_points

Click = tuple[float, float, int]


@dataclass(frozen=True)
class Clicks:
    """What is clicked after the first prompts of a batch.

    Attributes:
        targets: ``B P h w`` bool in the frame: what the prompts ask for.
        number: clicks after the first prompt.
        refinements: rounds without a new click: one at the end, the others anywhere between.
        seeds: ``B``: clicks are drawn anywhere in the error region, by these. ``None``: nothing by
            chance, clicks in the centre of its largest part.
        sizes_hw: ``B 2``: part of the frame that holds the slice; ``None``: all.
        judged: ``B h w`` bool: elsewhere no mask is wrong; ``None``: all pixels were judged.
    """

    targets: Tensor
    number: int
    refinements: int
    seeds: Tensor | None = None
    sizes_hw: Tensor | None = None
    judged: Tensor | None = None


def error_click(
    mask: Mask, target: Mask, generator: np.random.Generator | None = None
) -> Click | None:
    """A click (x, y, label) where a mask is wrong; ``None`` where it is right everywhere.

    Label 1 where the mask lacks, 0 where it has too much.

    Args:
        generator: any pixel of the error region, each as likely; ``None``: the deepest pixel of the
            largest connected part of what is lacking or too much.
    """
    error = mask != target
    if generator is not None:
        points = random_points(error, 1, generator=generator)
    else:
        wrong = (target & ~mask, mask & ~target)
        parts = [part for kind in wrong for part in connected_regions(kind, "largest")]
        points = centre_point(max(parts, key=np.count_nonzero, default=error))
    if len(points) == 0:
        return None
    x, y = points[0]
    return float(x), float(y), int(target[int(y), int(x)])


def click_rounds(
    network: SamSegmenter,
    embedding: Tensor,
    boxes: Tensor | None,
    points: Tensor | None,
    point_labels: Tensor | None,
    clicks: Clicks,
) -> dict[str, Tensor]:
    """Masks of the first prompts and of all rounds after them, at the frame's size.

    Returns:
        ``first`` ``B P 4 s s`` logits and ``first_iou`` ``B P 4``: SAM's single mask, then its
        three; ``later`` ``B P r s s`` and ``later_iou`` ``B P r`` of the rounds; ``ambiguous`` and
        ``valid`` ``B P``: prompts of one point alone, and prompts that hold anything.
    """
    batch, number = clicks.targets.shape[:2]
    if points is None or point_labels is None:
        points = embedding.new_zeros(batch, number, 0, 2)
        point_labels = torch.zeros(batch, number, 0, dtype=torch.long, device=embedding.device)
    size = network.image_size
    found = mask_candidates(
        network, embedding, PromptBatch(boxes, points, point_labels, None), single=False
    )
    ambiguous = found.valid & ((point_labels >= 0).sum(-1) == 1)
    if boxes is not None:
        ambiguous &= boxes.isnan().any(-1)
    first, first_iou, valid = _at_size(found.logits, size), found.iou, found.valid
    chosen = torch.where(ambiguous, 1 + found.iou[..., 1:].argmax(-1), 0)
    low = _take(found.logits, chosen)
    shown = _take(first, chosen)
    quiet = _quiet_rounds(clicks, batch)
    later, later_iou = [], []
    for index in range(clicks.number + clicks.refinements):
        new = _new_clicks(shown, valid, clicks, [index in rounds for rounds in quiet], index)
        points, point_labels = _append(points, point_labels, new)
        mask = low.detach().float().masked_fill(~valid[..., None, None], torch.nan)
        prompts = PromptBatch(boxes, points, point_labels, mask)
        found = mask_candidates(network, embedding, prompts, single=True)
        low, shown = found.logits[:, :, 0], _at_size(found.logits, size)[:, :, 0]
        later.append(shown)
        later_iou.append(found.iou[..., 0])
    none = first[:, :, :0]
    return {
        "first": first,
        "first_iou": first_iou,
        "later": torch.stack(later, 2) if later else none,
        "later_iou": torch.stack(later_iou, 2) if later else first_iou[..., :0],
        "ambiguous": ambiguous,
        "valid": valid,
    }


def best_masks(rounds: dict[str, Tensor]) -> Tensor:
    """The last masks ``B P s s`` of :func:`click_rounds`.

    Without a round after the first: of one point alone the mask whose predicted quality is highest,
    of other prompts the single mask.
    """
    if rounds["later"].shape[2] > 0:
        return rounds["later"][:, :, -1]
    best = 1 + rounds["first_iou"][..., 1:].argmax(-1)
    return _take(rounds["first"], torch.where(rounds["ambiguous"], best, 0))


def _at_size(logits: Tensor, size: int) -> Tensor:
    """``B P k h w`` at the frame's size."""
    flat = logits.flatten(0, 1)
    if flat.shape[-1] != size:
        flat = F.interpolate(flat, (size, size), mode="bilinear", align_corners=False)
    return flat.view(*logits.shape[:3], size, size)


def _take(masks: Tensor, chosen: Tensor) -> Tensor:
    """``B P h w``: mask ``chosen`` (``B P``) of ``B P k h w``."""
    index = chosen[..., None, None, None].expand(-1, -1, 1, *masks.shape[-2:])
    return masks.gather(2, index)[:, :, 0]


def _quiet_rounds(clicks: Clicks, batch: int) -> list[set[int]]:
    """Which rounds bring no new click, for each image."""
    total = clicks.number + clicks.refinements
    if clicks.refinements == 0:
        return [set() for _ in range(batch)]
    end, others = total - 1, clicks.refinements - 1
    if clicks.seeds is None:
        return [set(range(end - others, total)) for _ in range(batch)]
    return [
        {end, *np.random.default_rng([seed, total]).choice(end, others, replace=False).tolist()}
        for seed in clicks.seeds.tolist()
    ]


def _new_clicks(
    logits: Tensor, valid: Tensor, clicks: Clicks, quiet: list[bool], index: int
) -> list[list[Click | None]]:
    """The next click of each prompt, ``None`` where there is none."""
    masks = (logits.detach() > 0).cpu().numpy()
    targets: npt.NDArray[np.bool_] = clicks.targets.bool().cpu().numpy()
    if clicks.judged is not None:
        judged = clicks.judged.cpu().numpy()[:, None]
        masks, targets = masks & judged, targets & judged
    asked = valid.cpu().numpy()
    out: list[list[Click | None]] = []
    for b, still in enumerate(quiet):
        height, width = masks.shape[-2:]
        if clicks.sizes_hw is not None:
            own = (int(clicks.sizes_hw[b, 0]), int(clicks.sizes_hw[b, 1]))
            height, width = content_size(own, masks.shape[-1])
        row: list[Click | None] = []
        for p in range(masks.shape[1]):
            if still or not asked[b, p]:
                row.append(None)
                continue
            chance = None
            if clicks.seeds is not None:
                chance = np.random.default_rng([int(clicks.seeds[b]), p, index])
            mask, target = (array[b, p, :height, :width] for array in (masks, targets))
            row.append(error_click(mask, target, chance))
        out.append(row)
    return out


def _append(points: Tensor, labels: Tensor, new: list[list[Click | None]]) -> tuple[Tensor, Tensor]:
    """The points with one more each, label -1 where there is none."""
    rows = [[(0.0, 0.0, -1) if click is None else click for click in row] for row in new]
    added = torch.tensor(rows, dtype=torch.float32, device=points.device)
    points = torch.cat([points, added[:, :, None, :2].to(points.dtype)], 2)
    return points, torch.cat([labels, added[:, :, None, 2].to(labels.dtype)], 2)

"""Prompts of a batch in the form SAM's prompt encoder takes: padding never changes a result.

In SAM a point labelled -1 is a token of its own, and a box adds two tokens. A prompt padded to the
shape of others would therefore not give its own mask. So the prompts of a batch are grouped by what
they really hold, and each group goes through the prompt encoder and the decoder by itself.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

# of prompts that are none: finite, no mask (logits > 0 is false), no loss against an empty target
INVALID_LOGIT = -100.0


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as :class:`~samtune.networks.SamSegmenter` takes them.

    Attributes:
        boxes: ``B P 4`` XYXY; a row with NaN is no box.
        points: ``B P N 2`` (x, y).
        point_labels: ``B P N``: 1 inside, 0 outside, -1 no point.
        masks: ``B P h w`` logits; a mask with NaN is none.

    Raises:
        ValueError: nothing is given, points without labels, or shapes that don't fit each other.
    """

    boxes: Tensor | None
    points: Tensor | None
    point_labels: Tensor | None
    masks: Tensor | None

    def __post_init__(self) -> None:
        if (self.points is None) != (self.point_labels is None):
            msg = "points and point_labels go together, got one of them"
            raise ValueError(msg)
        named = {
            "boxes": (self.boxes, 3),
            "points": (self.points, 4),
            "point_labels": (self.point_labels, 3),
            "masks": (self.masks, 4),
        }
        given = {name: t for name, (t, _) in named.items() if t is not None}
        if not given:
            msg = "no prompt: give boxes, points with point_labels, or masks"
            raise ValueError(msg)
        for name, (tensor, ndim) in named.items():
            last = {"boxes": 4, "points": 2}.get(name)
            if tensor is not None and (
                tensor.ndim != ndim or (last is not None and tensor.shape[-1] != last)
            ):
                expected = f"{ndim} axes" if last is None else f"{ndim} axes, the last of {last}"
                msg = f"{name} must have {expected}, got {tuple(tensor.shape)}"
                raise ValueError(msg)
        points, labels = self.points, self.point_labels
        if points is not None and labels is not None and points.shape[:3] != labels.shape:
            msg = (
                f"point_labels must be {tuple(points.shape[:3])} for points "
                f"{tuple(points.shape)}, got {tuple(labels.shape)}"
            )
            raise ValueError(msg)

    @property
    def given(self) -> list[Tensor]:
        """The tensors that aren't ``None``, labels left out."""
        return [t for t in (self.boxes, self.points, self.masks) if t is not None]

    def check_batch(self, batch: int) -> tuple[int, int]:
        """(batch, prompts).

        Raises:
            ValueError: prompts of different numbers, or of another batch.
        """
        size, prompts = self.given[0].shape[:2]
        if size != batch or any(t.shape[:2] != (size, prompts) for t in self.given):
            shapes = ", ".join(str(tuple(t.shape)) for t in self.given)
            msg = f"prompts must share (batch, prompts) and the image's batch {batch}, got {shapes}"
            raise ValueError(msg)
        return size, prompts


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind, as the prompt encoder takes them.

    Attributes:
        rows: ``g``: which of the flattened ``B * P`` prompts these are, ascending.
        boxes: ``g 4`` or ``None``.
        points: ``g n 2`` and ``g n``, without padding, or ``None``.
        masks: ``g 1 h w`` or ``None``.
    """

    rows: Tensor
    boxes: Tensor | None
    points: tuple[Tensor, Tensor] | None
    masks: Tensor | None


def group_prompts(prompts: PromptBatch) -> tuple[list[PromptGroup], Tensor]:
    """Group the prompts of a batch by what they hold.

    Returns:
        The groups, and ``valid (B, P)``: false where a prompt holds nothing.

    Raises:
        ValueError: a point label other than 1, 0 and -1.
    """
    first = prompts.given[0]
    batch, number = first.shape[:2]
    nothing = torch.zeros(batch * number, dtype=torch.long, device=first.device)
    has_box = has_mask = num_points = nothing
    if prompts.boxes is not None:
        has_box = (~prompts.boxes.isnan().any(-1)).flatten().long()
    for name, given in (("boxes", prompts.boxes), ("masks", prompts.masks)):
        if given is not None and bool(given.isinf().any()):
            msg = f"{name} must be finite, or NaN where there is none"
            raise ValueError(msg)
    if prompts.masks is not None:
        has_mask = (~prompts.masks.isnan().flatten(2).any(-1)).flatten().long()
    if prompts.point_labels is not None:
        labels = prompts.point_labels
        if not bool(((labels == -1) | (labels == 0) | (labels == 1)).all()):
            found = sorted(set(labels.flatten().tolist()) - {-1, 0, 1})
            msg = f"point_labels must be 1 (inside), 0 (outside) or -1 (no point), got {found}"
            raise ValueError(msg)
        num_points = (labels >= 0).sum(-1).flatten()
        if prompts.points is not None and not bool(prompts.points[labels >= 0].isfinite().all()):
            msg = "points labelled 0 or 1 must have finite coordinates"
            raise ValueError(msg)
    kinds = torch.stack([has_box, has_mask, num_points], 1)
    groups = []
    for kind in sorted({tuple(kind) for kind in kinds.tolist()}):
        box, mask, points = kind
        if box or mask or points:
            rows = (kinds == kinds.new_tensor(kind)).all(1).nonzero()[:, 0]
            groups.append(_select(prompts, rows, bool(box), points, bool(mask)))
    return groups, (kinds > 0).any(1).view(batch, number)


def _select(
    prompts: PromptBatch, rows: Tensor, box: bool, num_points: int, mask: bool
) -> PromptGroup:
    boxes = points = masks = None
    if box and prompts.boxes is not None:
        boxes = prompts.boxes.flatten(0, 1)[rows]
    if num_points and prompts.points is not None and prompts.point_labels is not None:
        labels = prompts.point_labels.flatten(0, 1)[rows]
        real = labels >= 0
        coordinates = prompts.points.flatten(0, 1)[rows][real]
        points = (coordinates.view(-1, num_points, 2), labels[real].view(-1, num_points))
    if mask and prompts.masks is not None:
        masks = prompts.masks.flatten(0, 1)[rows][:, None]
    return PromptGroup(rows, boxes, points, masks)


def embed_uniform(
    encoder: nn.Module, prompts: PromptBatch | None, batch: int
) -> tuple[Tensor, Tensor]:
    """The prompt encoder without a step that depends on the values, for tracing and ONNX.

    All prompts hold all that is given. A point labelled -1 is a token, as in ``segment_anything``,
    not padding; NaN is passed on.

    Args:
        encoder: SAM's prompt encoder.
        prompts: ``None``: one prompt an image that holds nothing.
        batch: images.

    Returns:
        Sparse ``B*P n c`` and dense ``1|B*P c h w`` embeddings.
    """
    height, width = encoder.image_embedding_size  # type: ignore[misc]
    no_mask = encoder.no_mask_embed.weight  # type: ignore[union-attr]
    assert isinstance(no_mask, Tensor)
    dense = no_mask.reshape(1, -1, 1, 1).expand(-1, -1, height, width)
    sparse: list[Tensor] = []
    if prompts is None:
        return no_mask.new_zeros(batch, 0, no_mask.shape[1]), dense
    if prompts.points is not None and prompts.point_labels is not None:
        sparse.append(_embed_points(encoder, prompts.points, prompts.point_labels))
    if prompts.boxes is not None:
        corners = prompts.boxes.reshape(-1, 2, 2) + 0.5  # SAM adds half a pixel to boxes too
        embedded = _positions(encoder, corners)
        own = torch.cat(_point_weights(encoder)[2:4])
        sparse.append(embedded + own)
    # the padding token: behind points alone in SAM, behind boxes too in SAM 2
    if sparse and (prompts.boxes is None or getattr(encoder, "pads_boxes", False)):
        last = cast(Tensor, encoder.not_a_point_embed.weight)  # type: ignore[union-attr]
        sparse.append(last.expand(sparse[0].shape[0], 1, -1))
    if prompts.masks is not None:
        masks = prompts.masks.flatten(0, 1)[:, None]
        dense = encoder.mask_downscaling(masks)  # type: ignore[operator]
    if not sparse:
        return no_mask.new_zeros(dense.shape[0], 0, no_mask.shape[1]), dense
    return torch.cat(sparse, 1), dense


def _embed_points(encoder: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    embedded = _positions(encoder, points.flatten(0, 1) + 0.5)  # pixel centre
    labels = labels.flatten(0, 1)[..., None]
    outside, inside = _point_weights(encoder)[:2]
    none = cast(Tensor, encoder.not_a_point_embed.weight)  # type: ignore[union-attr]
    embedded = embedded * (labels != -1).to(embedded.dtype)
    for value, weight in ((-1, none), (0, outside), (1, inside)):
        embedded = embedded + (labels == value).to(embedded.dtype) * weight
    return embedded


def _point_weights(encoder: nn.Module) -> list[Tensor]:
    """``1 c`` each: outside, inside, first and second corner of a box."""
    layers = cast(nn.ModuleList, encoder.point_embeddings)
    return [cast(Tensor, layer.weight) for layer in layers]


def _positions(encoder: nn.Module, coordinates: Tensor) -> Tensor:
    """Positional encoding of ``b n 2`` (x, y) in pixels, without upstream's in-place division."""
    height, width = encoder.input_image_size  # type: ignore[misc]
    size = coordinates.new_tensor([float(width), float(height)])
    layer = cast(nn.Module, encoder.pe_layer)
    return cast(Tensor, layer._pe_encoding((coordinates / size).to(torch.float32)))  # type: ignore[operator]

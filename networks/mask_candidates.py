"""All masks that SAM's decoder offers for each prompt, and the quality it predicts for them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.networks.prompting import INVALID_LOGIT, PromptBatch, group_prompts
from samtune.networks.segmenter import SamSegmenter


@dataclass(frozen=True)
class MaskCandidates:
    """Masks of prompts on the decoder's own grid.

    Attributes:
        logits: ``B P k 4h 4w``; k = 4: SAM's single mask, then the three of an ambiguous prompt.
        iou: ``B P k``, predicted.
        valid: ``B P``, false where a prompt holds nothing.
    """

    logits: Tensor
    iou: Tensor
    valid: Tensor


def mask_candidates(
    segmenter: SamSegmenter, embedding: Tensor, prompts: PromptBatch, *, single: bool
) -> MaskCandidates:
    """Masks of each prompt, each prompt as if it were alone.

    Args:
        embedding: from :meth:`SamSegmenter.encode`.
        single: SAM's single mask alone, else all four.
    """
    batch, number = prompts.check_batch(embedding.shape[0])
    decoder, encoder = segmenter.mask_decoder, segmenter.prompt_encoder
    hypernetworks = list(decoder.output_hypernetworks_mlps)[: 1 if single else None]  # type: ignore[arg-type]
    groups, valid = group_prompts(prompts)
    height, width = encoder.mask_input_size  # type: ignore[misc]
    kinds = len(hypernetworks)
    logits = embedding.new_full((batch * number, kinds, height, width), INVALID_LOGIT)
    iou = embedding.new_zeros(batch * number, kinds)
    for group in groups:
        sparse, dense = encoder(points=group.points, boxes=group.boxes, masks=group.masks)
        images = group.rows.div(number, rounding_mode="floor")
        found, token = decoder.decode(  # type: ignore[operator]
            embedding[images],
            encoder.get_dense_pe(),  # type: ignore[operator]
            sparse,
            dense,
            decoder.mask_tokens.weight,  # type: ignore[union-attr]
            hypernetworks,
        )
        quality = decoder.iou_prediction_head(token)[:, :kinds]  # type: ignore[operator]
        logits = logits.to(found.dtype).index_copy(0, group.rows, found)
        iou = iou.to(quality.dtype).index_copy(0, group.rows, quality)
    if not groups and torch.is_grad_enabled():  # still a gradient, of zero
        idle = sum(p.sum() for p in segmenter.parameters() if p.requires_grad)
        logits = logits + 0 * (idle + embedding.sum())
    shape = (batch, number, kinds)
    return MaskCandidates(logits.view(*shape, height, width), iou.view(shape), valid)

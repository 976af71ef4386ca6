"""SAM 2's prompt encoder and mask decoder, by what they add to SAM's (arXiv:2408.00714).

Names are SAM's: the MLPs of the transformer have ``lin1`` and ``lin2``. ``conv_s0`` and ``conv_s1``
belong to the encoder here, see :mod:`samtune.networks.sam2_encoder`.
"""

from typing import Any

import torch
from segment_anything.modeling import PromptEncoder
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from samtune.networks.mask_decoder import SamMaskDecoder
from samtune.networks.sam2_encoder import EMBED_DIM, S0_DIM, S1_DIM, split_embedding


class Sam2PromptEncoder(PromptEncoder):  # type: ignore[misc]  # segment-anything is untyped
    """SAM's prompt encoder, with a padding token behind boxes too.

    ``SAM2ImagePredictor`` passes the corners of a box as points, and points end with padding.
    """

    pads_boxes = True

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``b n c`` of points and boxes, and the embedded mask ``b c h w``."""
        sparse, dense = super().forward(points=points, boxes=boxes, masks=masks)
        if boxes is not None:
            padding = self.not_a_point_embed.weight.expand(len(sparse), -1, -1)
            sparse = torch.cat([sparse, padding], dim=1)
        return sparse, dense


class Sam2MaskDecoder(SamMaskDecoder):
    """SAM's mask decoder with an object-score token and high-resolution features.

    The score says whether the object is in the frame; it matters to video alone, its token takes
    part in the attention. Masks come from the asked tokens: the exchange of an unstable single mask
    for one of the others (``dynamic_multimask_via_stability``) is not done.
    """

    used_paths = (
        "mask_decoder.iou_token",
        "mask_decoder.obj_score_token",
        "image_encoder.conv_s0",
        "image_encoder.conv_s1",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        dim, tokens = self.transformer_dim, self.num_mask_tokens
        hidden = options.get("iou_head_hidden_dim", 256)
        self.obj_score_token = nn.Embedding(1, dim)
        self.iou_prediction_head = MLP(
            dim, hidden, tokens, options.get("iou_head_depth", 3), sigmoid_output=True
        )
        self.pred_obj_score_head = MLP(dim, dim, 1, 3)

    @property
    def embedding_channels(self) -> int:
        """Channels of the encoder's output, high-resolution maps included."""
        return EMBED_DIM + 4 * S1_DIM + 16 * S0_DIM

    def leading_tokens(self) -> Tensor:
        """Object score and quality."""
        return torch.cat([self.obj_score_token.weight, self.iou_token.weight])

    def split(self, embedding: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``b 1024 h w`` to ``b 256 h w`` and the maps ``b 64 2h 2w``, ``b 32 4h 4w``."""
        coarse, s1, s0 = split_embedding(embedding)
        return coarse, (s1, s0)

    def upscale(self, grid: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """``b 256 h w`` to ``b 32 4h 4w``."""
        first, norm, act, second, last_act = self.output_upscaling
        s1, s0 = high_res
        out: Tensor = last_act(second(act(norm(first(grid) + s1))) + s0)
        return out

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All masks of one image's prompts, as upstream's method of this name.

        Args:
            image_embeddings: ``1 1024 h w`` or ``n 1024 h w``.
            image_pe: ``1 256 h w``.
            sparse_prompt_embeddings: ``n k 256``.
            dense_prompt_embeddings: ``n 256 h w``.

        Returns:
            Mask logits ``n 4 4h 4w`` and their predicted IoU ``n 4``.
        """
        masks, iou_token = self.decode(
            image_embeddings.expand(len(sparse_prompt_embeddings), -1, -1, -1),
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            self.mask_tokens.weight,
            list(self.output_hypernetworks_mlps),
        )
        return masks, self.iou_prediction_head(iou_token)

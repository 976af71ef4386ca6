"""SAM's mask decoder: upstream's module, in the steps that the segmenter runs one by one."""

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn


class SamMaskDecoder(MaskDecoder):  # type: ignore[misc]  # segment-anything is untyped
    """``segment_anything``'s decoder over a real batch, for any mask tokens.

    SAM 2's overrides the small methods that :meth:`decode` is made of.

    Attributes:
        embedding_channels: of the encoder's output.
        used_paths: modules beside transformer and upscaling that every mask depends on.
    """

    used_paths: tuple[str, ...] = ("mask_decoder.iou_token",)

    @property
    def embedding_channels(self) -> int:
        """Channels of the encoder's output."""
        return int(self.transformer_dim)

    def leading_tokens(self) -> Tensor:
        """Learned tokens ``k c`` that come before the mask tokens."""
        weight: Tensor = self.iou_token.weight
        return weight

    def split(self, embedding: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The encoder's output as what the transformer sees and maps for :meth:`upscale`."""
        return embedding, ()

    def upscale(self, grid: Tensor, high_res: tuple[Tensor, ...]) -> Tensor:
        """``b c h w`` to ``b c/8 4h 4w``."""
        out: Tensor = self.output_upscaling(grid)
        return out

    def decode(
        self,
        embedding: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        mask_tokens: Tensor,
        hypernetworks: Sequence[nn.Module],
    ) -> tuple[Tensor, Tensor]:
        """One mask for each hypernetwork.

        Args:
            embedding: the encoder's output, ``b e h w``.
            image_pe: positions, ``1 c h w``.
            sparse, dense: of the prompt encoder, ``b n c`` and ``1|b c h w``.
            mask_tokens: ``k c``; all take part in the attention.
            hypernetworks: of the first tokens.

        Returns:
            Logits ``b len(hypernetworks) 4h 4w``, and the token ``b c`` for
            ``iou_prediction_head``.
        """
        batch = embedding.shape[0]
        source, high_res = self.split(embedding)
        leading = self.leading_tokens()  # the last of them: IoU
        own = torch.cat([leading, mask_tokens])
        tokens = torch.cat([own.expand(batch, -1, -1), sparse.to(own.dtype)], dim=1)
        out, keys = self.transformer(source + dense, image_pe, tokens)
        upscaled = self.upscale(keys.transpose(1, 2).reshape(source.shape), high_res)
        first = len(leading)
        weights = torch.stack([f(out[:, first + i]) for i, f in enumerate(hypernetworks)], 1)
        return torch.einsum("bkc,bchw->bkhw", weights, upscaled), out[:, first - 1]

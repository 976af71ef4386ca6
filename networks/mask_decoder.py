"""SAM's mask decoder: upstream's module, in the steps that the segmenter runs one by one."""

from segment_anything.modeling import MaskDecoder
from torch import Tensor


class SamMaskDecoder(MaskDecoder):  # type: ignore[misc]  # segment-anything is untyped
    """``segment_anything``'s decoder; the methods here are what SAM 2's does otherwise.

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

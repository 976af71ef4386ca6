"""SAM's ViT image encoder (Kirillov et al. 2023, arXiv:2304.02643): upstream's module."""

from collections.abc import Sequence
from functools import partial

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from samtune.networks.attention import Attention, RelPosAttention, set_attention
from samtune.networks.checkpointing import run_block
from samtune.networks.sites import AttentionSite


class SamViT(ImageEncoderViT):  # type: ignore[misc]  # segment-anything is untyped
    """``segment_anything``'s encoder, run in two parts where asked, listing its blocks.

    Args:
        image_size: side of the square input, pixels; a multiple of ``patch_size``.
        dim, depth, num_heads: width, blocks, heads.
        global_blocks: indices of the blocks that attend to the whole grid.
        patch_size: side of a token, pixels.
        window: side of the other blocks' windows, tokens.
        attention: see :func:`samtune.networks.attention.set_attention`.
    """

    checkpointing = False  # see samtune.networks.checkpointing

    def __init__(
        self,
        *,
        image_size: int = 1024,
        dim: int,
        depth: int,
        num_heads: int,
        global_blocks: Sequence[int],
        patch_size: int = 16,
        window: int = 14,
        attention: Attention = "auto",
    ) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=4,
            out_chans=256,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=tuple(global_blocks),
        )
        self.embedding_stride = patch_size
        self.num_heads = num_heads
        for block in self.blocks:
            block.attn = RelPosAttention(block.attn)
        set_attention(self, attention)

    def adapter_sites(self) -> list[AttentionSite]:
        """All blocks in forward order."""
        return [
            AttentionSite(
                index=i,
                block=f"blocks.{i}",
                attn=f"blocks.{i}.attn",
                qkv=f"blocks.{i}.attn.qkv",
                num_heads=self.num_heads,
                layout="qkv",
                proj=f"blocks.{i}.attn.proj",
                mlp=f"blocks.{i}.mlp",
                lin1=f"blocks.{i}.mlp.lin1",
                lin2=f"blocks.{i}.mlp.lin2",
                norms=(f"blocks.{i}.norm1", f"blocks.{i}.norm2"),
                mlp_norm=None,
                stride=self.embedding_stride,
            )
            for i in range(len(self.blocks))
        ]

    def unit_of(self, name: str) -> int:
        """Site that parameter ``name`` belongs to; -1: before all; their number: the neck."""
        if name.startswith("neck."):
            return len(self.blocks)
        return int(name.split(".")[1]) if name.startswith("blocks.") else -1

    def forward_prefix(self, x: Tensor, block: int) -> Tensor:
        """Run everything before ``block`` (depth: all but the neck; depth + 1: everything).

        Images ``b 3 h w`` to features ``b h/16 w/16 c``.
        """
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for module in self.blocks[:block]:
            x = run_block(module, x, is_checkpointed=self.checkpointing)
        return self._neck(x) if block > len(self.blocks) else x

    def forward_suffix(self, x: Tensor, block: int) -> Tensor:
        """From ``block`` on: features ``b h w c`` to embedding ``b 256 h w``."""
        for module in self.blocks[block:]:
            x = run_block(module, x, is_checkpointed=self.checkpointing)
        if block <= len(self.blocks):
            x = self._neck(x)
        return x.permute(0, 3, 1, 2)

    def _neck(self, x: Tensor) -> Tensor:  # b h w c
        out: Tensor = self.neck(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images ``b 3 h w`` to embedding ``b 256 h/16 w/16``."""
        return self.forward_suffix(self.forward_prefix(x, 0), 0)

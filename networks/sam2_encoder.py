"""SAM 2's image encoder (Ravi et al. 2024, arXiv:2408.00714): Hiera blocks of ``transformers``.

Hiera (Ryali et al. 2023, arXiv:2306.00989) runs four stages at strides 4, 8, 16 and 32; the first
block of a stage doubles the width and pools its queries. A feature pyramid makes of the last two
stages the embedding at stride 16; the first two give high-resolution maps to the mask decoder. All
of it leaves as one tensor: pixels of the finer maps that lie under one token become channels.

    embedding b 1024 h w = [256 of stages 3 and 4 | 64 x 2 x 2 of stage 2 | 32 x 4 x 4 of stage 1]

Features between blocks are one tensor in the same way: the outputs of finished stages follow the
current one's channels, so that whatever stores features stores one tensor an image.

Differs from the published names: the decoder's ``conv_s0`` and ``conv_s1`` are here, where
``SAM2Base.forward_image`` runs them too; 1024 channels a token instead of 5376 leave the encoder.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.networks.checkpointing import run_block
from samtune.networks.sites import AttentionSite

PATCH_STRIDE = 4
EMBED_DIM = 256
S1_DIM, S0_DIM = EMBED_DIM // 4, EMBED_DIM // 8  # channels of the high-resolution maps
MULTIPLE = 32  # stride of the last stage: image sides must be multiples of it


class PooledAttention(nn.Module):
    """Multi-head attention whose queries may be pooled, with the layers of an untrained one.

    In place of that of ``transformers``, which also computes attention between heads and drops it:
    5 % of an image's time.
    """

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, num_heads: int, pool: int) -> None:
        super().__init__()
        self.qkv, self.proj = qkv, proj
        self.num_heads, self.pool = num_heads, pool

    def forward(self, hidden_states: Tensor) -> Tensor:  # b h w c -> b h/pool w/pool d
        """Attend over the whole of each map or window."""
        b, h, w, _ = hidden_states.shape
        # b h w (3 heads d) -> 3 of b n heads d
        qkv = self.qkv(hidden_states).reshape(b, h * w, 3, self.num_heads, -1)
        q, k, v = qkv.unbind(2)
        if self.pool > 1:
            grid = q.reshape(b, h, w, -1).permute(0, 3, 1, 2)
            grid = F.max_pool2d(grid, self.pool).permute(0, 2, 3, 1)
            h, w = grid.shape[1:3]
            q = grid.reshape(b, h * w, self.num_heads, -1)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, h, w, -1))
        return projected


class FeaturePyramid(nn.Module):
    """One 1x1 convolution a stage, the coarsest first; stage 4 is added to stage 3."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(dim, EMBED_DIM, 1) for dim in reversed(dims))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Stage outputs ``b c h w``, finest first, to 256 channels at strides 4, 8 and 16."""
        s0, s1, mid, top = (conv(x) for conv, x in zip(reversed(self.convs), maps, strict=True))
        return s0, s1, mid + F.interpolate(top, scale_factor=2.0, mode="nearest")


class Hiera(nn.Module):
    """Hiera with SAM 2's feature pyramid: images to an embedding at a sixteenth of the size.

    Args:
        image_size: side of the square input, pixels; a multiple of 32.
        dim: channels of the first stage, doubled from stage to stage.
        depths: blocks of the four stages.
        num_heads: of the first stage, doubled from stage to stage.
        global_blocks: blocks with attention over the whole map instead of windows.
        background_size: side of the position table that is interpolated (bicubic).
        windows: side of the windows of each stage, in its tokens.

    Raises:
        ImportError: ``transformers`` is not installed.
        ValueError: the image size is no multiple of 32.
    """

    checkpointing = False  # see samtune.networks.checkpointing

    def __init__(
        self,
        *,
        image_size: int = 1024,
        dim: int,
        depths: Sequence[int],
        num_heads: int,
        global_blocks: Sequence[int],
        background_size: int = 7,
        windows: Sequence[int] = (8, 4, 14, 7),
    ) -> None:
        super().__init__()
        if image_size < MULTIPLE or image_size % MULTIPLE:
            msg = f"SAM 2 takes image sides that are multiples of {MULTIPLE}, got {image_size}"
            raise ValueError(msg)
        self.img_size = image_size
        self.embedding_stride = 16
        self.dims = tuple(dim * 2**i for i in range(4))
        self.heads = tuple(num_heads * 2**i for i in range(4))
        self.stage_ends = tuple(end - 1 for end in accumulate(depths))
        trunk = _trunk(
            hidden_size=dim,
            num_attention_heads=num_heads,
            blocks_per_stage=list(depths),
            embed_dim_per_stage=list(self.dims),
            num_attention_heads_per_stage=list(self.heads),
            window_size_per_stage=list(windows),
            global_attention_blocks=list(global_blocks),
            window_positional_embedding_background_size=[background_size, background_size],
        )
        self.patch_embed: nn.Module = trunk.patch_embed
        self.pos_embed: nn.Parameter = trunk.pos_embed
        self.pos_embed_window: nn.Parameter = trunk.pos_embed_window
        self.blocks: nn.ModuleList = trunk.blocks
        for i, block in enumerate(trunk.blocks):
            heads = self.heads[self._stage(i)]
            pool = 2 if self._opens_stage(i) else 1
            block.attn = PooledAttention(block.attn.qkv, block.attn.proj, heads, pool)
        self.neck = FeaturePyramid(self.dims)
        self.conv_s0 = nn.Conv2d(EMBED_DIM, S0_DIM, 1)
        self.conv_s1 = nn.Conv2d(EMBED_DIM, S1_DIM, 1)
        # what the video model adds where it has no memory yet: always, for an image
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, EMBED_DIM))

    def _stage(self, block: int) -> int:
        return sum(end < block for end in self.stage_ends)

    def _opens_stage(self, block: int) -> bool:
        return block - 1 in self.stage_ends

    def adapter_sites(self) -> list[AttentionSite]:
        """All blocks in forward order; ``stride`` is that of the tokens that enter a block."""
        sites = []
        for i in range(len(self.blocks)):
            stage, path = self._stage(i), f"blocks.{i}"
            sites.append(
                AttentionSite(
                    index=i,
                    block=path,
                    attn=f"{path}.attn",
                    qkv=f"{path}.attn.qkv",
                    num_heads=self.heads[stage],
                    layout="qkv",
                    proj=f"{path}.attn.proj",
                    mlp=f"{path}.mlp",
                    lin1=f"{path}.mlp.proj_in",
                    lin2=f"{path}.mlp.proj_out",
                    norms=(f"{path}.layer_norm1", f"{path}.layer_norm2"),
                    mlp_norm=None,
                    stride=PATCH_STRIDE * 2 ** (stage - self._opens_stage(i)),
                )
            )
        return sites

    def unit_of(self, name: str) -> int:
        """Site that parameter ``name`` belongs to; -1: before all; their number: the neck."""
        if name.startswith(("neck.", "conv_s0.", "conv_s1.", "no_mem_embed")):
            return len(self.blocks)
        return int(name.split(".")[1]) if name.startswith("blocks.") else -1

    def forward_prefix(self, x: Tensor, block: int) -> Tensor:
        """Run everything before ``block`` (depth: all but the neck; depth + 1: everything).

        Args:
            x: images ``b 3 h w``.
            block: index in :meth:`adapter_sites`, or one of the two beyond.

        Returns:
            Features ``b h' w' c`` on the grid of the block before, finished stages packed in.
        """
        x = self.patch_embed(x)
        maps = self._run([x + self._positions(x.shape[1], x.shape[2])], 0, block)
        if block > len(self.blocks):
            return self._neck(maps).permute(0, 2, 3, 1)
        last = len(maps) - 1
        folded = [_fold(x, 2 ** (last - i)) for i, x in enumerate(maps[:-1])]
        return torch.cat([maps[-1], *folded], dim=-1) if folded else maps[-1]

    def forward_suffix(self, x: Tensor, block: int) -> Tensor:
        """From ``block`` on: features of :meth:`forward_prefix` to embedding ``b 1024 h w``."""
        if block > len(self.blocks):
            return x.permute(0, 3, 1, 2)
        last = self._stage(block - 1) if block > 0 else 0
        sides = [2 ** (last - i) for i in range(last)]
        widths = [self.dims[i] * side**2 for i, side in enumerate(sides)]
        current, *folded = torch.split(x, [self.dims[last], *widths], dim=-1)
        maps = [_unfold(x, side) for x, side in zip(folded, sides, strict=True)]
        return self._neck(self._run([*maps, current], block, len(self.blocks)))

    def _positions(self, height: int, width: int) -> Tensor:  # 1 h w c
        side = self.pos_embed_window.shape[-1]
        table = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        # a multiple of the window, as sides are multiples of 32
        table = table + self.pos_embed_window.repeat(1, 1, height // side, width // side)
        return table.permute(0, 2, 3, 1)

    def _run(self, maps: list[Tensor], start: int, stop: int) -> list[Tensor]:
        """Blocks ``start`` to ``stop``; ``maps``: outputs ``b h w c`` of the stages so far."""
        for i, block in enumerate(self.blocks[start:stop], start):
            out = run_block(block, maps[-1], is_checkpointed=self.checkpointing)
            maps = [*maps, out] if self._opens_stage(i) else [*maps[:-1], out]
        return maps

    def _neck(self, maps: list[Tensor]) -> Tensor:  # b h w c each, to b 1024 h/4 w/4
        s0, s1, embedding = self.neck([x.permute(0, 3, 1, 2) for x in maps])
        embedding = embedding + self.no_mem_embed.view(1, -1, 1, 1)
        s1, s0 = F.pixel_unshuffle(self.conv_s1(s1), 2), F.pixel_unshuffle(self.conv_s0(s0), 4)
        return torch.cat([embedding, s1, s0], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``b 3 h w`` to embedding ``b 1024 h/16 w/16``."""
        return self.forward_suffix(self.forward_prefix(x, 0), 0)


def split_embedding(embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The embedding ``b 256 h w``, and the maps ``b 64 2h 2w`` and ``b 32 4h 4w`` packed in it."""
    coarse, s1, s0 = torch.split(embedding, [EMBED_DIM, S1_DIM * 4, S0_DIM * 16], dim=1)
    return coarse, F.pixel_shuffle(s1, 2), F.pixel_shuffle(s0, 4)


def _fold(x: Tensor, side: int) -> Tensor:  # b (h s) (w s) c -> b h w (s s c)
    b, height, width, c = x.shape
    x = x.reshape(b, height // side, side, width // side, side, c).transpose(2, 3)
    return x.flatten(3)


def _unfold(x: Tensor, side: int) -> Tensor:  # b h w (s s c) -> b (h s) (w s) c
    b, h, w, _ = x.shape
    x = x.reshape(b, h, w, side, side, -1).transpose(2, 3)
    return x.reshape(b, h * side, w * side, -1)


def _trunk(**settings: Any) -> Any:
    """``transformers``' trunk, untrained."""
    try:
        from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig
        from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel
    except ImportError as error:
        msg = 'SAM 2 needs transformers; install it with: pip install "samtune[sam2]"'
        raise ImportError(msg) from error
    return cast(Any, Sam2HieraDetModel)(cast(Any, Sam2HieraDetConfig)(**settings))

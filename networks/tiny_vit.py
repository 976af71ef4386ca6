"""TinyViT image encoder of LiteMedSAM and MobileSAM, with the published parameter names.

Wu et al. 2022, arXiv:2207.10666; the SAM variant (neck, stride 1 before the last stage) is
MobileSAM's, arXiv:2306.14289; LiteMedSAM (bowang-lab/MedSAM, branch LiteMedSAM) embeds single
pixels instead of 4x4 patches, so a 256x256 image gives a 64x64 embedding. Features are ``b h w c``
between the blocks. No module here holds an input size: any image whose sides are multiples of
``embedding_stride`` passes.

BatchNorm always uses its stored statistics, also in training mode: with a few scans and small
batches updated statistics would drift away from the pretrained ones.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from samtune.networks.checkpointing import run_block
from samtune.networks.sites import AttentionSite


class ConvBN(nn.Module):
    """Convolution with a frozen-statistics BatchNorm folded into its weight at every call.

    Folding is exact up to rounding, keeps gradients of both, and saves a pass over the activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        groups = in_channels if depthwise else 1
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:  # b c h w -> b d h/s w/s
        """Convolve and normalise."""
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert var is not None
        scale = self.bn.weight * torch.rsqrt(var + self.bn.eps)
        # an adapted convolution has another weight than the frozen one it holds
        changed = getattr(self.c, "changed_weight", None)
        weight = self.c.weight if changed is None else changed()
        weight = weight * scale[:, None, None, None]
        bias = self.bn.bias - mean * scale
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class PatchEmbed(nn.Module):
    """Two convolutions; together stride 1 (LiteMedSAM, kernel 1) or 4 (MobileSAM, kernel 3)."""

    def __init__(self, dim: int, patch_stride: int) -> None:
        super().__init__()
        kernel, stride = {1: (1, 1), 4: (3, 2)}[patch_stride]
        self.seq = nn.Sequential(
            ConvBN(3, dim // 2, kernel, stride), nn.GELU(), ConvBN(dim // 2, dim, kernel, stride)
        )

    def forward(self, x: Tensor) -> Tensor:  # b 3 h w -> b c h w
        """Embed pixels."""
        out: Tensor = self.seq(x)
        return out


class MBConv(nn.Module):
    """Inverted residual block, expansion 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, depthwise=True)
        self.conv3 = ConvBN(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:  # b c h w
        """Expand, filter each channel, project back, add."""
        h = F.gelu(self.conv1(x))
        h = self.conv3(F.gelu(self.conv2(h)))
        return F.gelu(h + x)


class PatchMerging(nn.Module):
    """Change of width between stages; halves the grid when ``stride`` is 2."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, depthwise=True)
        self.conv3 = ConvBN(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:  # b c h w -> b d h/s w/s
        """Merge."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Attention within one window, with a learned bias per head and absolute offset."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        side = torch.arange(window)
        apart = (side[:, None] - side).abs()
        # of two pixels: rows apart, then columns apart, in the order of the published tables
        index = apart[:, None, :, None] * window + apart[None, :, None, :]
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window**2))
        index_table = index.reshape(window**2, window**2)
        self.register_buffer("attention_bias_idxs", index_table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # b n c
        """Attend."""
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, self.num_heads, 3, -1)  # rows: head, then q k v
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.attention_bias_idxs]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, c))
        return projected


class Mlp(nn.Module):
    """LayerNorm and two linear layers, expansion 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last axis."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TinyViTBlock(nn.Module):
    """Window attention, depthwise convolution, MLP."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, num_heads, window)
        self.mlp = Mlp(dim)
        self.local_conv = ConvBN(dim, dim, 3, depthwise=True)

    def _attend(self, x: Tensor) -> Tensor:  # b h w c
        b, h, w, c = x.shape
        s = self.window
        # zeros beyond the border take part in attention, as in the published network
        x = F.pad(x, (0, 0, 0, -w % s, 0, -h % s))
        rows, cols = x.shape[1] // s, x.shape[2] // s
        x = x.view(b, rows, s, cols, s, c).transpose(2, 3).reshape(-1, s * s, c)
        x = self.attn(x)
        x = x.view(b, rows, cols, s, s, c).transpose(2, 3).reshape(b, rows * s, cols * s, c)
        return x[:, :h, :w]

    def forward(self, x: Tensor) -> Tensor:  # b h w c
        """Apply the block."""
        x = x + self._attend(x)
        # a channels-last image for the convolution, without a copy
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x + self.mlp(x)
        return out


class Stage(nn.Module):
    """Blocks of one width, then the change to the next (``downsample``, absent in the last)."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class TinyViT(nn.Module):
    """TinyViT encoder: images to a 256-channel embedding at a quarter or a sixteenth of the size.

    Args:
        patch_stride: 1 for LiteMedSAM (embedding side = image side / 4), 4 for MobileSAM (/ 16).
        dims, depths, num_heads, windows: per stage; the first stage is convolutional, its
            ``num_heads`` and ``windows`` entries are unused.
    """

    checkpointing = False  # see samtune.networks.checkpointing

    def __init__(
        self,
        *,
        patch_stride: int,
        dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        self.embedding_stride = 4 * patch_stride
        self.patch_embed = PatchEmbed(dims[0], patch_stride)
        strides = [2] * (len(dims) - 2) + [1]  # the last change keeps the grid
        merges = [PatchMerging(a, b, s) for (a, b), s in zip(pairwise(dims), strides, strict=True)]
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(dim) if i == 0 else TinyViTBlock(dim, num_heads[i], windows[i])
                for _ in range(depth)
            ]
            self.layers.append(Stage(blocks, merges[i] if i < len(merges) else None))
        self.neck = nn.Sequential(
            nn.Conv2d(dims[-1], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        self.apply(_init_linear)

    def _attention_blocks(self) -> list[tuple[int, int]]:
        """(stage, block) of every attention block in forward order."""
        return [
            (i, j)
            for i, stage in enumerate(self.layers)
            if i > 0
            for j in range(len(stage.blocks))  # type: ignore[arg-type]
        ]

    def adapter_sites(self) -> list[AttentionSite]:
        """Attention blocks in forward order; the convolution stage is not counted."""
        sites = []
        stride = self.embedding_stride // 2  # of the first attention stage
        for index, (i, j) in enumerate(self._attention_blocks()):
            if j == 0 and 1 < i < len(self.layers) - 1:  # the last change keeps the grid
                stride *= 2
            path = f"layers.{i}.blocks.{j}"
            heads = self.get_submodule(f"{path}.attn").num_heads
            sites.append(
                AttentionSite(
                    index=index,
                    block=path,
                    attn=f"{path}.attn",
                    qkv=f"{path}.attn.qkv",
                    num_heads=int(heads),  # type: ignore[arg-type]
                    layout="heads",
                    proj=f"{path}.attn.proj",
                    mlp=f"{path}.mlp",
                    lin1=f"{path}.mlp.fc1",
                    lin2=f"{path}.mlp.fc2",
                    norms=(f"{path}.attn.norm", f"{path}.mlp.norm"),
                    mlp_norm=f"{path}.mlp.norm",
                    stride=stride,
                )
            )
        return sites

    def conv_sites(self) -> list[str]:
        """The pointwise convolutions of the convolution stage, in forward order."""
        return [
            f"layers.0.blocks.{i}.{conv}.c"
            for i in range(len(self.layers[0].blocks))  # type: ignore[arg-type]
            for conv in ("conv1", "conv3")
        ]

    def unit_of(self, name: str) -> int:
        """Site that parameter ``name`` belongs to; -1: before all; their number: the neck."""
        sites = self.adapter_sites()
        if name.startswith("neck."):
            return len(sites)
        for site in reversed(sites):
            stage = site.block.rsplit(".blocks.", 1)[0]
            if name.startswith((site.block + ".", stage + ".downsample.")):
                return site.index
        return -1

    def forward_prefix(self, x: Tensor, block: int) -> Tensor:
        """Run everything before attention block ``block``.

        Args:
            x: images, ``b 3 h w``, sides multiples of ``embedding_stride``.
            block: index in :meth:`adapter_sites`; n, their number: all but the neck; n + 1:
                everything.

        Returns:
            Features ``b h' w' c`` that :meth:`forward_suffix` takes.
        """
        if not torch.is_grad_enabled() and x.device.type == "cpu" and len(x) > 1:
            # 2 to 3 times faster: one image's wide early features stay in the processor's cache
            return torch.cat([self.forward_prefix(image, block) for image in x[:, None]])
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        for conv_block in self.layers[0].blocks:  # type: ignore[union-attr]
            x = conv_block(x)
        x = self.layers[0].downsample(x)  # type: ignore[operator]
        x = self._run(x.permute(0, 2, 3, 1), 0, block)
        return self._neck(x) if block > len(self._attention_blocks()) else x

    def forward_suffix(self, x: Tensor, block: int) -> Tensor:
        """From attention block ``block`` on: features ``b h' w' c`` to embedding ``b 256 h w``."""
        num_blocks = len(self._attention_blocks())
        x = self._run(x, block, num_blocks)
        if block <= num_blocks:
            x = self._neck(x)
        return x.permute(0, 3, 1, 2).contiguous()

    def _neck(self, x: Tensor) -> Tensor:  # b h w c
        out: Tensor = self.neck(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:  # b h w c
        for i, j in self._attention_blocks()[start:stop]:
            stage = self.layers[i]
            block: nn.Module = stage.blocks[j]  # type: ignore[index,assignment]
            x = run_block(block, x, is_checkpointed=self.checkpointing)
            if j + 1 == len(stage.blocks) and stage.downsample is not None:  # type: ignore[arg-type]
                x = stage.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[operator]
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images ``b 3 h w`` to embedding ``b 256 h/stride w/stride``."""
        return self.forward_suffix(self.forward_prefix(x, 0), 0)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

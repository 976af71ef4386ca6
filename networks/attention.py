"""SAM's attention with decomposed relative positions, in the cheapest exact form.

With queries and keys of tokens i, j at rows and columns (r, c), SAM adds to each scaled logit

    bias_ij = q_i . R_h[r_i - r_j] + q_i . R_w[c_i - c_j]          (MViTv2, arXiv:2112.01526)

upstream as a materialised N x N tensor. The same numbers come from

- ``mask``: fused attention with the bias as its mask, a part of it at a time; where no gradient is
  kept;
- ``tiled``: :mod:`samtune.networks.tiled_attention`; gradients on a CPU, large grids;
- ``augmented``: Q' = [s q, q R_h, q R_w], K' = [k, onehot(row), onehot(col)], so Q'K'^T holds the
  bias and a fused kernel keeps nothing of size N x N; gradients elsewhere, large grids;
- ``materialised``: upstream's own sums; gradients of small windows.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention as UpstreamAttention
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

from samtune.networks.tiled_attention import TiledAttention

Attention = Literal["auto", "reference"]
Form = Literal["mask", "tiled", "augmented", "materialised"]
# up to this many tokens the N x N tensors are small, and keeping them costs least
SMALL_GRID = 784
# of the part of the mask that is built at once, by device: 16 MiB of float32 stay in a processor's
# cache, 256 MiB keep a GPU busy
MASK_ELEMENTS = {"cpu": 2**22}
MASK_ELEMENTS_ELSEWHERE = 2**26


class RelPosAttention(nn.Module):
    """Takes the place of ``segment_anything``'s attention: same parameters, names and output.

    Args:
        attention: upstream's module; its parts are used, not copied. It must have relative
            positions.

    Attributes:
        reference: run upstream's own code, bit for bit.
    """

    qkv: nn.Module
    proj: nn.Module
    rel_pos_h: Tensor
    rel_pos_w: Tensor

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.reference = False
        self.use_rel_pos = True  # for upstream's code
        self.num_heads: int = attention.num_heads  # type: ignore[assignment]
        self.scale: float = attention.scale  # type: ignore[assignment]
        self.qkv = attention.get_submodule("qkv")
        self.proj = attention.get_submodule("proj")
        self.rel_pos_h = attention.get_parameter("rel_pos_h")
        self.rel_pos_w = attention.get_parameter("rel_pos_w")

    def form(self, qkv: Tensor, num_tokens: int) -> Form:
        """The form that a forward takes."""
        tables = (self.rel_pos_h.requires_grad, self.rel_pos_w.requires_grad)
        if not (torch.is_grad_enabled() and (qkv.requires_grad or any(tables))):
            return "mask"
        if num_tokens <= SMALL_GRID:
            return "materialised"
        exact = qkv.dtype in (torch.float32, torch.float64)
        on_cpu = qkv.device.type == "cpu" and not torch.compiler.is_compiling()
        return "tiled" if exact and on_cpu else "augmented"

    def forward(self, x: Tensor) -> Tensor:  # b h w c
        """Attend among all tokens of a grid or window."""
        if self.reference:
            out: Tensor = UpstreamAttention.forward(self, x)
            return out
        b, h, w, _ = x.shape
        fused = self.qkv(x)
        qkv = fused.reshape(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.contiguous().unbind(0)  # b heads n d
        grid = q.unflatten(2, (h, w))
        rows = torch.einsum("bnhwd,hkd->bnhwk", grid, get_rel_pos(h, h, self.rel_pos_h).to(q.dtype))
        cols = torch.einsum("bnhwd,wkd->bnhwk", grid, get_rel_pos(w, w, self.rel_pos_w).to(q.dtype))
        attend = {
            "mask": _masked,
            "tiled": TiledAttention.apply,
            "augmented": _augmented,
            "materialised": _materialised,
        }[self.form(fused, h * w)]
        heads = attend(q, k, v, rows, cols, self.scale)
        out = self.proj(heads.transpose(1, 2).reshape(b, h, w, -1))
        return out


def set_attention(module: nn.Module, attention: Attention) -> None:
    """Choose how all attention with relative positions in ``module`` is computed.

    Args:
        attention: ``auto``: the cheapest exact form; ``reference``: upstream's code, bit for bit.

    Raises:
        ValueError: something else.
    """
    if attention not in get_args(Attention):
        msg = f"attention must be 'auto' or 'reference', got '{attention}'"
        raise ValueError(msg)
    for child in module.modules():
        if isinstance(child, RelPosAttention):
            child.reference = attention == "reference"


def _masked(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:  # b heads n d
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if traced or torch.compiler.is_compiling():  # one call makes a small graph
        bias = _bias(rows, cols)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    b, heads, n, _ = q.shape
    h, w = rows.shape[2:4]
    elements = MASK_ELEMENTS.get(q.device.type, MASK_ELEMENTS_ELSEWHERE)
    heads_step = min(max(1, elements // (b * n * n)), heads)
    step = min(max(1, elements // (heads_step * b * w * n)), h)
    by_head = []
    for head in range(0, heads, heads_step):
        part = slice(head, head + heads_step)
        by_row = [
            F.scaled_dot_product_attention(
                q[:, part, first * w : (first + step) * w],
                k[:, part],
                v[:, part],
                attn_mask=_bias(
                    rows[:, part, first : first + step], cols[:, part, first : first + step]
                ),
                scale=scale,
            )
            for first in range(0, h, step)
        ]
        by_head.append(by_row[0] if len(by_row) == 1 else torch.cat(by_row, 2))
    return by_head[0] if len(by_head) == 1 else torch.cat(by_head, 1)


def _augmented(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
    b, heads, n, d = q.shape
    h, w = rows.shape[2:4]
    row = torch.eye(h, device=q.device, dtype=q.dtype).repeat_interleave(w, 0)
    col = torch.eye(w, device=q.device, dtype=q.dtype).repeat(h, 1)
    place = torch.cat([row, col], 1).expand(b, heads, n, h + w)
    wide_q = torch.cat([q * scale, rows.flatten(2, 3), cols.flatten(2, 3)], -1)
    wide_k = torch.cat([k, place], -1)
    # fused kernels want equal widths of all three
    wide_v = F.pad(v, (0, h + w))
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., :d]


def _materialised(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
) -> Tensor:
    h, w = rows.shape[2:4]
    products: Tensor = (q * scale) @ k.transpose(-2, -1)
    logits = products.view(*q.shape[:2], h, w, h, w) + rows[..., :, None]
    logits += cols[..., None, :]
    return logits.view(products.shape).softmax(-1) @ v


def _bias(rows: Tensor, cols: Tensor) -> Tensor:
    """``b heads m w h`` and ``b heads m w w`` to the bias ``b heads m*w n``."""
    bias = rows[..., :, None] + cols[..., None, :]
    return bias.flatten(4, 5).flatten(2, 3)

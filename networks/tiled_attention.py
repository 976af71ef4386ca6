"""Attention with relative positions in tiles that stay in the processor's cache, with its gradient.

Nothing of size N x N is kept or written to memory: a tile of logits (some rows of queries, all
keys, one head) is made, used and overwritten, in the backward pass once more (recomputation as in
FlashAttention, arXiv:2205.14135, with the bias's own gradient). For float32 and float64 on a CPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_ELEMENTS = 2**21  # of a tile of logits: 8 MiB in float32


class TiledAttention(torch.autograd.Function):
    """``softmax(scale q k' + bias) v`` with bias = rows + cols.

    Args:
        q, k, v: ``b heads n d``, n = h * w.
        rows, cols: ``b heads h w h`` and ``b heads h w w``: what is added to the logits of the
            query at (h, w) for each row and each column of keys.
        scale: of the products.

    Returns:
        ``b heads n d``. It can be differentiated once.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float
    ) -> Tensor:
        """Attend."""
        q, k, v = (t.contiguous() for t in (q, k, v))
        out = torch.empty_like(q)
        h, w = rows.shape[2:4]
        for b, head, tile in _tiles(q, h, w):
            probabilities = _probabilities(q, k, rows, cols, scale, b, head, tile)
            torch.mm(probabilities, v[b, head], out=out[b, head, tile.start * w : tile.stop * w])
        ctx.save_for_backward(q, k, v, rows, cols, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, rows and cols."""
        q, k, v, rows, cols, out = ctx.saved_tensors
        h, w = rows.shape[2:4]
        d_q, d_rows, d_cols = torch.empty_like(q), torch.empty_like(rows), torch.empty_like(cols)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        grad = grad.contiguous()
        for b, head, tile in _tiles(q, h, w):
            part = slice(tile.start * w, tile.stop * w)
            probabilities = _probabilities(q, k, rows, cols, ctx.scale, b, head, tile)
            upper = grad[b, head, part]
            d_v[b, head].addmm_(probabilities.t(), upper)
            # dP - sum_j P dP, the latter as the row sums of dO O
            d_logits = upper @ v[b, head].t()
            d_logits -= (upper * out[b, head, part]).sum(-1, keepdim=True)
            d_logits *= probabilities
            by_place = d_logits.view(-1, w, h, w)
            torch.sum(by_place, 3, out=d_rows[b, head, tile])
            torch.sum(by_place, 2, out=d_cols[b, head, tile])
            torch.mm(d_logits, k[b, head], out=d_q[b, head, part])
            d_k[b, head].addmm_(d_logits.t(), q[b, head, part])
        return d_q.mul_(ctx.scale), d_k.mul_(ctx.scale), d_v, d_rows, d_cols, None


def _tiles(q: Tensor, h: int, w: int) -> list[tuple[int, int, slice]]:
    """(image, head, rows of the grid) of every tile."""
    step = max(1, TILE_ELEMENTS // (w * q.shape[2]))
    return [
        (b, head, slice(first, min(first + step, h)))
        for b in range(q.shape[0])
        for head in range(q.shape[1])
        for first in range(0, h, step)
    ]


def _probabilities(
    q: Tensor, k: Tensor, rows: Tensor, cols: Tensor, scale: float, b: int, head: int, tile: slice
) -> Tensor:
    """Attention ``m n`` of the m = (rows of the tile) * w queries of one tile."""
    h, w = rows.shape[2:4]
    logits = (q[b, head, tile.start * w : tile.stop * w] * scale) @ k[b, head].t()
    by_place = logits.view(-1, w, h, w)
    by_place += rows[b, head, tile, :, :, None]
    by_place += cols[b, head, tile, :, None, :]
    return torch.softmax(logits, -1, out=logits)

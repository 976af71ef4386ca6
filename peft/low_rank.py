"""A frozen linear layer plus a low-rank product, quick and lean.

    y = x W^T + bias + x A^T B + ((x V^T) * d) U

A and B are trained, W, V and U are not, d is. Products accumulate into one result, forward and
backward; ``benchmarks/bench_peft_layers.py`` has what that gains.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _accumulate(out: Tensor, low: Tensor, b: Tensor) -> Tensor:
    """``out + low b`` in ``out``'s memory, where ``out`` is a fresh result, ``... x n``."""
    if not out.is_contiguous():
        return out + low @ b
    out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), b)
    return out


class _LowRankLinear(torch.autograd.Function):
    """See :func:`low_rank_linear`; accumulates in place, forward and backward."""

    @staticmethod
    def forward(
        ctx: "torch.autograd.function.FunctionCtx",
        x: Tensor,  # ... in
        weight: Tensor,  # out in
        bias: Tensor | None,  # out
        a: Tensor,  # r in
        b: Tensor,  # r out
    ) -> Tensor:
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        return _accumulate(F.linear(x, weight, bias), low, b)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: "torch.autograd.function.FunctionCtx", grad: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, Tensor, Tensor]:
        x, weight, a, b, low = ctx.saved_tensors  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        flat = grad.flatten(0, -2)
        grad_low = flat @ b.T
        dx = (flat @ weight).addmm_(grad_low, a).view_as(x) if needs[0] else None
        da, db = grad_low.T @ x.flatten(0, -2), low.flatten(0, -2).T @ flat
        return dx, None, flat.sum(0) if needs[2] else None, da, db


class _ScaledLowRankLinear(torch.autograd.Function):
    """The same beside a fixed pair with trained weights: y += ((x V^T) * d) U.

    The gradient of d comes from the two thin products that are there anyway, N x k each; no
    gradient of V's or U's size is made.
    """

    @staticmethod
    def forward(
        ctx: "torch.autograd.function.FunctionCtx",
        x: Tensor,  # ... in
        weight: Tensor,  # out in
        bias: Tensor | None,  # out
        a: Tensor,  # r in
        b: Tensor,  # r out
        v: Tensor,  # k in
        u: Tensor,  # k out
        d: Tensor,  # k
    ) -> Tensor:
        low = x @ torch.cat([v, a]).T
        scale = torch.cat([d, d.new_ones(len(a))])
        ctx.save_for_backward(x, weight, a, b, v, u, scale, low)
        return _accumulate(F.linear(x, weight, bias), low * scale, torch.cat([u, b]))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: "torch.autograd.function.FunctionCtx", grad: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, Tensor, Tensor, None, None, Tensor]:
        x, weight, a, b, v, u, scale, low = ctx.saved_tensors  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        k, flat, low = len(v), grad.flatten(0, -2), low.flatten(0, -2)
        grad_low = flat @ torch.cat([u, b]).T
        dx = None
        if needs[0]:
            dx = (flat @ weight).addmm_(grad_low * scale, torch.cat([v, a])).view_as(x)
        da, db = grad_low[:, k:].T @ x.flatten(0, -2), low[:, k:].T @ flat
        dd = (grad_low[:, :k] * low[:, :k]).sum(0)
        return dx, None, flat.sum(0) if needs[2] else None, da, db, None, None, dd


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    fixed: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """``x W^T + bias + x A^T B``, ``... in -> ... out``, and ``((x V^T) * d) U`` where asked.

    Args:
        x: ``... x in``.
        weight: ``out x in``.
        bias: ``out``, or none.
        a: ``r x in``.
        b: ``r x out``.
        fixed: V ``k x in`` and U ``k x out``, which get no gradient, and d, ``k``.
    """
    if (
        x.ndim < 2
        or weight.requires_grad
        or a.dtype != x.dtype
        or torch.is_autocast_enabled(x.device.type)
    ):
        out = F.linear(x, weight, bias) + F.linear(x, a) @ b
        if fixed is not None:
            v, u, d = fixed
            out = out + F.linear(x, v) @ (d[:, None] * u)
        return out
    args = (x, weight, bias, a, b)
    fused: Tensor
    if fixed is None:
        fused = _LowRankLinear.apply(*args)
    else:
        fused = _ScaledLowRankLinear.apply(*args, *fixed)
    return fused

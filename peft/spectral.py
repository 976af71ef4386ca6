"""Training in the basis of a weight's singular vectors: S-SAM and SVF.

With W = U diag(S) V^T, m = min(in, out) singular values:

    W' = U diag(S + d) V^T,   d = (scale - 1) S + shift  (S-SAM, arXiv:2408.06447: 2 m values)
                              d trained itself           (SVF, arXiv:2206.06122: m values)

S-SAM clips S + d at zero; with ``relu`` we do too. At step 0, d = 0.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from samtune.peft.linear import AdaptedLinear, wide
from samtune.peft.svd import thin_svd
from samtune.peft.whole_layers import WholeLayersAndConvs


class SpectralBasis(nn.Module):
    """The frozen vectors of one weight, and the trained change of its singular values.

    Args:
        weight: ``out x in``.
        pair: train scale and shift of each value, in place of one change.
        top: how many of the largest values are changed; ``None``: all.
    """

    u: Tensor
    s: Tensor
    vh: Tensor
    anchor: Tensor

    def __init__(self, weight: Tensor, *, pair: bool, top: int | None = None) -> None:
        super().__init__()
        svd = thin_svd(weight)
        self.top = len(svd.s) if top is None else top
        for name in ("u", "s", "vh", "anchor"):
            # a state dict holds what tells whose vectors these are, not the vectors
            self.register_buffer(name, getattr(svd, name), persistent=name in ("s", "anchor"))
        self.u = self.u.T.contiguous().T
        like = svd.s[: self.top]
        if pair:
            self.scale = nn.Parameter(torch.ones_like(like))
            self.shift = nn.Parameter(torch.zeros_like(like))
        else:
            self.delta = nn.Parameter(torch.zeros_like(like))

    def names(self) -> tuple[str, ...]:
        """Local names of the trained values."""
        return ("delta",) if hasattr(self, "delta") else ("scale", "shift")

    def change(self, relu: bool = False) -> Tensor:
        """d, ``top`` values."""
        s = self.s[: self.top]
        changed = s + self.delta if hasattr(self, "delta") else s * self.scale + self.shift
        return (changed.relu() if relu else changed) - s

    def check(self, values: Tensor, path: str) -> None:
        """Compare with the singular values of the weight that something was trained on.

        Args:
            values: the singular values there.
            path: for the error.

        Raises:
            ValueError: the decomposition here is another one.
        """
        coarse = 4 * max(torch.finfo(t.dtype).eps for t in (values, self.s))
        rtol, atol = max(1e-4, coarse), max(1e-5, coarse / 10) * float(self.s[0])
        if not torch.allclose(values.to(self.s), self.s, rtol=rtol, atol=atol):
            msg = f"the singular values of '{path}' are not those that the adapter was trained on"
            raise ValueError(msg)

    def turn(self, anchor: Tensor) -> None:
        """Give the vectors the signs that they had where ``anchor`` comes from.

        Args:
            anchor: row of each column of u that was positive.
        """
        index = anchor.to(self.u.device, torch.long)
        sign = torch.gather(self.u, 0, index[None])[0].sign()
        sign = torch.where(sign == 0, torch.ones_like(sign), sign)
        self.u.mul_(sign)
        self.vh.mul_(sign[:, None])
        self.anchor.copy_(anchor)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the trained values; turn the vectors to the signs there, or refuse another base."""
        own = self.s.clone(), self.anchor.clone()
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        loaded = self.s, self.anchor
        self.s, self.anchor = own
        if own[0].is_meta or loaded[0].is_meta:
            return
        try:
            self.check(loaded[0], prefix.removesuffix("."))
        except ValueError as error:
            error_msgs.append(f"{error}: load the base weights before adapting")
            return
        self.turn(loaded[1])


class _Rebuilt(torch.autograd.Function):
    """y = x W'^T + b with W' = (U diag(v)) V^T; its backward keeps x alone and wants only dv."""

    @staticmethod
    def forward(
        ctx: "torch.autograd.function.FunctionCtx",
        x: Tensor,
        values: Tensor,
        u: Tensor,
        vh: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        weight = (u * values) @ vh
        ctx.save_for_backward(x, values, u, vh)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: "torch.autograd.function.FunctionCtx", grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, Tensor | None]:
        x, values, u, vh = ctx.saved_tensors  # type: ignore[attr-defined]
        flat = grad.flatten(0, -2)
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        dx = grad @ ((u * values) @ vh) if needs[0] else None
        dv = None
        if needs[1]:
            dv = ((flat.T @ x.flatten(0, -2)).T.to(u.dtype) @ u * vh.T).sum(0)
        db = flat.sum(0) if needs[4] else None
        return dx, dv, None, None, db


class SpectralLinear(AdaptedLinear):
    """A frozen linear layer with changed singular values.

    Computed in the basis, ``y = ((x V) * (S + d)) U^T + b``, where that costs less than building W'
    and its gradient; which one depends on the layer's shape and the number of tokens.

    Args:
        base: layer whose parameters are taken over.
        pair: see :class:`SpectralBasis`.
        relu: clip changed values at zero, as the released code does.
    """

    def __init__(self, base: nn.Linear, *, pair: bool, relu: bool = False) -> None:
        super().__init__(base)
        self.basis = SpectralBasis(base.weight, pair=pair)
        self.relu = relu

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The trained singular values."""
        return tuple(f"basis.{name}" for name in self.basis.names())

    def rebuilds(self, tokens: int) -> bool:
        """Is building W' cheaper, counted in multiplications of forward and backward?"""
        m, area = len(self.basis.s), self.in_features * self.out_features
        spectral = 2 * tokens * m * (self.in_features + self.out_features)
        return 3 * tokens * area + 3 * m * area < spectral

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        basis = self.basis
        values = basis.s + basis.change(self.relu)
        autocast = torch.is_autocast_enabled(x.device.type)
        if not autocast and self.rebuilds(x.numel() // self.in_features):
            out: Tensor = _Rebuilt.apply(x, values, basis.u, basis.vh, self.bias)
            return out
        return F.linear(F.linear(x, basis.vh) * values.to(x.dtype), basis.u, self.bias)

    def merged_weight(self) -> Tensor:
        """W + U diag(d) V^T."""
        basis = self.basis
        return wide(self.weight) + wide(basis.u * basis.change(self.relu)) @ wide(basis.vh)


def bases(model: nn.Module) -> list[tuple[str, SpectralBasis]]:
    """(path, basis) of everything in ``model`` that is trained in a singular basis."""
    return [(path, m) for path, m in model.named_modules() if isinstance(m, SpectralBasis)]


@dataclass(frozen=True, kw_only=True)
class SSAM(WholeLayersAndConvs):
    """Scale and shift of all singular values of linear layers.

    Attributes:
        relu: clip changed values at zero, as the released code does.
    """

    name = "ssam"
    about = "scale and shift of every singular value"
    source = "arXiv:2408.06447"
    identity = "1e-5"
    pair: ClassVar[bool] = True

    relu: bool = field(default=False, metadata={"help": "clip changed values at zero"})

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> SpectralLinear:
        """The module that takes the place of ``base``."""
        return SpectralLinear(base, pair=self.pair, relu=self.relu)


@dataclass(frozen=True, kw_only=True)
class SVF(SSAM):
    """One trained change of each singular value; hyper-parameters as of S-SAM."""

    name = "svf"
    about = "change of every singular value"
    source = "arXiv:2206.06122"
    pair: ClassVar[bool] = False

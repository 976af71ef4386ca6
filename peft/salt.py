"""SALT: singular value adaptation with a low-rank residual (Elsayed et al. 2025, arXiv:2503.16055).

With W = U diag(S) V^T, k the number of adapted top singular values, U_k and V_k their vectors and
U_r, V_r the others:

    W' = W + U_k diag(d) V_k^T + s U_r X Y V_r^T,   d = (scale - 1) S_k + shift

X is (m - k) x r, Y is r x (m - k). Here Y starts at zero, so at step 0 W' = W.

``reference`` gives the released code's form in place of that: X and Y start at random (0.01), and a
ReLU acts on every entry of the middle matrix diag(scale S + shift, S_r) + X Y, off-diagonal ones
included. That update is not of low rank and not the frozen layer at step 0; the published numbers
were made with it.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import AdaptedLinear, check_scale, wide
from samtune.peft.low_rank import low_rank_linear
from samtune.peft.spectral import SpectralBasis
from samtune.peft.whole_layers import WholeLayersAndConvs


class SALTLinear(AdaptedLinear):
    """A frozen linear layer with changed top singular values and a low-rank change of the rest.

    Args:
        base: layer whose parameters are taken over.
        top: k; at most m - 1.
        rank: r; more than m - k is cut to it.
        scale: s above.
        pair: train scale and shift of each top value, in place of one change d.
        reference: the released code's form.
        generator: for X, and Y where it is not zero.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        top: int,
        rank: int,
        scale: float = 1.0,
        pair: bool = True,
        reference: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        m = min(base.in_features, base.out_features)
        if not 1 <= top <= m - 1:
            msg = (
                f"top must be in [1, {m - 1}] for a {base.in_features}->{base.out_features} "
                f"layer, got {top}"
            )
            raise ValueError(msg)
        if rank < 1:
            msg = f"rank must be at least 1, got {rank}"
            raise ValueError(msg)
        super().__init__(base)
        self.top, self.rank = top, min(rank, m - top)
        self.scale, self.reference = float(scale), reference
        self.basis = SpectralBasis(base.weight, pair=pair or reference, top=top)
        device, dtype = base.weight.device, base.weight.dtype
        x, y = torch.empty(m - top, self.rank), torch.zeros(self.rank, m - top)
        if device.type != "meta":
            if reference:
                x.normal_(0, 0.01, generator=generator)
                y.normal_(0, 0.01, generator=generator)
            else:
                nn.init.kaiming_uniform_(x, a=math.sqrt(5), generator=generator)
        self.salt_x = nn.Parameter(x.to(device, dtype))
        self.salt_y = nn.Parameter(y.to(device, dtype))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The trained singular values and the factors."""
        return (*(f"basis.{name}" for name in self.basis.names()), "salt_x", "salt_y")

    def adapter_buffer_names(self) -> tuple[str, ...]:
        """What fixes the signs of the vectors that X and Y refer to."""
        return ("basis.s", "basis.anchor")

    def residual(self) -> tuple[Tensor, Tensor]:
        """Q ``r x in`` and P ``r x out`` with P^T Q the low-rank change of the weight."""
        basis, k = self.basis, self.top
        # contiguous: its gradient is then made by a product with few rows, not few columns (6 x)
        x = self.salt_x.T.contiguous()
        return (self.scale * self.salt_y) @ basis.vh[k:], x @ basis.u.T[k:]

    def in_basis(self) -> bool:
        """Is the whole layer cheaper in the basis than beside the frozen weight? Counts of MACs."""
        m, area = len(self.basis.s), self.in_features * self.out_features
        sides = self.in_features + self.out_features
        return m * sides < area + (self.top + self.rank) * sides

    def _reference_weight(self) -> Tensor:
        basis, k = self.basis, self.top
        rest = torch.diag(basis.s[k:]) + self.scale * self.salt_x @ self.salt_y
        top = basis.s[:k] + basis.change()
        return (basis.u[:, :k] * top.relu()) @ basis.vh[:k] + (
            basis.u[:, k:] @ rest.relu() @ basis.vh[k:]
        )

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        if self.reference:
            return F.linear(x, self._reference_weight().to(x.dtype), self.bias)
        basis, k = self.basis, self.top
        if not self.in_basis():
            top = (basis.vh[:k], basis.u.T[:k], basis.change())
            return low_rank_linear(x, self.weight, self.bias, *self.residual(), top)
        z = F.linear(x, basis.vh)
        values = basis.s + F.pad(basis.change(), (0, len(basis.s) - k))
        rest = F.linear(F.linear(z[..., k:], self.scale * self.salt_y), self.salt_x)
        h = z * values.to(z.dtype) + F.pad(rest, (k, 0))
        return F.linear(h, basis.u, self.bias)

    def merged_weight(self) -> Tensor:
        """W'."""
        if self.reference:
            return wide(self._reference_weight())
        q, p = self.residual()
        basis, k = self.basis, self.top
        top = wide(basis.u[:, :k] * basis.change()) @ wide(basis.vh[:k])
        return wide(self.weight) + top + wide(p).T @ wide(q)


@dataclass(frozen=True, kw_only=True)
class SALT(WholeLayersAndConvs):
    """SALT on linear layers of the chosen blocks.

    Attributes:
        top: k, the number of singular values that are changed; m - 1 in narrower layers.
        rank: r of the residual; m - k where that is less.
        alpha: scale of the residual times r (as asked for, not as cut); ``None``: scale 1.
        pair: train scale and shift of each top value (the paper), or one change of it.
        reference: the released code's form, see the module's docstring.
    """

    name = "salt"
    about = "scale and shift of top singular values, low-rank change of the rest"
    source = "arXiv:2503.16055"
    identity = "1e-5"

    top: int = field(default=64, metadata={"help": "number of changed singular values, k"})
    rank: int = field(default=8, metadata={"help": "rank r of the residual"})
    alpha: float | None = field(default=None, metadata={"help": "residual's scale times r"})
    pair: bool = field(default=True, metadata={"help": "scale and shift, or one change"})
    reference: bool = field(default=False, metadata={"help": "as released, with its ReLU"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale("alpha", self.alpha)
        if self.reference and not self.pair:
            msg = "reference has scale and shift of each value: not with pair: false"
            raise ValueError(msg)
        if self.reference:
            object.__setattr__(self, "identity", "no")

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> SALTLinear:
        """The module that takes the place of ``base``."""
        return SALTLinear(
            base,
            top=min(self.top, min(base.in_features, base.out_features) - 1),
            rank=self.rank,
            scale=1.0 if self.alpha is None else self.alpha / self.rank,
            pair=self.pair,
            reference=self.reference,
            generator=generator,
        )

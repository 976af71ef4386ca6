"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv:2402.09353, eq. 5, sec. 4.3).

    V = W + s B A,   y = (m / |V|) V x + b

with |V| the norm of each output row, held constant in the backward pass, and m, trained, started at
|W|. The norms come from the factors, without building V:

    |V_j|^2 = |W_j|^2 + 2 s (W A^T)_j . B_j + s^2 B_j (A A^T) B_j^T
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import wide
from samtune.peft.lora import LoRA, LoRALinear


class DoRALinear(LoRALinear):
    """A :class:`~samtune.peft.lora.LoRALinear` whose adapted rows have a trained norm."""

    adapted_rows: Tensor

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        scale: float = 1.0,
        groups: Sequence[Tensor] | None = None,
        dropout: float = 0.0,
        start: str = "kaiming",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            base,
            rank=rank,
            scale=scale,
            groups=groups,
            dropout=dropout,
            start=start,
            generator=generator,
        )
        rows = torch.arange(base.out_features) if groups is None else torch.cat(list(groups))
        self.register_buffer("adapted_rows", rows.to(base.weight.device), persistent=False)
        with torch.no_grad():
            self.magnitude = nn.Parameter(self._norms()[self.adapted_rows].to(base.weight.dtype))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The factors and the norms."""
        return (*super().adapter_parameter_names(), "magnitude")

    @torch.no_grad()
    def _norms(self) -> Tensor:  # out; of V's rows
        w, (a, b) = wide(self.weight), self.factors()
        a, b = wide(a), wide(b).T
        square = w.square().sum(1) + 2 * ((w @ a.T) * b).sum(1) + ((b @ (a @ a.T)) * b).sum(1)
        # rounding may take an almost empty row below zero
        return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()

    def _ratio(self) -> Tensor:  # out; m / |V|, 1 in the rows that are not adapted
        norms = self._norms().to(self.magnitude.dtype)[self.adapted_rows]
        ones = self.magnitude.new_ones(self.out_features)
        return ones.index_copy(0, self.adapted_rows, self.magnitude / norms)

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring; dropout acts on what the ratio scales."""
        ratio, (a, b) = self._ratio(), self.factors()
        if self.training and self.dropout.p > 0:
            dropped = self.dropout(x)
            update = F.linear(dropped, a) @ b
            rescaled = (ratio - 1) * F.linear(dropped, self.weight) + ratio * update
            return F.linear(x, self.weight, self.bias) + rescaled
        update = F.linear(x, a) @ b
        out = (F.linear(x, self.weight) + update) * ratio
        return out if self.bias is None else out + self.bias

    def merged_weight(self) -> Tensor:
        """(m / |V|) V."""
        return wide(self._ratio())[:, None] * super().merged_weight()


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """DoRA on linear layers of the chosen blocks; hyper-parameters as of LoRA."""

    name = "dora"
    about = "low-rank update and a trained norm of each output row"
    source = "arXiv:2402.09353"
    identity = "1e-5"
    layer: ClassVar[type[LoRALinear]] = DoRALinear

    rank: int = 16
    targets: tuple[str, ...] = ("qkv", "proj", "mlp")

"""SSF: scale and shift of features (Lian et al. 2022, arXiv:2210.08823).

y = gamma * layer(x) + beta after each linear layer and LayerNorm; gamma starts at 1, beta at 0.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import AdaptedLinear, wide
from samtune.peft.protocol import Site, replace_module
from samtune.peft.whole_layers import WholeLayers


class SSFLinear(AdaptedLinear):
    """A frozen linear layer, each output scaled and shifted."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.ssf_scale = nn.Parameter(torch.ones_like(base.weight[:, 0]))
        self.ssf_shift = nn.Parameter(torch.zeros_like(base.weight[:, 0]))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Scale and shift."""
        return ("ssf_scale", "ssf_shift")

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        return F.linear(x, self.weight, self.bias) * self.ssf_scale + self.ssf_shift

    def merged_weight(self) -> Tensor:
        """Rows scaled."""
        return wide(self.ssf_scale)[:, None] * wide(self.weight)

    def merged_bias(self) -> Tensor:
        """Scaled and shifted bias."""
        if self.bias is None:
            return self.ssf_shift
        return self.ssf_scale * self.bias + self.ssf_shift


class SSFLayerNorm(nn.LayerNorm):
    """A frozen LayerNorm, each output scaled and shifted."""

    def __init__(self, base: nn.LayerNorm) -> None:
        super().__init__(base.normalized_shape, base.eps, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        self.ssf_scale = nn.Parameter(torch.ones_like(base.weight))
        self.ssf_shift = nn.Parameter(torch.zeros_like(base.weight))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Scale and shift."""
        return ("ssf_scale", "ssf_shift")

    def forward(self, x: Tensor) -> Tensor:
        """The definition in the module's docstring."""
        return super().forward(x) * self.ssf_scale + self.ssf_shift

    @torch.no_grad()
    def merge(self) -> nn.LayerNorm:
        """A plain LayerNorm."""
        merged = nn.LayerNorm(self.normalized_shape, self.eps, device="meta")
        weight, bias = self.ssf_scale * self.weight, self.ssf_scale * self.bias + self.ssf_shift
        merged.weight = nn.Parameter(weight, requires_grad=False)
        merged.bias = nn.Parameter(bias, requires_grad=False)
        return merged


@dataclass(frozen=True, kw_only=True)
class SSF(WholeLayers):
    """Scale and shift after linear layers and LayerNorms of the chosen blocks.

    Attributes:
        norms: the blocks' LayerNorms too.
    """

    name = "ssf"
    about = "scale and shift of features"
    source = "arXiv:2210.08823"

    norms: bool = field(default=True, metadata={"help": "LayerNorms too"})

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> SSFLinear:
        """The module that takes the place of ``base``."""
        return SSFLinear(base)

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets and the norms of the chosen blocks."""
        paths = super().inject(site)
        norms = [path for block in site.blocks for path in block.norms] if self.norms else []
        for path in norms:
            norm = site.model.get_submodule(path)
            assert isinstance(norm, nn.LayerNorm)
            replace_module(site.model, path, SSFLayerNorm(norm))
        return paths + norms

"""FacT-TT (Jie and Deng 2022, arXiv:2212.03145), as MA-SAM uses it (arXiv:2309.08842).

The updates of all adapted blocks share their outer factors; a block has only small cores:

    y[g] = W[g] x + b[g] + s V C_g U x,   U: r x in, V: |g| x r (shared), C_g: r x r (of the block)

V starts at zero: at step 0 the layers are the frozen ones. Blocks of different width (TinyViT)
share among those of equal width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import AdaptedLinear, check_rank, check_scale, wide
from samtune.peft.places import BlockPlace, check_targets
from samtune.peft.protocol import Method, Site


class FacTLinear(AdaptedLinear):
    """A frozen fused qkv (or separate projection) with the update above.

    Args:
        base: layer whose parameters are taken over.
        down, up: the shared U ``r x in`` and V ``|g| x r``.
        groups: index tensors of output rows, all of V's height; ``None``: one group, all rows.
        scale: s above.
        dropout: between U and the cores, training only.
        generator: for the cores.
    """

    row_index: Tensor

    def __init__(
        self,
        base: nn.Linear,
        *,
        down: nn.Parameter,
        up: nn.Parameter,
        groups: Sequence[Tensor] | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        rows = [torch.arange(base.out_features)] if groups is None else list(groups)
        super().__init__(base)
        rank = down.shape[0]
        self.scale = float(scale)
        self.dropout = nn.Dropout(dropout)
        self.fact_u, self.fact_v = down, up
        device, dtype = base.weight.device, base.weight.dtype
        cores = torch.empty(len(rows), rank, rank)
        if device.type != "meta":
            for core in cores:
                nn.init.kaiming_uniform_(core, a=math.sqrt(5), generator=generator)
        self.fact_cores = nn.Parameter(cores.to(device, dtype))
        # U x has r columns for all groups: the product V C_g is placed by rows alone
        index = torch.cat(rows)
        self.register_buffer("row_index", index.to(device), persistent=False)

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The shared factors and the block's cores."""
        return ("fact_u", "fact_v", "fact_cores")

    def _up(self) -> Tensor:  # out x r: s V C_g in the rows of each group
        blocks = (self.scale * self.fact_v) @ self.fact_cores  # g |g| r
        full = blocks.new_zeros(self.out_features, blocks.shape[-1])
        return full.index_copy(0, self.row_index, blocks.flatten(0, 1))

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        low = self.dropout(F.linear(x, self.fact_u))
        return F.linear(x, self.weight, self.bias) + F.linear(low, self._up())

    def merged_weight(self) -> Tensor:
        """W + s V C U."""
        return wide(self.weight) + wide(self._up()) @ wide(self.fact_u)


@dataclass(frozen=True, kw_only=True)
class FacT(Method):
    """FacT-TT on the attention of the chosen blocks.

    Attributes:
        rank: r, >= 1.
        scale: s.
        targets: among ``q``, ``k``, ``v``.
        dropout: on U x.
    """

    name = "fact"
    about = "low-rank update with factors shared by all blocks (FacT-TT)"
    source = "arXiv:2212.03145; MA-SAM arXiv:2309.08842"

    rank: int = field(default=16, metadata={"help": "rank r"})
    scale: float = field(default=1.0, metadata={"help": "factor of the update"})
    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "of q, k, v"})
    dropout: float = field(default=0.0, metadata={"help": "between the factors"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets, ("q", "k", "v")))
        check_scale("scale", self.scale)

    def inject(self, site: Site) -> list[str]:
        """Adapt the attention of the chosen blocks."""
        shared: dict[tuple[int, int], tuple[nn.Parameter, nn.Parameter]] = {}

        def make(base: nn.Linear, groups: list[Tensor] | None, _: BlockPlace) -> nn.Module:
            rows = [torch.arange(base.out_features)] if groups is None else groups
            check_rank(self.rank, base, rows)
            key = (base.in_features, len(rows[0]))
            if key not in shared:
                shared[key] = self._factors(base, len(rows[0]), site.generator)
            down, up = shared[key]
            return FacTLinear(
                base,
                down=down,
                up=up,
                groups=groups,
                scale=self.scale,
                dropout=self.dropout,
                generator=site.generator,
            )

        return site.replace(self.targets, make)

    def _factors(
        self, base: nn.Linear, height: int, generator: torch.Generator | None
    ) -> tuple[nn.Parameter, nn.Parameter]:
        device, dtype = base.weight.device, base.weight.dtype
        down = torch.empty(self.rank, base.in_features)
        if device.type != "meta":
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        up = torch.zeros(height, self.rank)
        return nn.Parameter(down.to(device, dtype)), nn.Parameter(up.to(device, dtype))

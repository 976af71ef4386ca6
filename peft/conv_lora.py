"""Conv-LoRA with one expert (Zhong et al. 2024, arXiv:2401.17868): LoRA that looks at neighbours.

    y[g] = W[g] x + b[g] + s B_g (h_g + GELU(K_g * h_g)),   h_g = A_g x

where K_g * is a 3 x 3 convolution, r channels to r, over the grid of image tokens. The paper's
mixture of experts at several scales, with its gate and balance loss, is left out: one expert at the
tokens' own scale. B starts at zero: at step 0 the layer is the frozen one. In the decoder, whose
tokens lie on no grid, the update is plain LoRA.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import check_scale
from samtune.peft.lora import LoRALinear
from samtune.peft.places import BlockPlace, check_targets
from samtune.peft.protocol import Method, NotMergeableError, Site


class ConvLoRALinear(LoRALinear):
    """A :class:`~samtune.peft.lora.LoRALinear` with a convolution between its factors.

    Takes tokens ``b h w in``, or ``b n in`` with n a square number.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        scale: float = 1.0,
        groups: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(base, rank=rank, scale=scale, groups=groups, generator=generator)
        number = 1 if groups is None else len(groups)
        device, dtype = base.weight.device, base.weight.dtype
        kernels = torch.empty(number * rank, rank, 3, 3)
        if device.type != "meta":
            nn.init.kaiming_uniform_(kernels, a=math.sqrt(5), generator=generator)
        self.expert_weight = nn.Parameter(kernels.to(device, dtype))
        self.expert_bias = nn.Parameter(torch.zeros(number * rank, device=device, dtype=dtype))

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The factors and the expert."""
        return (*super().adapter_parameter_names(), "expert_weight", "expert_bias")

    def forward(self, x: Tensor) -> Tensor:  # b h w in | b n in
        """The definition in the module's docstring.

        Raises:
            ValueError: the tokens form no square grid.
        """
        a, b = self.factors()
        low = F.linear(x, a)
        grid = low if low.ndim == 4 else low.view(-1, *_square(low.shape), low.shape[-1])
        number = len(self.expert_bias) // self.rank
        seen = F.conv2d(
            grid.permute(0, 3, 1, 2), self.expert_weight, self.expert_bias, 1, 1, 1, number
        )
        low = low + F.gelu(seen).permute(0, 2, 3, 1).reshape(low.shape)
        return F.linear(x, self.weight, self.bias) + low @ b

    def merge(self) -> nn.Linear:
        """There is none: a linear layer sees one token.

        Raises:
            NotMergeableError: always.
        """
        raise NotMergeableError(ConvLoRA.name)


def _square(shape: torch.Size) -> tuple[int, int]:
    side = math.isqrt(shape[1])
    if len(shape) != 3 or side * side != shape[1]:
        msg = f"conv_lora needs tokens b h w c, or b n c with n a square, got {tuple(shape)}"
        raise ValueError(msg)
    return side, side


@dataclass(frozen=True, kw_only=True)
class ConvLoRA(Method):
    """Conv-LoRA on linear layers of the chosen blocks.

    Attributes:
        rank: r, >= 1.
        alpha: of the scale, alpha / r; ``None``: scale 1.
        targets: as of LoRA.
    """

    name = "conv_lora"
    about = "low-rank update with a convolution over the image's tokens between its factors"
    source = "arXiv:2401.17868"
    mergeable = False

    rank: int = field(default=3, metadata={"help": "rank r"})
    alpha: float | None = field(default=None, metadata={"help": "scale times r; none: scale 1"})
    targets: tuple[str, ...] = field(default=("qkv",), metadata={"help": "layers"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets))
        if self.rank < 1:
            msg = f"rank must be at least 1, got {self.rank}"
            raise ValueError(msg)
        check_scale("alpha", self.alpha)

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets of the chosen blocks."""
        scale = 1.0 if self.alpha is None else self.alpha / self.rank

        def make(base: nn.Linear, groups: list[Tensor] | None, block: BlockPlace) -> nn.Module:
            layer = ConvLoRALinear if block.component == "encoder" else LoRALinear
            return layer(base, rank=self.rank, scale=scale, groups=groups, generator=site.generator)

        return site.replace(self.targets, make)

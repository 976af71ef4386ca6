"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): LoRA over linear layers kept in four bits.

    y[g] = Q(W)[g] x + b[g] + s B_g A_g x

All linear layers of the encoder's blocks are quantised by bitsandbytes, adapted or not;
convolutions and the decoder stay as they are. At step 0 this is the quantised network, not the
frozen one. Merged layers are plain ones with the four-bit weights' values. In the decoder the
update is plain LoRA.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.peft.linear import check_scale, wide
from samtune.peft.lora import LoRALinear
from samtune.peft.places import BlockPlace, check_targets
from samtune.peft.protocol import Method, Site, replace_module

QUANT_TYPES = ("nf4", "fp4")


def has_cuda() -> bool:
    """Is there a device to quantise on?"""
    return torch.cuda.is_available()


def quantised(base: nn.Linear, quant_type: str, double_quant: bool) -> nn.Linear:
    """Four-bit layer of bitsandbytes with the weights of ``base``, on their device.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    try:
        bnb: Any = import_module("bitsandbytes")
    except ImportError as error:
        msg = "qlora needs bitsandbytes: pip install 'samtune[qlora]'"
        raise ValueError(msg) from error
    layer: nn.Linear = bnb.nn.Linear4bit(
        base.in_features,
        base.out_features,
        bias=base.bias is not None,
        compute_dtype=base.weight.dtype,
        compress_statistics=double_quant,
        quant_type=quant_type,
        device="meta",
    )
    layer.weight = bnb.nn.Params4bit(
        base.weight.detach(),
        requires_grad=False,
        compress_statistics=double_quant,
        quant_type=quant_type,
        module=layer,
    )
    layer.bias = base.bias
    return layer.to(base.weight.device).requires_grad_(False)


def full_weight(layer: nn.Linear) -> Tensor:
    """The weight that a four-bit layer computes with, ``out x in``."""
    weight: Any = layer.weight
    functional: Any = import_module("bitsandbytes.functional")
    data, state = weight.data, weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):  # packed anew by inference on some CPUs
        unpack = functional._convert_weight_packed_for_cpu_inverse
        data, state = unpack(data.clone(), copy.deepcopy(state))
    found: Tensor = functional.dequantize_4bit(data, state)
    return found


class QuantisedLinear(nn.Module):
    """A frozen four-bit layer; merging makes a plain one of it."""

    def __init__(self, base: nn.Linear, *, quant_type: str = "nf4", double_quant: bool = True):
        super().__init__()
        self.base = quantised(base, quant_type, double_quant)

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """None: nothing is trained here."""
        return ()

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """Multiply with Q(W)."""
        out: Tensor = self.base(x)
        return out

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer in full precision."""
        weight, bias = self.merged_weight(), self.base.bias
        merged = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        merged.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            merged.bias = nn.Parameter(bias.clone(), requires_grad=False)
        return merged

    def merged_weight(self) -> Tensor:
        """Q(W)."""
        return full_weight(self.base)


class QLoRALinear(QuantisedLinear):
    """A four-bit layer with low-rank updates of groups of its output rows.

    Args:
        base: layer to quantise and freeze.
        rank, scale, groups, generator: as of :class:`~samtune.peft.lora.LoRALinear`.
        quant_type: ``nf4`` or ``fp4``.
        double_quant: quantise the quantisation's own constants too.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        scale: float = 1.0,
        groups: Sequence[Tensor] | None = None,
        quant_type: str = "nf4",
        double_quant: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        # the factors and where they act, without the layer's weight
        update = LoRALinear(base, rank=rank, scale=scale, groups=groups, generator=generator)
        update.weight = update.bias = None  # type: ignore[assignment]
        super().__init__(base, quant_type=quant_type, double_quant=double_quant)
        self.update = update

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """The factors."""
        return ("update.lora_a", "update.lora_b")

    def forward(self, x: Tensor) -> Tensor:  # ... in -> ... out
        """The definition in the module's docstring."""
        a, b = self.update.factors()
        return super().forward(x) + F.linear(x, a) @ b

    def merged_weight(self) -> Tensor:
        """Q(W) + s B A."""
        a, b = self.update.factors()
        weight = super().merged_weight()
        return (wide(weight) + wide(b).T @ wide(a)).to(weight.dtype)


@dataclass(frozen=True, kw_only=True)
class QLoRA(Method):
    """LoRA over a four-bit encoder.

    Attributes:
        rank: r, >= 1.
        alpha: of the scale, alpha / r; ``None``: scale 1.
        targets: as of LoRA.
        quant_type: ``nf4`` or ``fp4``.
        double_quant: quantise the quantisation's own constants too.
    """

    name = "qlora"
    about = "low-rank update of four-bit weights (CUDA only)"
    source = "arXiv:2305.14314"
    identity = "no"
    moves_parameters = True

    rank: int = field(default=8, metadata={"help": "rank r"})
    alpha: float | None = field(default=None, metadata={"help": "scale times r; none: scale 1"})
    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "layers"})
    quant_type: str = field(default="nf4", metadata={"help": "nf4 or fp4"})
    double_quant: bool = field(default=True, metadata={"help": "quantise the constants too"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets))
        if self.rank < 1:
            msg = f"rank must be at least 1, got {self.rank}"
            raise ValueError(msg)
        check_scale("alpha", self.alpha)
        if self.quant_type not in QUANT_TYPES:
            msg = f"quant_type must be one of {', '.join(QUANT_TYPES)}, got '{self.quant_type}'"
            raise ValueError(msg)

    def inject(self, site: Site) -> list[str]:
        """Quantise the encoder's linear layers, adapt the targets of the chosen blocks.

        Raises:
            ValueError: no CUDA device, or no bitsandbytes.
        """
        meta = any(p.is_meta for p in site.model.parameters())  # to count parameters
        if not (meta or has_cuda()):
            msg = "qlora needs a CUDA device to quantise on, and none is available"
            raise ValueError(msg)

        def make(base: nn.Linear, groups: list[Tensor] | None, block: BlockPlace) -> nn.Module:
            plain = meta or block.component == "decoder"
            return (self._plain if plain else self._quantised)(base, groups, site.generator)

        paths = site.replace(self.targets, make)
        return paths if meta else paths + self._quantise_rest(site, set(paths))

    def _quantise_rest(self, site: Site, adapted: set[str]) -> list[str]:
        linears = [place.path for block in site.all_blocks for place in block.linears]
        rest = [path for path in linears if path not in adapted]
        for path in rest:
            new = QuantisedLinear(
                site.linear(path), quant_type=self.quant_type, double_quant=self.double_quant
            )
            replace_module(site.model, path, new)
        return rest

    @property
    def _scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def _plain(
        self, base: nn.Linear, groups: list[Tensor] | None, generator: torch.Generator | None
    ) -> nn.Module:
        return LoRALinear(
            base, rank=self.rank, scale=self._scale, groups=groups, generator=generator
        )

    def _quantised(
        self, base: nn.Linear, groups: list[Tensor] | None, generator: torch.Generator | None
    ) -> nn.Module:
        return QLoRALinear(
            base,
            rank=self.rank,
            scale=self._scale,
            groups=groups,
            quant_type=self.quant_type,
            double_quant=self.double_quant,
            generator=generator,
        )

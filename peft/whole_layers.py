"""Methods that put one module in the place of each chosen linear layer, fused qkv included."""

from dataclasses import dataclass, field

import torch
from torch import nn

from samtune.peft.conv import adapt_convs, check_convs
from samtune.peft.linear import AdaptedLinear
from samtune.peft.places import check_targets
from samtune.peft.protocol import Method, Site

WHOLE_TARGETS = ("qkv", "proj", "lin1", "lin2", "mlp")


@dataclass(frozen=True, kw_only=True)
class WholeLayers(Method):
    """What such methods share.

    Attributes:
        targets: whole layers: ``qkv``, ``proj``, ``lin1``, ``lin2``, ``mlp`` (both of the MLP).
    """

    targets: tuple[str, ...] = field(
        default=("qkv", "proj", "mlp"), metadata={"help": "whole layers"}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets, WHOLE_TARGETS))

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> nn.Linear:
        """The module that takes the place of ``base``."""
        raise NotImplementedError

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets of the chosen blocks."""
        return site.replace(self.targets, lambda base, *_: self.wrap(base, site.generator))


@dataclass(frozen=True, kw_only=True)
class WholeLayersAndConvs(WholeLayers):
    """The same on convolutions too.

    Attributes:
        convs: of the encoder: ``neck``, ``mbconv``.
    """

    convs: tuple[str, ...] = field(default=(), metadata={"help": "of neck, mbconv"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "convs", check_convs(self.convs))

    def wrap(self, base: nn.Linear, generator: torch.Generator | None) -> AdaptedLinear:
        """The module that takes the place of ``base``."""
        raise NotImplementedError

    def inject(self, site: Site) -> list[str]:
        """Adapt the targets of the chosen blocks, and convolutions where asked."""
        paths = super().inject(site)
        return paths + adapt_convs(site, self.convs, lambda base: self.wrap(base, site.generator))

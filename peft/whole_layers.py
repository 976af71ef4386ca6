"""Methods that put one module in the place of each chosen linear layer, fused qkv included."""

from dataclasses import dataclass, field

import torch
from torch import nn

from samtune.peft.places import check_targets
from samtune.peft.protocol import Method, Site, replace_module

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
        paths = []
        for block in site.blocks:
            for path, _ in block.targets(self.targets):
                base = site.linear(path)
                replace_module(site.model, path, self.wrap(base, site.generator))
                paths.append(path)
        return paths

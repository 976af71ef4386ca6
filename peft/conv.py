"""Convolutions under a method for linear layers: the weight is seen as ``out x (in * kh * kw)``.

Which there are, by name: ``neck``, the two convolutions behind the encoder's last block;
``mbconv``, the pointwise convolutions of TinyViT's first stage. Depthwise ones are left out: nine
numbers a channel have no low rank.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from samtune.peft.linear import AdaptedLinear
from samtune.peft.protocol import Site, replace_module

CONVS = ("neck", "mbconv")


class AdaptedConv2d(nn.Conv2d):
    """A frozen convolution whose weight an :class:`AdaptedLinear` on the flat view changes.

    The changed weight is built at every call, so its gradient costs as much as that of full
    fine-tuning: small for the few convolutions of SAM.

    Args:
        base: layer whose parameters are taken over; of one group.
        wrap: puts the method on a linear layer.
    """

    def __init__(self, base: nn.Conv2d, wrap: Callable[[nn.Linear], AdaptedLinear]) -> None:
        if base.groups != 1:
            msg = f"a convolution in {base.groups} groups can't be adapted as one matrix"
            raise ValueError(msg)
        super().__init__(**_settings(base))
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        flat = base.weight.detach().flatten(1)
        linear = nn.Linear(flat.shape[1], flat.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(flat, requires_grad=False)
        self.matrix = wrap(linear)
        # one weight, here: the matrix sees it only while it is asked for the changed one
        del self.matrix.weight

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Those of the matrix."""
        return tuple(f"matrix.{name}" for name in self.matrix.adapter_parameter_names())

    def adapter_buffer_names(self) -> tuple[str, ...]:
        """Those of the matrix."""
        return tuple(f"matrix.{name}" for name in self.matrix.adapter_buffer_names())

    def changed_weight(self) -> Tensor:
        """The weight with the adapter folded in, ``out in kh kw``.

        Layers that don't call this module but read its weight take this instead.
        """
        # by the frozen parameter itself, wherever it was moved to meanwhile
        self.matrix.weight = self.weight.flatten(1)
        changed = self.matrix.merged_weight()
        del self.matrix.weight
        return changed.to(self.weight.dtype).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:  # b c h w
        """Convolve with the changed weight."""
        out: Tensor = self._conv_forward(x, self.changed_weight(), self.bias)
        return out

    @torch.no_grad()
    def merge(self) -> nn.Conv2d:
        """A plain convolution."""
        merged = nn.Conv2d(**_settings(self))
        merged.weight = nn.Parameter(self.changed_weight(), requires_grad=False)
        if self.bias is not None:
            merged.bias = nn.Parameter(self.bias.clone(), requires_grad=False)
        return merged


def _settings(conv: nn.Conv2d) -> dict[str, Any]:
    """Arguments that make a convolution like ``conv``, without memory for its parameters."""
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    settings = {name: getattr(conv, name) for name in names}
    return settings | {"bias": conv.bias is not None, "device": "meta"}


def check_convs(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ValueError: an unknown one, or one twice.
    """
    found = (names,) if isinstance(names, str) else tuple(names)
    if not set(found) <= set(CONVS) or len(set(found)) != len(found):
        msg = f"convs must be among {', '.join(CONVS)}, each at most once, got {found}"
        raise ValueError(msg)
    return found


def adapt_convs(
    site: Site, names: Sequence[str], wrap: Callable[[nn.Linear], AdaptedLinear]
) -> list[str]:
    """Adapt the named convolutions of the encoder; returns their paths."""
    paths = [path for name in names for path in _paths(site.model, name)]
    for path in paths:
        base = site.model.get_submodule(path)
        if not isinstance(base, nn.Conv2d) or isinstance(base, AdaptedConv2d):
            msg = f"'{path}' was replaced by another method already: targets must be disjoint"
            raise ValueError(msg)
        replace_module(site.model, path, AdaptedConv2d(base, wrap))
    return paths


def _paths(model: nn.Module, name: str) -> list[str]:
    encoder = model.get_submodule("image_encoder")
    if name == "neck":
        modules = encoder.get_submodule("neck").named_modules()
        return [f"image_encoder.neck.{n}" for n, m in modules if isinstance(m, nn.Conv2d)]
    if not hasattr(encoder, "conv_sites"):
        msg = f"convs: {type(encoder).__name__} has no MBConv blocks, only TinyViT has"
        raise ValueError(msg)
    return [f"image_encoder.{path}" for path in encoder.conv_sites()]  # type: ignore[operator]

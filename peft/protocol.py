"""What an adapted module is: the one definition that freezing, saving and merging go by."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Adapted(Protocol):
    """A module that stands in the place of a frozen one and adds trained parameters to it."""

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Local names of the parameters that the method added."""
        ...

    def merge(self) -> nn.Module:
        """A new plain module with the adapter folded in."""
        ...


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, module) of every adapted module in ``model``."""
    for path, module in model.named_modules():
        if isinstance(module, Adapted):
            yield path, module


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put ``new`` at ``path``, in the training mode of what was there."""
    parent, _, name = path.rpartition(".")
    new.train(model.get_submodule(path).training)
    setattr(model.get_submodule(parent), name, new)

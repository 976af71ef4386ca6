"""What a method is and what an adapted module is: freezing, saving and merging go by these."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from samtune.peft.blocks import BlockSpec
from samtune.peft.places import BlockPlace


@runtime_checkable
class Adapted(Protocol):
    """A module that a method put in place of a frozen one, or beside it."""

    def adapter_parameter_names(self) -> tuple[str, ...]:
        """Local names of the parameters that the method added."""
        ...

    def merge(self) -> nn.Module:
        """A new plain module with the adapter folded in.

        Raises:
            NotMergeableError: the method has no such form.
        """
        ...


class NotMergeableError(ValueError):
    """The method computes something that no weight of the plain network can."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} is not mergeable: it adds layers that plain SAM doesn't have")


@dataclass(frozen=True)
class Site:
    """What a method gets to work on.

    Attributes:
        model: changed in place.
        blocks: the chosen ones, the encoder's first.
        all_blocks: of the encoder, chosen or not.
        generator: for initial values.
    """

    model: nn.Module
    blocks: Sequence[BlockPlace]
    all_blocks: Sequence[BlockPlace]
    generator: torch.Generator | None

    def linear(self, path: str) -> nn.Linear:
        """The linear layer at ``path``.

        Raises:
            ValueError: another method was there before.
        """
        found = self.model.get_submodule(path)
        if not isinstance(found, nn.Linear) or isinstance(found, Adapted):
            msg = f"'{path}' was replaced by another method already: targets must be disjoint"
            raise ValueError(msg)
        return found

    def replace(
        self,
        targets: Sequence[str],
        make: Callable[[nn.Linear, list[Tensor] | None, BlockPlace], nn.Module],
    ) -> list[str]:
        """Put a module in the place of each target of the chosen blocks; returns their paths.

        Args:
            targets: see :meth:`samtune.peft.places.BlockPlace.targets`.
            make: the module for a layer, its groups of output rows, and its block.
        """
        paths = []
        for block in self.blocks:
            for path, groups in block.targets(targets):
                replace_module(self.model, path, make(self.linear(path), groups, block))
                paths.append(path)
        return paths


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method's hyper-parameters; :meth:`inject` puts it into a model.

    Attributes:
        blocks: ``all``, ``last:N`` or indices of the encoder's attention blocks.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # one line
    source: ClassVar[str]
    mergeable: ClassVar[bool] = True
    # how near to the frozen network at step 0: `exact`, `1e-5` or `no`
    identity: ClassVar[str] = "exact"
    # does it give the network's own parameters other names? Then it goes in before other methods
    moves_parameters: ClassVar[bool] = False

    blocks: BlockSpec = field(default="all", metadata={"help": "all, last:N or indices"})

    def inject(self, site: Site) -> list[str]:
        """Change the model; returns the paths of adapted modules and of thawed parameters."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Hyper-parameters as they stand in an adapter file."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in values.items()}
        return {"name": self.name, **plain}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`config`.

        Raises:
            ValueError: a value of another type than the default's.
        """
        defaults = {f.name: f.default for f in fields(cls)}
        # an optional number, such as alpha, has no number as its default
        defaults |= {f.name: 1.0 for f in fields(cls) if f.type == float | None}
        values = {k: v for k, v in config.items() if k != "name"}
        optional = {f.name for f in fields(cls) if f.default is None}
        checked: dict[str, Any] = {
            k: None if v is None and k in optional else _typed(f"{cls.name}.{k}", v, defaults[k])
            for k, v in values.items()
        }
        return cls(**checked)


def _typed(name: str, value: Any, default: Any) -> Any:
    """``value`` if it is of the default's kind; flags may come as text from a command line."""
    if isinstance(default, tuple):
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
            return value
        msg = f"{name} must be a list of names, got {value!r}"
        raise ValueError(msg)
    if isinstance(default, str) and name.rpartition(".")[2] != "blocks":
        if isinstance(value, str):
            return value
        msg = f"{name} must be text, got {value!r}"
        raise ValueError(msg)
    if isinstance(default, bool):
        words = {"true": True, "false": False}
        found = words.get(value.lower()) if isinstance(value, str) else value
        kind: tuple[type, ...] = (bool,)
    elif isinstance(default, int):
        found, kind = value, (int,)
    elif isinstance(default, float):
        found, kind = value, (int, float)
    else:
        return value
    if not isinstance(found, kind) or (isinstance(found, bool) and bool not in kind):
        msg = f"{name} must be of type {kind[-1].__name__}, got {value!r}"
        raise ValueError(msg)
    return found


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, module) of every adapted module in ``model``, not of what one is made of."""
    outer = ""
    for path, module in model.named_modules():
        if isinstance(module, Adapted) and not (outer and path.startswith(outer)):
            outer = f"{path}."
            yield path, module


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put ``new`` at ``path``, in the training mode of what was there."""
    parent, _, name = path.rpartition(".")
    new.train(model.get_submodule(path).training)
    setattr(model.get_submodule(parent), name, new)

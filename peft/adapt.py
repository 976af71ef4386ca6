"""Freeze a network, put methods into it, and thaw what is to be trained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samtune.peft.places import find_places
from samtune.peft.protocol import Method, Site, adapted_modules, replace_module
from samtune.peft.spectral import bases

COMPONENTS = {
    "image_encoder": "encoder",
    "prompt_encoder": "prompt encoder",
    "mask_decoder": "decoder",
    "class_head": "class head",
}
MERGED = "+merged"
Methods = Method | Sequence[Method] | None


@dataclass(frozen=True)
class AdaptSummary:
    """Parameter counts of an adapted network.

    Attributes:
        trainable, total: numbers of parameters.
        components: (trainable, total) by component.
        adapted: paths of the adapted modules and of parameters trained as they are.
    """

    trainable: int
    total: int
    components: dict[str, tuple[int, int]]
    adapted: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            f"  {name:<15}{trained:>12,} of {total:>12,}"
            for name, (trained, total) in self.components.items()
        ]
        head = (
            f"trainable {self.trainable:,} of {self.total:,} parameters "
            f"({100 * self.trainable / self.total:.2f} %)"
        )
        return "\n".join([head, *rows])


def adapt(
    model: nn.Module,
    method: Methods = None,
    *,
    decoder: str = "full",
    generator: torch.Generator | None = None,
) -> AdaptSummary:
    """Adapt ``model`` in place: freeze everything, inject, thaw.

    A class head is always trained: its tokens are what tells the classes apart.

    Args:
        model: a ``SamSegmenter``, or ``segment_anything``'s ``Sam``.
        method: for the encoder, or several whose targets are disjoint; ``None``: it stays as it is.
        decoder: ``frozen``; ``full``: the mask decoder (of a ``SamSegmenter``, what of it the
            prompt-free forward uses); or a method's name: that method in the decoder too.
        generator: for initial values.

    Raises:
        TypeError: ``method`` is something else.
        ValueError: the model is adapted already, methods overlap, or the arguments don't fit;
            the model is then left as it was.
    """
    methods = _as_list(method)
    names = [m.name for m in methods]
    if decoder not in ("frozen", "full", *names):
        known = ", ".join(["frozen", "full", *names])
        msg = f"decoder must be one of {known} (a method's name: that method), got '{decoder}'"
        raise ValueError(msg)
    if len(set(names)) != len(names):
        msg = f"methods: each at most once, got {', '.join(names)}"
        raise ValueError(msg)
    if any(True for _ in adapted_modules(model)):
        msg = "the model is adapted already; merge() it first, or build a new one"
        raise ValueError(msg)
    with unchanged_on_error(model):
        model.requires_grad_(False)
        owners = _inject(model, methods, decoder, generator)
        _thaw(model, owners)
        if decoder == "full":
            for path in _decoder_paths(model):
                model.get_submodule(path).requires_grad_(True)
        if hasattr(model, "class_head"):
            model.get_submodule("class_head").requires_grad_(True)
    return summarise(model, tuple(owners))


def _inject(
    model: nn.Module, methods: Sequence[Method], decoder: str, generator: torch.Generator | None
) -> dict[str, str]:
    """Put the methods in; returns the name of each path's method."""
    places = find_places(model)
    owners: dict[str, str] = {}
    if decoder != "frozen" and not places.decoder:
        msg = f"the model has no mask_decoder: decoder must be 'frozen', got '{decoder}'"
        raise ValueError(msg)
    for m in sorted(methods, key=lambda m: not m.moves_parameters):
        blocks = places.choose(m.blocks, decoder == m.name)
        for path in m.inject(Site(model, blocks, places.encoder, generator)):
            if path in owners:
                both = f"{owners[path]} and by {m.name}"
                msg = f"'{path}' is adapted by {both}: targets must be disjoint"
                raise ValueError(msg)
            owners[path] = m.name
    return owners


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Leave modules, hooks and ``requires_grad`` flags as they were if the body raises."""
    modules = [(m, _shallow(m.__dict__)) for m in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    except BaseException:
        for module, attributes in modules:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        raise


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    # a module keeps parameters, children and hooks in dictionaries
    return {k: v.copy() if isinstance(v, dict) else v for k, v in attributes.items()}


def _as_list(method: Methods) -> list[Method]:
    if method is None:
        return []
    several = isinstance(method, Sequence) and not isinstance(method, str)
    methods: list[Method] = [*method] if several else [method]  # type: ignore[misc, list-item]
    for m in methods:
        if not isinstance(m, Method):
            msg = f"method must be a Method, such as LoRA(rank=8), or a list of them; got {m!r}"
            raise TypeError(msg)
    return methods


def _decoder_paths(model: nn.Module) -> list[str]:
    if hasattr(model, "decoder_paths"):
        paths: list[str] = model.decoder_paths()  # type: ignore[operator]
        return paths
    return ["mask_decoder"]


def _thaw(model: nn.Module, owners: Mapping[str, str]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(adapted_modules(model))
    for path, owner in owners.items():
        if path in modules:
            for name in modules[path].adapter_parameter_names():
                modules[path].get_parameter(name).requires_grad_(True)
            continue
        holder, _, name = path.rpartition(".")
        # a layer's bias is used by every method on it, its weight may not be
        if path not in parameters or (holder in modules and name != "bias"):
            other = owners.get(holder, "another method")
            msg = f"'{path}' is adapted by {owner} and by {other}: targets must be disjoint"
            raise ValueError(msg)
        parameters[path].requires_grad_(True)


def summarise(model: nn.Module, adapted: tuple[str, ...] = ()) -> AdaptSummary:
    """Count the parameters of ``model`` as its ``requires_grad`` flags stand."""
    components: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = COMPONENTS.get(name.split(".")[0], "other")
        trained, total = components.get(part, (0, 0))
        count = parameter.numel()
        components[part] = (trained + count * parameter.requires_grad, total + count)
    return AdaptSummary(
        trainable=sum(t for t, _ in components.values()),
        total=sum(n for _, n in components.values()),
        components=components,
        adapted=adapted,
    )


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What an adapter file holds: the trained tensors, and buffers that they refer to, by name."""
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for path, module in adapted_modules(model):
        if hasattr(module, "adapter_buffer_names"):
            for name in module.adapter_buffer_names():
                state[f"{path}.{name}"] = module.get_buffer(name)
    for path, part in model.named_modules():
        if hasattr(part, "trained_buffer_names"):
            names: tuple[str, ...] = part.trained_buffer_names()
            state |= {f"{path}.{name}": part.get_buffer(name) for name in names}
    return state


@torch.no_grad()
def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`trained_state` gave, names and shapes being equal.

    Singular vectors are turned to the signs that the trained tensors refer to.

    Raises:
        ValueError: a weight decomposes differently here.
    """
    referred = [(path, basis) for path, basis in bases(model) if f"{path}.anchor" in state]
    for path, basis in referred:  # all, before anything is changed
        basis.check(state[f"{path}.s"], path)
    for path, basis in referred:
        basis.turn(state[f"{path}.anchor"])
    turned = {f"{path}.{name}" for path, _ in referred for name in ("anchor", "s")}
    own = trained_state(model)
    for name, tensor in state.items():
        if name not in turned:
            own[name].copy_(tensor)


def merge_adapters(model: nn.Module) -> dict[str, nn.Module]:
    """Fold every adapter into its layer, in place; the model computes the same without them.

    Returns:
        The adapted modules by path: :func:`unmerge_adapters` puts them back.

    Raises:
        NotMergeableError: a method has no merged form; the model is left as it was.
    """
    merged = {path: module.merge() for path, module in adapted_modules(model)}
    before = {path: model.get_submodule(path) for path in merged}
    for path, module in merged.items():
        replace_module(model, path, module)
    # an adapter trained on top belongs to these weights, not to the file's
    _set_base(model, merged=True)
    return before


def unmerge_adapters(model: nn.Module, adapted: Mapping[str, nn.Module]) -> None:
    """Undo :func:`merge_adapters`: weights and adapters are what they were, bit for bit.

    Device and type are those of the time before merging.
    """
    for path, module in adapted.items():
        replace_module(model, path, module)
    _set_base(model, merged=False)


def _set_base(model: nn.Module, *, merged: bool) -> None:
    digest: Any = getattr(model, "base_sha256", None)
    if digest is not None:
        model.base_sha256 = digest + MERGED if merged else digest.removesuffix(MERGED)


def method_configs(method: Methods, decoder: str) -> dict[str, Any]:
    """What :func:`adapt` was called with, as it stands in an adapter file."""
    configs = [m.config() for m in _as_list(method)]
    single = configs[0] if configs else None
    return {"method": configs if len(configs) > 1 else single, "decoder": decoder}

"""Freeze a network, put a method into it, and thaw what is to be trained."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from samtune.peft.lora import LoRA
from samtune.peft.protocol import adapted_modules, replace_module

DecoderPolicy = Literal["frozen", "full", "lora"]
COMPONENTS = {
    "image_encoder": "encoder",
    "prompt_encoder": "prompt encoder",
    "mask_decoder": "decoder",
    "class_head": "class head",
}


@dataclass(frozen=True)
class AdaptSummary:
    """Parameter counts of an adapted network.

    Attributes:
        trainable, total: numbers of parameters.
        components: (trainable, total) by component.
        adapted: paths of the adapted layers.
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
    method: LoRA | None = None,
    *,
    decoder: DecoderPolicy = "full",
    generator: torch.Generator | None = None,
) -> AdaptSummary:
    """Adapt ``model`` in place: freeze everything, inject, thaw.

    The class head is always trained: its tokens are what tells the classes apart.

    Args:
        model: a ``SamSegmenter``.
        method: for the encoder's attention (and the decoder's, with ``decoder="lora"``); ``None``:
            the encoder stays as it is.
        decoder: ``frozen``; ``full``: what of the mask decoder the prompt-free forward uses;
            ``lora``: the method on its attention.
        generator: for the initial factors.

    Raises:
        ValueError: the model is adapted already, or the arguments don't fit.
    """
    if decoder not in get_args(DecoderPolicy):
        msg = f"decoder must be one of {', '.join(get_args(DecoderPolicy))}, got '{decoder}'"
        raise ValueError(msg)
    if any(True for _ in adapted_modules(model)):
        msg = "the model is adapted already; merge() it first, or build a new one"
        raise ValueError(msg)
    if decoder == "lora" and method is None:
        msg = "decoder='lora' needs a method"
        raise ValueError(msg)
    model.requires_grad_(False)
    adapted: list[str] = []
    if method is not None:
        paths = method.inject_encoder(model.get_submodule("image_encoder"), generator)
        adapted += [f"image_encoder.{path}" for path in paths]
    if decoder == "lora" and method is not None:
        for attention in model.decoder_attention_paths():  # type: ignore[operator]
            paths = method.inject_attention(model.get_submodule(attention), generator)
            adapted += [f"{attention}.{path}" for path in paths]
    if decoder == "full":
        for path in model.decoder_paths():  # type: ignore[operator]
            model.get_submodule(path).requires_grad_(True)
    for _, module in adapted_modules(model):
        for name in module.adapter_parameter_names():
            module.get_parameter(name).requires_grad_(True)
    model.get_submodule("class_head").requires_grad_(True)
    return summarise(model, tuple(adapted))


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
    """The trained tensors by name: what an adapter file holds."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def merge_adapters(model: nn.Module) -> nn.Module:
    """Fold every adapter into its layer, in place; the model computes the same without them."""
    for path, module in list(adapted_modules(model)):
        replace_module(model, path, module.merge())
    return model


def method_configs(method: LoRA | None, decoder: DecoderPolicy) -> dict[str, Any]:
    """What :func:`adapt` was called with, as it stands in an adapter file."""
    return {"method": None if method is None else method.config(), "decoder": decoder}

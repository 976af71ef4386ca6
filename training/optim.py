"""Which parameters an optimiser gets, at which rate, and the optimiser by name."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from samtune.peft.lora import lora_plus_groups

OPTIMIZERS = ("adamw", "adam", "sgd")
ENCODER = "image_encoder."


def make_optimizer(
    name: str,
    network: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    layer_decay: float | None = None,
    lora_plus: float | None = None,
) -> Optimizer:
    """An optimiser of the trained parameters of ``network``.

    Args:
        name: ``adamw``, ``adam`` (weight decay is added to the gradient) or ``sgd``.
        lr, layer_decay, lora_plus: see :func:`parameter_groups`.
        weight_decay: of all of them.
        momentum: of ``sgd``.

    Raises:
        ValueError: another name, or what :func:`parameter_groups` refuses.
    """
    if name not in OPTIMIZERS:
        msg = f"optimizer_name must be one of {', '.join(OPTIMIZERS)}, got '{name}'"
        raise ValueError(msg)
    groups = parameter_groups(network, lr, lora_plus, layer_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, weight_decay=weight_decay)


def parameter_groups(
    network: nn.Module,
    lr: float,
    lora_plus: float | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trained parameters of ``network`` as optimiser groups.

    Args:
        lr: learning rate.
        lora_plus: ratio of the rate of LoRA's B factors to ``lr``; ``None``: one rate for all.
        layer_decay: the last encoder block's rate is this times ``lr``, that of the block before it
            this squared, and so on down to what comes before the first block; the neck and all
            beyond the encoder have ``lr``. ``None``: one rate for all blocks.

    Raises:
        ValueError: a ratio without LoRA, or below 1; a decay outside (0, 1]; nothing is trained.
    """
    if lora_plus is not None and lora_plus < 1:
        msg = f"lora_plus is the ratio of two learning rates, at least 1, got {lora_plus}"
        raise ValueError(msg)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if not trained:
        msg = "no parameter of the network is trained: choose a method, or decoder: full"
        raise ValueError(msg)
    if layer_decay is None:
        if lora_plus is None:
            return [{"params": [p for _, p in trained], "lr": lr}]
        return lora_plus_groups(trained, lr, lora_plus)
    if not 0 < layer_decay <= 1:
        msg = f"layer_decay is the ratio of the rates of two blocks, in (0, 1], got {layer_decay}"
        raise ValueError(msg)
    if lora_plus is not None:
        lora_plus_groups(trained, lr, lora_plus)  # refuses what has no B factor at all
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        is_b = lora_plus is not None and name.rsplit(".", 1)[-1] == "lora_b"
        groups.setdefault((_depth(network, name), is_b), []).append(parameter)
    return [  # the full rate first: it is the one that the curve shows
        {
            "params": groups[depth, is_b],
            "lr": lr * layer_decay**depth * (lora_plus if lora_plus is not None and is_b else 1),
        }
        for depth, is_b in sorted(groups)
    ]


def _depth(network: nn.Module, name: str) -> int:
    """Blocks from a parameter to the end of the encoder; 0: the neck or beyond."""
    if not name.startswith(ENCODER):
        return 0
    encoder: Any = network.image_encoder
    return int(len(encoder.adapter_sites()) - encoder.unit_of(name.removeprefix(ENCODER)))

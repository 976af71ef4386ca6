"""Which parameters an optimiser gets, and at which rate."""

from typing import Any

from torch import nn

from samtune.peft.lora import lora_plus_groups


def parameter_groups(
    network: nn.Module, lr: float, lora_plus: float | None = None
) -> list[dict[str, Any]]:
    """The trained parameters of ``network`` as optimiser groups.

    Args:
        lr: learning rate.
        lora_plus: ratio of the rate of LoRA's B factors to ``lr``; ``None``: one rate for all.

    Raises:
        ValueError: a ratio without LoRA, or below 1.
    """
    if lora_plus is None:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "lr": lr}]
    if lora_plus < 1:
        msg = f"lora_plus is the ratio of two learning rates, at least 1, got {lora_plus}"
        raise ValueError(msg)
    return lora_plus_groups(network.named_parameters(), lr, lora_plus)

"""The methods by name, for configs, the command line and adapter files."""

from collections.abc import Mapping
from typing import Any

from samtune.peft.lora import LoRA

METHODS: dict[str, type[LoRA]] = {"lora": LoRA}


def build_method(config: Mapping[str, Any]) -> LoRA:
    """Build a method from ``{"name": ..., hyper-parameters}``.

    Raises:
        ValueError: unknown method or hyper-parameter; lists what there is.
    """
    name = config.get("name")
    if name not in METHODS:
        msg = f"unknown PEFT method '{name}', expected one of: {', '.join(METHODS)}"
        raise ValueError(msg)
    method = METHODS[name]
    known = set(method.__dataclass_fields__)
    unknown = sorted(set(config) - known - {"name"})
    if unknown:
        msg = (
            f"PEFT method '{name}' has no hyper-parameter {', '.join(unknown)}; it has: "
            f"{', '.join(sorted(known))}"
        )
        raise ValueError(msg)
    return method.from_config(config)

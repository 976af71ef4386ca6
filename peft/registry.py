"""The methods by name, for configs, the command line, docs and adapter files."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from samtune.peft.bottleneck import AdaptFormer, Houlsby
from samtune.peft.conv_lora import ConvLoRA
from samtune.peft.dora import DoRA
from samtune.peft.fact import FacT
from samtune.peft.lora import LoRA
from samtune.peft.protocol import Method
from samtune.peft.qlora import QLoRA
from samtune.peft.salt import SALT
from samtune.peft.sam_adapter import SAMAdapter
from samtune.peft.selective import (
    Attention,
    Bias,
    Blocks,
    DecoderOnly,
    Full,
    LayerNorms,
    PosEmbed,
)
from samtune.peft.spectral import SSAM, SVF
from samtune.peft.ssf import SSF
from samtune.peft.vera import VeRA

_ALL: tuple[type[Method], ...] = (
    LoRA,
    DoRA,
    SALT,
    SSAM,
    SVF,
    FacT,
    VeRA,
    ConvLoRA,
    QLoRA,
    SSF,
    AdaptFormer,
    Houlsby,
    SAMAdapter,
    Bias,
    LayerNorms,
    Attention,
    PosEmbed,
    Blocks,
    Full,
    DecoderOnly,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}


def build_method(config: Mapping[str, Any]) -> Method:
    """Build a method from ``{"name": ..., hyper-parameters}``.

    Raises:
        ValueError: unknown method or hyper-parameter; lists what there is.
    """
    if not isinstance(config, Mapping):
        msg = f"a PEFT method is given as {{name: ..., hyper-parameters}}, got {config!r}"
        raise ValueError(msg)
    name = config.get("name")
    if not isinstance(name, str) or name not in METHODS:
        msg = f"unknown PEFT method '{name}', expected one of: {', '.join(METHODS)}"
        raise ValueError(msg)
    method = METHODS[name]
    known = {f.name for f in fields(method)}
    unknown = sorted(set(config) - known - {"name"})
    if unknown:
        msg = (
            f"PEFT method '{name}' has no hyper-parameter {', '.join(unknown)}; it has: "
            f"{', '.join(sorted(known))}"
        )
        raise ValueError(msg)
    return method.from_config(config)


def build_methods(config: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[Method]:
    """Build the methods of a config: none, one, or a list."""
    if config is None:
        return []
    if isinstance(config, str):
        msg = f"PEFT methods are given as {{name: ..., hyper-parameters}}, got '{config}'"
        raise ValueError(msg)
    return [build_method(c) for c in ([config] if isinstance(config, Mapping) else config)]

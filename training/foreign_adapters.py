"""Adapters that the references' training code saved, as adapters of ours.

- SAMed (``.pth``) and SAM-LoRA (safetensors): ``w_a_000`` (r x D), ``w_b_000`` (D x r), ...: q,
  then v of each adapted block, blocks ascending, scale 1; which blocks is not in the file. SAMed
  adds ``prompt_encoder.*`` and ``mask_decoder.*``; where its decoder had LoRA too, ``sa_``,
  ``cti_``, ``cit_`` and ``fati_`` factors.
- SAM-Adapter (Kyyle2114): its trained tensors by name, with the whole mask decoder.

The encoder is carried over exactly. Of a mask decoder an adapter file holds what the prompt-free
forward uses; see :func:`samtune.training.convert_adapter.convert_adapter`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.networks.checkpoints import listed, read_state_dict
from samtune.networks.reference_files import is_lora_file, is_sam_adapter_file

_LORA = re.compile(r"w_([ab])_(\d{3})")
_DECODER_LORA = re.compile(r"(sa|cti|cit)_([ab])_(\d{3})|fati_([qv])([ab])")
_DECODER_PLACES = {
    "sa": "self_attn",
    "cti": "cross_attn_token_to_image",
    "cit": "cross_attn_image_to_token",
}
_PARTS = ("prompt_encoder.", "mask_decoder.")
_ENCODER = "image_encoder."


@dataclass(frozen=True)
class ForeignAdapter:
    """What such a file holds.

    Attributes:
        kind: ``lora`` or ``sam_adapter``.
        peft: hyper-parameters of our method, with ``blocks``.
        decoder_method: whether the method is in the mask decoder too.
        tensors: trained tensors of the adapter under the names of our adapter files.
        parts: ``prompt_encoder.*`` and ``mask_decoder.*`` of the file.
    """

    kind: str
    peft: dict[str, Any]
    decoder_method: bool
    tensors: dict[str, Tensor]
    parts: dict[str, Tensor]


def read_foreign_adapter(
    path: str | Path, *, depth: int, blocks: Sequence[int] | None = None
) -> ForeignAdapter:
    """Read an adapter of SAMed, SAM-LoRA or SAM-Adapter.

    Args:
        depth: number of the encoder's blocks.
        blocks: the adapted blocks of a LoRA file, ascending; ``None``: all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, another kind of file, incomplete, or for another number of blocks.
    """
    state = read_state_dict(path)
    source = f"adapter '{path}'"
    if is_lora_file(state):
        return _lora(state, source, depth, blocks)
    if is_sam_adapter_file(state):
        if blocks is not None:
            msg = f"{source} is of SAM-Adapter, which adapts all blocks: blocks can't be chosen"
            raise ValueError(msg)
        return _sam_adapter(state, source, depth)
    msg = (
        f"{source} is no adapter of SAMed, SAM-LoRA (w_a_000, ...) or SAM-Adapter "
        f"(task_adapter_up, ...); its first names: {listed(list(state)[:3])}"
    )
    raise ValueError(msg)


def _split(
    state: Mapping[str, Tensor], source: str, known: re.Pattern[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors whose names ``known`` matches, the other parts of a SAM); no third kind."""
    own = {name: tensor for name, tensor in state.items() if known.fullmatch(name)}
    parts = {name: tensor for name, tensor in state.items() if name.startswith(_PARTS)}
    parts = {name: tensor for name, tensor in parts.items() if name not in own}
    if other := [name for name in state if name not in own and name not in parts]:
        msg = f"{source} holds names that belong to no known adapter: {listed(other)}"
        raise ValueError(msg)
    return own, parts


def _lora(
    state: Mapping[str, Tensor], source: str, depth: int, blocks: Sequence[int] | None
) -> ForeignAdapter:
    names = re.compile(f"{_LORA.pattern}|{_DECODER_LORA.pattern}")
    factors, parts = _split(state, source, names)
    number = sum(1 for name in factors if name.startswith("w_a_"))
    adapted = list(range(depth)) if blocks is None else list(blocks)
    if number != 2 * len(adapted):
        msg = (
            f"{source} has {number} pairs of factors, of {number // 2} blocks (q and v of each); "
            f"expected {len(adapted)}: name the adapted ones of the encoder's {depth} with blocks"
        )
        raise ValueError(msg)
    rank = len(_factor(factors, "w_a_000", source))
    _check_alike(factors, source)
    tensors: dict[str, Tensor] = {}
    for place, block in enumerate(sorted(adapted)):
        pairs = [
            (
                _factor(factors, f"w_a_{2 * place + i:03d}", source),
                _factor(factors, f"w_b_{2 * place + i:03d}", source),
            )
            for i in range(2)
        ]
        path = f"{_ENCODER}blocks.{block}.attn.qkv"
        tensors |= _stacked(path, pairs)
    decoder = _decoder_lora(factors, source)
    config: dict[str, Any] = {"name": "lora", "rank": rank, "alpha": rank, "targets": ["q", "v"]}
    config["blocks"] = "all" if len(adapted) == depth else sorted(adapted)
    return ForeignAdapter("lora", config, bool(decoder), {**tensors, **decoder}, parts)


def _check_alike(factors: Mapping[str, Tensor], source: str) -> None:
    """All factors of the encoder have the first one's rank and width."""
    shape = factors["w_a_000"].shape
    for name, tensor in factors.items():
        found = tensor.shape if name.startswith("w_a_") else tensor.shape[::-1]
        if _LORA.fullmatch(name) and found != shape:
            msg = f"{source}: {name} is {tuple(tensor.shape)}, w_a_000 {tuple(shape)}"
            raise ValueError(msg)


def _stacked(path: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    a, b = (torch.cat(factors) for factors in zip(*pairs, strict=True))
    return {f"{path}.lora_a": a, f"{path}.lora_b": b}


def _decoder_lora(factors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Factors in the mask decoder: q, then v of each attention; empty where there are none."""
    places: dict[str, tuple[str, str]] = {}
    root = "mask_decoder.transformer"
    for name in factors:
        found = re.fullmatch(r"(sa|cti|cit)_a_(\d{3})", name)
        if found:
            index = int(found[2])
            attention = f"{root}.layers.{index // 2}.{_DECODER_PLACES[found[1]]}"
            places[f"{attention}.{'qv'[index % 2]}_proj"] = (name, f"{found[1]}_b_{found[2]}")
    if any(name.startswith("fati_") for name in factors):
        for part in "qv":
            attention = f"{root}.final_attn_token_to_image"
            places[f"{attention}.{part}_proj"] = (f"fati_{part}a", f"fati_{part}b")
    out: dict[str, Tensor] = {}
    for path, (a, b) in places.items():
        out[f"{path}.lora_a"] = _factor(factors, a, source)
        out[f"{path}.lora_b"] = _factor(factors, b, source)
    return out


def _factor(factors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in factors:
        msg = f"{source} lacks {name}"
        raise ValueError(msg)
    return factors[name]


def _sam_adapter(state: Mapping[str, Tensor], source: str, depth: int) -> ForeignAdapter:
    names = re.compile(
        rf"{_ENCODER}(patch_embed_tune|HFC_tune|task_adapter_up|"
        r"task_adapter_blocks\.\d+\.(down|up)_projection)\.(weight|bias)"
    )
    own, parts = _split(state, source, names)
    number = sum(1 for name in own if name.endswith("down_projection.weight"))
    if number != depth + 1:
        msg = f"{source} has {number} adapters, expected {depth + 1}: one a block and one before"
        raise ValueError(msg)
    up = _factor(own, f"{_ENCODER}task_adapter_up.weight", source)
    width = len(up)
    tensors: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        renamed = {
            "patch_tune": "patch_embed_tune",
            "hfc_tune": "HFC_tune",
            f"up.{width}": "task_adapter_up",
            **{f"tune.{i}": f"task_adapter_blocks.{i}.down_projection" for i in range(depth + 1)},
        }
        for ours, theirs in renamed.items():
            tensor = _factor(own, f"{_ENCODER}{theirs}.{kind}", source)
            tensors[f"{_ENCODER}sam_adapter.{ours}.{kind}"] = tensor
        shared = own[f"{_ENCODER}task_adapter_up.{kind}"]
        copies = [t for n, t in own.items() if n.endswith(f".up_projection.{kind}")]
        if not all(torch.equal(copy, shared) for copy in copies):
            msg = f"{source} has adapters with up-projections of their own, expected a shared one"
            raise ValueError(msg)
    tune_width = len(own[f"{_ENCODER}patch_embed_tune.weight"])
    config = {"name": "sam_adapter", "tune_width": tune_width, "hidden": up.shape[1]}
    return ForeignAdapter("sam_adapter", config, False, tensors, parts)

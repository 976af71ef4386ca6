"""What each PEFT method costs on a backbone, counted on the meta device: no weights are needed."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch

from samtune.networks import build_sam
from samtune.peft.adapt import adapt, trained_state
from samtune.peft.blocks import BlockSpec
from samtune.peft.places import find_places
from samtune.peft.protocol import Method
from samtune.peft.registry import METHODS


@dataclass(frozen=True)
class MethodRow:
    """One method with its defaults on one backbone.

    Attributes:
        method, about, source: from the registry.
        trainable: parameters it trains in the encoder; the decoder and the class head come on top.
        percent: of all of SAM's parameters.
        components: trainable by component, the mask decoder trained in full where ``decoder`` says.
        file_bytes: of an adapter file's tensors in float32, decoder and class head apart.
        mergeable: can the result be written as a plain SAM checkpoint?
        identity: step 0 against the frozen network: ``exact``, ``1e-5`` or ``no``.
        defaults: hyper-parameters.
        note: why there are no counts, if there aren't.
    """

    method: str
    about: str
    source: str
    trainable: int | None
    percent: float | None
    components: dict[str, int]
    file_bytes: int | None
    mergeable: bool
    identity: str
    defaults: dict[str, Any]
    note: str = ""


def method_table(
    backbone: str = "vit_b", *, blocks: BlockSpec = "all", decoder: str = "frozen"
) -> list[MethodRow]:
    """Count every method of the registry.

    Args:
        backbone: an architecture of :func:`samtune.networks.build_sam`.
        blocks: of the encoder; methods on the whole encoder ignore it.
        decoder: ``frozen``, ``full`` or ``same`` (the method in the decoder too).

    Raises:
        ValueError: unknown backbone, blocks or policy.
    """
    if decoder not in ("frozen", "full", "same"):
        msg = f"decoder must be one of frozen, full, same, got '{decoder}'"
        raise ValueError(msg)
    with torch.device("meta"):
        find_places(build_sam(backbone, "random")).choose(blocks, decoder=False)
    return [_row(backbone, method(blocks=blocks), decoder) for method in METHODS.values()]


def _row(backbone: str, method: Method, decoder: str) -> MethodRow:
    with torch.device("meta"):
        sam = build_sam(backbone, "random")
    total = sum(p.numel() for p in sam.parameters())
    row = partial(
        MethodRow,
        method=method.name,
        about=method.about,
        source=method.source,
        mergeable=method.mergeable,
        identity=method.identity,
        defaults={f.name: method.config()[f.name] for f in fields(method)},
    )
    try:
        summary = adapt(sam, method, decoder=method.name if decoder == "same" else decoder)
    except ValueError as error:  # e.g. no position embedding in this backbone
        return row(trainable=None, percent=None, components={}, file_bytes=None, note=str(error))
    trainable = summary.components["encoder"][0]
    return row(
        trainable=trainable,
        percent=100 * trainable / total,
        components={name: trained for name, (trained, _) in summary.components.items()},
        file_bytes=sum(
            t.numel() * t.element_size()
            for name, t in trained_state(sam).items()
            if name.startswith("image_encoder.")
        ),
    )

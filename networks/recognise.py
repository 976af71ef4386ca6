"""Which architecture the tensors of a file are of."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from samtune.networks.layouts import ENCODER, absent_parts, part_of
from samtune.networks.tables import fits_any_size

# what a file may be that no architecture here fits; by the start of a name
_HINTS = {
    "image_encoder.trunk.": "SAM 2",
    "vision_encoder.backbone.": "Hugging Face's Sam2Model",
    "image_encoder.blocks.": "a ViT of another width or depth",
    "image_encoder.layers.": "a TinyViT of another width or depth",
    "image_encoder.backbone.": "EfficientViT-SAM",
    "state.": "a training state",
    "visual.": "a CLIP model",
}


@cache
def _tensors_of(encoder: Callable[[int], nn.Module], size: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return encoder(size).state_dict()


def recognise(
    state: Mapping[str, Tensor], encoders: Iterable[tuple[str, Callable[[int], nn.Module], int]]
) -> str | None:
    """Name of the architecture whose encoder has the names and shapes of ``state``.

    Args:
        state: under published names; an encoder may lack neck and relative positions.
        encoders: names, builders and native sizes; built on the meta device.
    """
    absent = absent_parts(state)
    theirs = {n.removeprefix(ENCODER): t for n, t in state.items() if n.startswith(ENCODER)}
    for arch, encoder, size in encoders:
        own = _tensors_of(encoder, size)
        names = {name for name in own if part_of(ENCODER + name) not in absent}
        if names <= theirs.keys() and all(
            fits_any_size(name, theirs[name], own[name]) for name in names
        ):
            return arch
    return None


def hint(state: Mapping[str, Tensor]) -> str:
    """What a file of no known architecture looks like, for errors."""
    for start, what in _HINTS.items():
        if any(name.startswith(start) for name in state):
            return f"it looks like {what}; "
    return ""

"""Label maps held in memory by the thousand: compressed."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A small-valued integer tensor, compressed: a label map is a hundredth of its size."""

    data: bytes
    shape: tuple[int, ...]
    stored: str
    dtype: torch.dtype


def pack(value: Any) -> Any:
    """``value``, or :class:`Packed` where it is an integer tensor."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.numel() == 0:
        return value
    array = value.cpu().numpy()
    if array.min() >= 0 and array.max() < 256:
        array = array.astype(np.uint8)
    data = zlib.compress(array.tobytes(), 1)
    return Packed(data, tuple(value.shape), str(array.dtype), value.dtype)


def unpack(value: Any) -> Any:
    """What :func:`pack` was given."""
    if not isinstance(value, Packed):
        return value
    array = np.frombuffer(zlib.decompress(value.data), value.stored).reshape(value.shape)
    return torch.from_numpy(array.copy()).to(value.dtype)

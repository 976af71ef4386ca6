"""The state of every global random generator, in types that a checkpoint may hold."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from samtune.training.distributed import world_size


def random_state() -> dict[str, Any]:
    """State of the generators of torch (CPU and every GPU), NumPy and Python.

    Of several processes each has its own GPU, and no business on the others.
    """
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # the one that user code draws from
    assert isinstance(numpy, dict)
    return {
        "torch": torch.get_rng_state(),
        "cuda": _gpus(),
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` gave; GPUs only where there are as many."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        if world_size() > 1:
            for own in state["cuda"]:
                torch.cuda.set_rng_state(own)
        elif len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    numpy = state["numpy"]
    key = numpy["key"].numpy().astype(np.uint32)
    values = ("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"])
    np.random.set_state(values)  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _gpus() -> list[torch.Tensor]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_rng_state()] if world_size() > 1 else torch.cuda.get_rng_state_all()

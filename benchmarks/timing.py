"""Side-by-side timing: variants take turns, so that a slow moment of the machine hits all."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from torch import Tensor


def interleaved(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each step.

    Args:
        steps: by name; each is called once before the clock starts.
        rounds: times that each is measured, in turn.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # first calls allocate
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: median(values) for name, values in times.items()}


def saved_bytes(forward: Callable[[], object], own: Sequence[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass: unique storages.

    Args:
        forward: computes what would be differentiated.
        own: tensors that don't count, the model's parameters and buffers.
    """
    mine = {t.untyped_storage().data_ptr() for t in own}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output kept as it is would keep its own graph for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()
    del out
    return sum(seen.values())

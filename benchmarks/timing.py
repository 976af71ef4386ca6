"""Side-by-side timing: variants take turns, so that a slow moment of the machine hits all."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from torch import Tensor


def clock_of(device: torch.device | str) -> Callable[[], float]:
    """CPU seconds of this process; on a GPU wall seconds, once all its work is done."""
    if torch.device(device).type != "cuda":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Median seconds of each step, see :func:`clock_of`.

    Args:
        steps: by name; each is called once before the clock starts.
        rounds: times that each is measured, in turn.
        device: what they run on.
    """
    clock = clock_of(device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # first calls allocate
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
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

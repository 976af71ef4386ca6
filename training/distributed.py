"""Several processes that train one network: who writes, what is gathered, how they begin and end.

Everything here does the obvious thing in a single process, so that the code that calls it is the
same for one process and for many.
"""

import atexit
import inspect
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from monai.utils import set_determinism
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")
P = ParamSpec("P")
COMMAND = "torchrun --standalone --nproc_per_node=N -m monai.bundle run training ..."
OVERLAY = "configs/multi_gpu.yaml"
# one process may cache features or validate longer than another
TIMEOUT = timedelta(hours=4)
# seconds in which torchrun ends this process if another failed first
PATIENCE = 30.0
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """Number of processes; before they have joined, what torchrun says it is."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def main_only(function: Callable[P, None]) -> Callable[P, None]:
    """A function that does nothing in the other processes; it must not gather anything."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        if is_main():
            function(*args, **kwargs)

    return call


def barrier() -> None:
    """Wait until all processes are here."""
    gather(None)  # objects go through the processor: a barrier of NCCL's would need a GPU chosen


def gather(value: Value) -> list[Value]:
    """The values of all processes, by rank; every process has to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def anywhere(flag: bool) -> bool:
    """Whether it is so in any process; every process has to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def gather_rows(rows: Mapping[str, Value]) -> dict[str, Value]:
    """The rows of all processes by case, sorted: a case that two processes had counts once."""
    found: dict[str, Value] = {}
    for part in gather(dict(rows)):
        found |= part
    return {case: found[case] for case in sorted(found)}


def mean(value: float) -> float:
    """Mean over the processes, the same number in each."""
    values = gather(value)
    return sum(values) / len(values)


def parallel(
    network: nn.Module, *, find_unused_parameters: bool = False
) -> DistributedDataParallel:
    """``network`` as training has to call it: gradients are averaged over the processes.

    Args:
        network: on this process's device; its weights become those of rank 0.
        find_unused_parameters: needed where steps leave trained parameters out.

    Raises:
        ValueError: the processes didn't join.
    """
    if not dist.is_initialized():
        msg = "parallel: the processes have to join first (torch_device of " + OVERLAY + ")"
        raise ValueError(msg)
    device = next(network.parameters()).device
    # None changes in training (statistics are frozen), and singular vectors are large. Torch 2.15
    # renamed the option and warns of the old name.
    options = inspect.signature(DistributedDataParallel.__init__).parameters
    new = "forward_sync_buffers" in options
    no_buffers: Any = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
        **no_buffers,
    )


def join_processes(device: str | torch.device = "auto") -> torch.device:
    """Join the processes that torchrun started, on one node or several.

    Args:
        device: ``auto`` or ``cuda``: a GPU a process, by NCCL; ``cpu``, or ``auto`` without a GPU:
            the processor, by Gloo.

    Returns:
        The device of this process.

    Raises:
        ValueError: not started by torchrun, a device that they can't share, or more processes than
            GPUs.
        ConnectionError: the port is taken, or not all processes came.
    """
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        msg = (
            f"{OVERLAY} is for several processes, but {', '.join(missing)} is not set: start it "
            f"with '{COMMAND}', or leave {OVERLAY} out"
        )
        raise ValueError(msg)
    own = device_of_process(str(device), int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
    if dist.is_initialized():
        return own
    if own.type == "cuda":
        torch.cuda.set_device(own)
    try:
        # objects, such as rows of cases, go by Gloo
        backend = "gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, OSError) as error:
        raise ConnectionError(_why_not_joined(error)) from error
    atexit.register(leave_processes)  # on failure too
    if rank() > 0:
        # what is told, rank 0 tells; an error that ends this process is shown at its end
        logging.disable(logging.ERROR)
    return own


def device_of_process(device: str, local_rank: int, gpus: int) -> torch.device:
    """The device of the process with this number on its node.

    Raises:
        ValueError: a device that processes can't share, or fewer GPUs than processes.
    """
    if device not in ("auto", "cuda", "cpu"):
        msg = f"several processes take device auto, cuda (a GPU each) or cpu, got '{device}'"
        raise ValueError(msg)
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    here = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), local_rank + 1)
    if here > gpus:
        msg = (
            f"{here} processes on this node, which has {gpus} GPUs: start at most {gpus} "
            "(--nproc_per_node), or set device: cpu"
            if gpus
            else "device 'cuda' is not on this machine, which has: cpu"
        )
        raise ValueError(msg)
    return torch.device("cuda", local_rank)


def _why_not_joined(error: Exception) -> str:
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return (
            f"port {port} of {socket.gethostname()} is in use: choose another with torchrun's "
            "--master_port, or use --standalone on a single machine"
        )
    reason = str(error).splitlines()[0]
    return f"{world_size()} processes didn't meet at {address}:{port}: {reason}"


def leave_processes() -> None:
    """Close the connections; nothing to do where there are none."""
    atexit.unregister(leave_processes)
    if dist.is_available() and dist.is_initialized():
        if dist.get_rank() > 0:
            logging.disable(logging.NOTSET)
        dist.destroy_process_group()


def seed_apart(seed: int) -> None:
    """Let dropout draw differently in each process; rank 0 draws as a single one would."""
    if rank() > 0:
        set_determinism(seed + rank())


def let_the_first_speak(error: BaseException) -> None:
    """Return at once in the process that failed first, later or never in those that follow it.

    What is wrong for all is told by rank 0, and torchrun ends the others meanwhile; a failure of
    one process alone reaches the others as a lost connection.
    """
    lost = isinstance(error, dist.DistError) or "closed by peer" in str(error).lower()
    if world_size() > 1 and (rank() > 0 or lost):
        time.sleep(PATIENCE)

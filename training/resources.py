"""What a run took: memory at its peak, slices a second."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from samtune.atomic import write_atomically
from samtune.training.distributed import is_main, world_size

RESOURCES = "resources.json"
MIB = 2**20


class Resources:
    """Writes ``resources.json``, an entry for each command that trained: a resumed run has several.

    Each entry has the device, the iterations it did, slices a second in training (loading and
    step; its first iteration, which may fill the feature cache, and validation are left out) and
    the peak memory of the process and of the GPU. It is written at each epoch's end and when the
    command ends; of a killed one the epochs it finished are there. Of several processes slices a
    second are of all, memory is that of rank 0, which writes.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._earlier: list[dict[str, Any]] = []
        self._first: int | None = None
        self._begun = 0.0
        self._seconds = 0.0
        self._slices = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before what stops it."""
        if not is_main():
            return
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self, engine: Engine) -> None:
        self._first, self._seconds, self._slices = None, 0.0, 0
        self._earlier = _read(self.path / RESOURCES)
        device = engine.state.device  # type: ignore[attr-defined]  # of MONAI's engines
        if device is not None and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def _begin(self, engine: Engine) -> None:
        self._begun = time.perf_counter()

    def _count(self, engine: Engine) -> None:
        if self._first is None:
            self._first = engine.state.iteration
        else:
            output: Any = engine.state.output
            self._seconds += time.perf_counter() - self._begun
            number = len(output) if isinstance(output, list) else len(output["image"])
            self._slices += number * world_size()

    def _write(self, engine: Engine) -> None:
        if self._first is None:  # finished before
            return
        device: torch.device | None = engine.state.device  # type: ignore[attr-defined]
        on_gpu = device is not None and device.type == "cuda"
        entry = {
            "processes": world_size(),
            "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
            "first_iteration": self._first,
            "last_iteration": engine.state.iteration,
            "slices_per_second": round(self._slices / self._seconds, 3) if self._slices else None,
            "peak_rss_mib": peak_rss_mib(),
            "peak_cuda_mib": round(torch.cuda.max_memory_allocated(device) / MIB)
            if on_gpu
            else None,
        }
        record = {"commands": [*self._earlier, entry]}
        text = json.dumps(record, indent=2)
        write_atomically(self.path / RESOURCES, (text + "\n").encode())


def peak_rss_mib() -> int | None:
    """Largest resident memory of this process so far, in MiB; ``None`` on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // MIB if sys.platform == "darwin" else peak // 1024)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        commands = json.loads(file.read_text())["commands"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return list(commands)

"""One task a case: on this machine's processes or on a Dask cluster, through one joblib call."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import joblib
from tqdm import tqdm

SCHEDULERS = ("processes", "dask")
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Scheduler:
    """Where cases are worked on.

    At most ``workers`` cases are in memory at once; on a cluster, as many as it has threads.

    Attributes:
        kind: ``processes`` of this machine, or a ``dask`` cluster that sees the same files.
        workers: processes; None for as many as there are cores, 1 for none extra.
        address: of the Dask scheduler, as ``tcp://host:8786``.

    Raises:
        ValueError: workers < 1, an unknown kind, or an address without Dask or the reverse.
    """

    kind: Literal["processes", "dask"] = "processes"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be >= 1, got {self.workers}")
        if self.kind not in SCHEDULERS:
            raise ValueError(f"scheduler must be processes or dask, got {self.kind!r}")
        if (self.kind == "dask") != (self.address is not None):
            raise ValueError(
                "scheduler dask and the address of a Dask scheduler (tcp://host:8786) go together; "
                "'dask scheduler' starts one"
            )


def run_cases(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    scheduler: Scheduler,
    *,
    progress: bool = True,
    what: str = "slice",
) -> Iterator[Any]:
    """Call ``function`` once a case; yields what it returns, in the order in which cases end.

    Worker processes end with this one, also when it is killed. On a cluster the function must be
    importable there.

    Args:
        function: of one case; an exception of it ends the run.
        arguments: of each call.
        progress: a bar on stderr, if that is a terminal.
        what: is done; the bar's title.

    Raises:
        ImportError: Dask is asked for and not installed.
        OSError: a worker was killed, or the cluster cannot be reached.
    """
    number = min(scheduler.workers or joblib.cpu_count(), len(arguments)) or 1
    parent = os.getpid() if scheduler.kind == "processes" and number > 1 else None
    finished = 0
    with _backend(scheduler) as killed:
        # a case at a time: outcomes come as cases end, and no process waits for another's batch
        parallel = joblib.Parallel(n_jobs=number, batch_size=1, return_as="generator_unordered")
        outcomes = parallel(joblib.delayed(_call)(function, one, parent) for one in arguments)
        try:
            # disable=None: no bar if stderr is not a terminal
            for outcome in tqdm(
                outcomes,
                total=len(arguments),
                unit="case",
                desc=what,
                disable=None if progress else True,
            ):
                finished += 1
                yield outcome
        except killed as error:
            raise OSError(
                f"a worker process was killed, most often for lack of memory, after {finished} of "
                f"{len(arguments)} cases; run the same command again with fewer --workers to do "
                "the rest"
            ) from error


@contextmanager
def _backend(scheduler: Scheduler) -> Iterator[tuple[type[Exception], ...]]:
    """Sets joblib's backend; gives the exceptions that say that a worker is gone."""
    if scheduler.kind == "processes":
        yield (BrokenProcessPool,)
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ImportError(
            "scheduler dask needs Dask: pip install 'samtune[cluster]'", name=error.name
        ) from error
    with (
        Client(scheduler.address) as client,
        joblib.parallel_config("dask", client=client),
    ):
        yield (KilledWorker,)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], parent: int | None) -> Any:
    if parent is not None:
        _end_with(parent)
    return function(*arguments)


_watched: set[int] = set()


def _end_with(parent: int) -> None:
    """End this process when its parent has: loky's workers outlive one that was killed."""
    if parent in _watched or os.name == "nt":  # Windows keeps the number of a parent that is gone
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="samtune-parent-watch").start()

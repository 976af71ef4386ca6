"""One clear line at the end, in place of the chained traces of a config's components."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ignite.engine import Engine

from samtune.training.bundle_call import is_command
from samtune.training.distributed import let_the_first_speak, rank

SHOW_ALL = "SAMTUNE_TRACEBACK"
ENGINES = ("SliceTrainer", "SupervisedEvaluator")  # Ignite names its loggers by them


class _EndOfEngine(logging.Filter):
    """Drops Ignite's lines about an exception that ends an engine: who catches it says so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is another one."""
        return "run is terminating due to exception" not in str(record.msg)


@contextmanager
def quiet_end() -> Iterator[None]:
    """Run engines whose exceptions are told by the caller, once."""
    dropped = _EndOfEngine()
    for logger in _engine_loggers():
        logger.addFilter(dropped)
    try:
        yield
    finally:
        for logger in _engine_loggers():
            logger.removeFilter(dropped)


def _engine_loggers() -> list[logging.Logger]:
    return [logging.getLogger(f"{Engine.__module__}.{name}") for name in ENGINES]


def root_cause(error: BaseException) -> BaseException:
    """What ``error`` was raised from, to the very first."""
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None or not isinstance(error, RuntimeError):
            return error
        error = before


def short_tracebacks() -> None:
    """Let a ``monai.bundle`` command end with the cause of its failure in one line.

    Only errors that tell a user something (``ValueError``, ``OSError``, ``MemoryError``) are
    shortened; with ``SAMTUNE_TRACEBACK=1`` none is. Elsewhere than in that command nothing is
    changed.
    """
    if os.environ.get(SHOW_ALL) or not is_command():
        return
    sys.excepthook = _hook
    for logger in _engine_loggers():
        if not any(isinstance(one, _EndOfEngine) for one in logger.filters):  # once a process
            logger.addFilter(_EndOfEngine())


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = root_cause(error)
    let_the_first_speak(cause)
    where = f" in process {rank()}" if rank() > 0 else ""
    if isinstance(cause, ValueError | OSError | MemoryError):
        hint = f"({SHOW_ALL}=1 shows where it was raised)"
        sys.stderr.write(f"error{where}: {cause}\n{hint}\n")
    elif isinstance(cause, KeyboardInterrupt):
        goes_on = "a training goes on from its last checkpoint by the same command"
        sys.stderr.write(f"interrupted{where}; {goes_on}\n")
    else:
        traceback.print_exception(kind, error, trace)

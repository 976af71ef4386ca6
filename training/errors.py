"""One clear line at the end, in place of the chained traces of a config's components."""

import os
import sys
import traceback
from types import TracebackType

from samtune.training.distributed import let_the_first_speak, rank

SHOW_ALL = "SAMTUNE_TRACEBACK"


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
    program = sys.argv[0].replace("\\", "/")
    if os.environ.get(SHOW_ALL) or not program.endswith("monai/bundle/__main__.py"):
        return
    sys.excepthook = _hook


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

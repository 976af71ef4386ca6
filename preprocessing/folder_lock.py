"""One writer at a time: locks of the operating system, which end with their process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".samtune.lock"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; made when it is missing, and removed again if nothing came of it.

    Raises:
        OSError: another process writes there, or the file system has no locks.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / LOCK_NAME, seconds=0) as is_held:
            if not is_held:
                raise OSError(
                    f"{folder}: another samtune process is writing there; wait for it to end, or "
                    "use another folder"
                )
            yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def locked_case(path: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Hold the record of one case.

    The workers of a killed run end within a second or so: until then they may still be writing
    the case that the next run begins with.

    Args:
        path: ``cases/CASE.json``.
        seconds: how long to wait for the other process.

    Raises:
        OSError: another process writes the case for longer than that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(case_lock_path(path), seconds=seconds) as is_held:
        if not is_held:
            raise OSError(f"{path}: another process has been writing this case for {seconds:g} s")
        yield


def case_lock_path(path: Path) -> Path:
    """Hidden neighbour of ``cases/CASE.json`` that is locked while the case is written."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _locked(path: Path, *, seconds: float) -> Iterator[bool]:
    # no soft lock instead: a file that merely exists would outlive a killed process
    lock = FileLock(path, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if os.name != "nt":  # while it is held: who waits sees that it is gone, and tries anew
            path.unlink(missing_ok=True)
        lock.release()

"""One training in a run's folder at a time: a lock of the operating system."""

import errno
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from samtune.preprocessing.folder_lock import LOCK_NAME
from samtune.training.distributed import is_main

logger = logging.getLogger(__name__)
# what killed processes leave behind ends within these seconds
PATIENCE = 15.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class RunLock:
    """Holds the folder that a run is trained in; within one process any number of times.

    The lock ends with its process, however that ends, and is not passed on to worker processes.
    Of several processes that train one network the first holds it, for all. Who only reads the
    folder needs none.

    Args:
        path: the folder; made when it is missing, and removed again if nothing came of it.
        seconds: how long to wait for another process to end.
    """

    def __init__(self, path: str | Path, *, seconds: float = PATIENCE) -> None:
        self.path = Path(path)
        self.seconds = float(seconds)
        self._let_go: weakref.finalize[..., RunLock] | None = None

    def acquire(self) -> None:
        """Hold the folder until :meth:`release`, or until this object or the process ends.

        Raises:
            OSError: another process trains there, or the folder can't be written.
        """
        if not is_main() or (self._let_go is not None and self._let_go.alive):
            return
        folder = self.path.resolve()  # one lock a folder, whatever it was called
        if folder.exists() and not folder.is_dir():
            msg = f"'{self.path}' is a file, expected the folder of a run"
            raise NotADirectoryError(msg)
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        # no soft lock instead: a file that merely exists would outlive a killed process
        lock = FileLock(
            folder / LOCK_NAME, is_singleton=True, thread_local=False, fallback_to_soft=False
        )
        try:
            try:
                self._wait(lock, folder)
            except FileNotFoundError:  # who held it has removed the folder, which had stayed empty
                self._wait(lock, folder)
        except OSError as error:
            _remove(made)
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning(
                "'%s' is on a file system without locks: don't start this run twice", self.path
            )
            folder.mkdir(parents=True, exist_ok=True)
            return
        self._let_go = weakref.finalize(self, _release, lock, made)

    def release(self) -> None:
        """Let others train there; nothing to do where it isn't held."""
        if self._let_go is not None:
            self._let_go()

    def call(self, function: Callable[[], None]) -> None:
        """Call ``function``, and let go of the folder if it fails."""
        try:
            function()
        except BaseException:
            self.release()
            raise

    def _wait(self, lock: FileLock, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return
        logger.warning(
            "'%s' is held by another process: waiting up to %g s for its end",
            *(self.path, self.seconds),
        )
        try:
            lock.acquire(timeout=self.seconds, poll_interval=0.1)
        except Timeout:
            msg = (
                f"'{self.path}' is being trained by another process: wait for it to end, or "
                "choose another run_name"
            )
            raise OSError(msg) from None


def _release(lock: FileLock, made: list[Path]) -> None:
    if not lock.is_locked:  # in a process that was forked meanwhile: it is its parent's
        return
    if lock.lock_counter == 1 and os.name != "nt":
        # while it is held: who waits sees that it is gone, and tries anew
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    _remove(made)


def _remove(made: list[Path]) -> None:
    """Folders that were made and stayed empty, the innermost first."""
    with suppress(OSError):  # not empty
        for folder in made:
            folder.rmdir()

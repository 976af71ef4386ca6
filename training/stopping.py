"""When a run has to stop before its end: SIGTERM, or its minutes are over."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from samtune.training.distributed import anywhere
from samtune.training.failures import leave_to_guard

logger = logging.getLogger(__name__)
SIGTERM = "SIGTERM"
EXIT_CODE = 128 + int(signal.SIGTERM)  # as a shell says of a process that SIGTERM ended


class Stopping:
    """Notes SIGTERM and the time; :class:`samtune.training.checkpoint.RunCheckpoint` acts on it.

    SIGTERM ends the process at once as long as nothing was trained: before the first iteration
    there is nothing to save. What one of several processes notes stops all.

    Args:
        max_minutes: of one command; ``None``: no limit.

    Raises:
        ValueError: ``max_minutes`` is not positive.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not float(max_minutes) > 0:
            msg = f"max_minutes must be positive or null, got {max_minutes!r}"
            raise ValueError(msg)
        self.max_minutes = None if max_minutes is None else float(max_minutes)
        self.terminated = False
        self._start = time.monotonic()
        self._before: Any = None
        self._installed = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; the checkpoint does it."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._listen)
        engine.add_event_handler(Events.COMPLETED, self._leave)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def reason(self) -> str | None:
        """Why the run has to stop now, or ``None``; of several processes each has to ask."""
        if anywhere(self.terminated):
            self.terminated = True
            return SIGTERM
        if self.max_minutes is None or not anywhere(self.minutes() >= self.max_minutes):
            return None
        return f"max_minutes {self.max_minutes:g}"

    def minutes(self) -> float:
        """Since training started in this process."""
        return (time.monotonic() - self._start) / 60

    def exit_if_terminated(self) -> None:
        """End the command as SIGTERM wants it.

        Raises:
            SystemExit: 143, if the run stopped because of SIGTERM.
        """
        if self.terminated:
            raise SystemExit(EXIT_CODE)

    def _started(self, engine: Engine) -> None:
        self._start, self.terminated = time.monotonic(), False

    def _listen(self, engine: Engine) -> None:
        if self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.signal(signal.SIGTERM, self._note)
        self._installed = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True

    def _leave(self, engine: Engine) -> None:
        if self._installed:
            # None: set by something else than Python, which can't be put back
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._installed = False

    def _failed(self, engine: Engine, error: Exception) -> None:
        self._leave(engine)
        leave_to_guard(engine, error)

"""Processes that hold the folder of a run: ``python -m tests.training.lock_holder``.

The parent imports once and holds nothing. A line is JSON: ``path``, ``seconds``, ``worker``. A fork
takes the lock, answers with a line (``pid``, ``worker``, ``error``), and lives until it is ended.
"""

import json
import os
import signal
import sys
from typing import Any

from samtune.training.run_lock import RunLock


def hold(path: str, seconds: float = 0.0, worker: bool = False) -> None:
    answer: dict[str, Any] = {"pid": os.getpid(), "worker": None, "error": None}
    lock = RunLock(path, seconds=seconds)
    try:
        lock.acquire()
    except OSError as error:
        answer["error"] = str(error)
    if worker:
        answer["worker"] = os.fork()
        if answer["worker"] == 0:
            signal.pause()
    print(json.dumps(answer), flush=True)  # noqa: T201
    if answer["error"] is None:
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
            hold(**json.loads(line))
            break

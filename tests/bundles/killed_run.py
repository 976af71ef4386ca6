"""Trains in child processes that are killed: ``python -m tests.bundles.killed_run``.

It reads a task a line (JSON: ``runs_dir``, ``settings``, ``steps``) and answers each with a line.
The parent imports everything once and never computes, so that its children, which are forks, start
at once and as a new process would. A moment is the number of an event: an iteration or epoch of
training, or a file that is written, about to be moved to its place, or there.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.tensorboard  # imported here, not in each child
from ignite.engine import Events
from monai.bundle import create_workflow

import samtune.atomic
import samtune.training.checkpoint
import samtune.training.handlers
from samtune.networks.architectures import ARCHITECTURES
from samtune.training.paths import bundle_root
from tests.tiny_encoders import SMALL_TINY_VIT


class Moments:
    """Counts events and ends the process at one of them.

    Args:
        deadly: its number, from 1; 0: none.
        number: of the signal.
    """

    def __init__(self, deadly: int, number: int) -> None:
        self.deadly = deadly
        self.number = number
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.deadly:
            os.kill(os.getpid(), self.number)

    def listen(self, trainer: Any) -> None:
        for event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
            trainer.add_event_handler(event, lambda engine, name=event.name: self(name))
        replace, save = os.replace, torch.save

        def replaced(source: Any, target: Any) -> None:
            self(f"before {Path(target).name}")
            replace(source, target)
            self(f"after {Path(target).name}")

        def saved(state: Any, file: Any) -> None:
            file.write(b"half")
            self("within checkpoint.pt")
            file.seek(0)
            file.truncate()
            save(state, file)

        samtune.atomic.os.replace = replaced  # type: ignore[attr-defined]
        samtune.training.checkpoint.torch.save = saved  # type: ignore[assignment]


def train(settings: dict[str, Any], moments: Moments) -> None:
    """As ``monai.bundle run training`` does."""
    workflow = create_workflow(
        config_file=f"{bundle_root('sam_finetune')}/configs/train.yaml",
        run_id="training",
        logging_file=False,
        **settings,
    )
    moments.listen(workflow.parser.get_parsed_content("train::trainer"))
    workflow.run()


def child(settings: dict[str, Any], deadly: int, number: int, log: Path) -> int:
    """Start one; the exit status of its end is for :func:`os.waitpid`."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.dup2(2, 1)  # answers go there
        seed = os.getpid()  # whatever a process starts with
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        moments = Moments(deadly, number)
        train(settings, moments)
        log.write_text(json.dumps(moments.names))
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException as error:
        sys.stderr.write(f"{error!r} from {error.__cause__!r}\n")
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Exit code; of a signal its negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def answer(task: dict[str, Any]) -> list[dict[str, Any]]:
    log = Path(task["runs_dir"]) / "events.json"
    results = []
    for step in task["steps"]:
        settings = {**task["settings"], "runs_dir": task["runs_dir"], **step["settings"]}
        began = time.monotonic()
        number = int(getattr(signal, step.get("signal", "SIGKILL")))
        pid = child(settings, step.get("moment", 0), number, log)
        if "seconds" in step:
            time.sleep(step["seconds"])
            os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        events = json.loads(log.read_text()) if code == 0 else []
        results.append({"code": code, "events": events, "seconds": time.monotonic() - began})
    return results


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ARCHITECTURES["tiny_vit"] = SMALL_TINY_VIT
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201

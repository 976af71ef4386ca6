"""What a run leaves behind at the end of each epoch, and how it goes on from there."""

import logging
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from samtune.atomic import whole_file
from samtune.peft.adapt import load_trained_state, trained_state
from samtune.peft.adapter_file import save_adapter
from samtune.training.network import AdaptedSegmenter
from samtune.training.task import Task

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"


class RunCheckpoint:
    """Saves and restores a run at the ends of epochs.

    After each epoch: ``adapter_last.safetensors``; ``adapter_best.safetensors`` when the validation
    metric rose; ``checkpoint.pt`` with optimizer, schedule, epoch and random state. When a
    checkpoint is there at the start, training goes on from it and ends with the weights of an
    undisturbed run.

    Args:
        path: the run's folder.
        network, optimizer, lr_scheduler: what is trained.
        validator, metric: the evaluator that runs before this handler, and its key metric, higher
            is better.
        task: goes into the adapter files.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        network: AdaptedSegmenter,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        validator: Engine,
        metric: str,
        task: Task,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.validator = validator
        self.metric = metric
        self.task = task
        self.best = -math.inf

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, as the last handler."""
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _resume(self, engine: Engine) -> None:
        file = self.path / CHECKPOINT
        if not file.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            msg = f"'{file}' can't be read, it may be truncated; remove it to train from the start"
            raise ValueError(msg) from error
        own = trained_state(self.network)
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if shapes != {name: tensor.shape for name, tensor in state["trained"].items()}:
            msg = f"'{file}' is of another network: its trained tensors differ"
            raise ValueError(msg)
        load_trained_state(self.network, state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.best = state["best"]
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        logger.info("resumed from epoch %d of '%s'", state["epoch"], file)

    def _save(self, engine: Engine) -> None:
        extra = {"epoch": engine.state.epoch, "task": self.task.to_dict()}
        value = self.validator.state.metrics.get(self.metric, math.nan)
        validated = self.validator.state.epoch == engine.state.epoch
        if validated:
            extra[self.metric] = value
        if validated and value > self.best:
            self.best = float(value)
            self._save_adapter("best", extra)
        self._save_adapter("last", extra)
        state = {
            "trained": trained_state(self.network),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "best": self.best,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with whole_file(self.path / CHECKPOINT) as partial:
            torch.save(state, partial)

    def _save_adapter(self, which: str, extra: dict[str, Any]) -> None:
        path = self.path / f"adapter_{which}.safetensors"
        save_adapter(path, self.network, peft=self.network.peft, extra=extra)

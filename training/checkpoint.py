"""What a run leaves behind at the end of each epoch, and how it goes on from there."""

import logging
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from samtune.atomic import whole_file
from samtune.peft.adapt import load_trained_state, trained_state
from samtune.peft.adapter_file import save_adapter
from samtune.training.distributed import gather, main_only, rank, world_size
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

    Of several processes rank 0 writes, and all go on from its file, also another number of them:
    dropout then draws anew.

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
        found = gather(file.is_file())
        if not all(found):
            if any(found):
                msg = f"'{file}' is there for some processes only: all need one file system"
                raise ValueError(msg)
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
        self._restore_chance(state)
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        length = engine.state.epoch_length
        if length is not None and state["iteration"] != state["epoch"] * length:
            self._recount(engine, state["epoch"] * length)
        logger.info("resumed from epoch %d of '%s'", state["epoch"], file)

    def _recount(self, engine: Engine, iteration: int) -> None:
        """Another number of processes takes another number of steps to where the run is."""
        engine.state.iteration = iteration
        self.lr_scheduler.last_epoch = iteration - 1
        self.lr_scheduler.step()  # the rate of the next iteration

    def _restore_chance(self, state: dict[str, Any]) -> None:
        """Random state as this process left it; of another number of processes it is nobody's."""
        of_all = [state, *state.get("chance_of_others", [])]
        if len(of_all) != world_size():
            return
        own = of_all[rank()]
        torch.set_rng_state(own["rng"])
        if not torch.cuda.is_available() or not own["cuda_rng"]:
            return
        if world_size() > 1:
            torch.cuda.set_rng_state(own["cuda_rng"][0])
        else:
            torch.cuda.set_rng_state_all(own["cuda_rng"])

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
            **_chance(),
            "chance_of_others": gather(_chance())[1:],
        }
        self._write(state)

    @main_only
    def _write(self, state: dict[str, Any]) -> None:
        with whole_file(self.path / CHECKPOINT) as partial:
            torch.save(state, partial)

    @main_only
    def _save_adapter(self, which: str, extra: dict[str, Any]) -> None:
        path = self.path / f"adapter_{which}.safetensors"
        save_adapter(path, self.network, peft=self.network.peft, extra=extra)


def _chance() -> dict[str, Any]:
    """Random state of this process."""
    cuda: list[Tensor] = []
    if torch.cuda.is_available():
        # of several processes each has its own GPU, and no business on the others
        several = world_size() > 1
        cuda = [torch.cuda.get_rng_state()] if several else torch.cuda.get_rng_state_all()
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}

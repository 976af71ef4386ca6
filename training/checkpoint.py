"""What a run leaves behind at the end of each epoch and within, and how it goes on from there."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from samtune.atomic import whole_file
from samtune.peft.adapt import load_trained_state, trained_state
from samtune.training.chance import random_state, restore_random_state
from samtune.training.distributed import anywhere, gather, main_only, rank, world_size
from samtune.training.network import AdaptedSegmenter
from samtune.training.rest_of_epoch import RestOfEpoch
from samtune.training.run_adapters import RunAdapters
from samtune.training.schedule import num_updates
from samtune.training.stopping import SIGTERM, Stopping
from samtune.training.task import Task

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
_KEPT = "samtune_kept"


class Stateful(Protocol):
    """What can be kept in a checkpoint; its state is of plain types and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from it."""


def keep_state(engine: Engine, name: str, part: Stateful) -> None:
    """Have the state of ``part``, e.g. of another handler, saved and restored with a trainer's."""
    kept: dict[str, Stateful] = engine.__dict__.setdefault(_KEPT, {})
    kept[name] = part


class RunCheckpoint:
    """Saves and restores a run.

    After each epoch: ``checkpoint.pt``, from which the same command goes on and ends with the
    weights of an undisturbed run; then ``adapter_best.safetensors`` when the validation metric rose
    and ``adapter_last.safetensors``. Within an epoch ``checkpoint.pt`` alone. All that training
    depends on is in it: trained tensors, optimizer, schedule, scaler, random generators, the
    position in the epoch, and what :func:`keep_state` was given. An adapter that a kill left out
    is written when the run goes on.

    Of several processes rank 0 writes, for all of them: what is each one's own (chance, position in
    the curve, gradients of an open accumulation) is in the file by rank. They stop together. After
    an epoch another number of processes may go on: dropout then draws anew.

    Args:
        path: the run's folder.
        network, optimizer, lr_scheduler: what is trained.
        validator, metric: the evaluator that runs before this handler, and its key metric, higher
            is better.
        task: goes into the adapter files.
        run_id: of :class:`samtune.training.run_folder.RunFolder`; a checkpoint of another is
            refused. ``None``: not compared.
        minutes: between checkpoints within an epoch; 0: after each iteration; ``None``: none.
        stopping: when to end before time; ``None``: never.
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
        run_id: str | None = None,
        minutes: float | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.validator = validator
        self.metric = metric
        self.task = task
        self.run_id = run_id
        self.minutes = None if minutes is None else float(minutes)
        self.stopping = Stopping() if stopping is None else stopping
        self.adapters = RunAdapters(self.path, network)
        self.best = -math.inf
        self._saved_at = 0.0
        self._epoch_chance: dict[str, Any] = {}
        self._within: dict[str, Any] | None = None  # the checkpoint whose epoch is taken up
        self._rest: RestOfEpoch | None = None
        self._loader: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, as the last handler."""
        self.stopping.attach(engine)
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._take_up)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    # Going on

    def _resume(self, engine: Engine) -> None:
        self._within, self._saved_at = None, time.monotonic()
        file = self.path / CHECKPOINT
        found = gather((file.is_file(), self.run_id))
        self.run_id = found[0][1]
        if not all(is_there for is_there, _ in found):
            if any(is_there for is_there, _ in found):
                msg = f"'{file}' is there for some processes only: all need one file system"
                raise ValueError(msg)
            return
        state = self._read(file, engine)
        own = _own_part(state)
        load_trained_state(self.network, state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        self._restore_gradients((own or state).get("gradients", {}))
        kept: dict[str, Stateful] = getattr(engine, _KEPT, {})
        for name, value in (own or state).get("kept", {}).items():
            if name in kept:
                kept[name].load_state_dict(value)
        self.best = state["best"]
        self._write_left_out(state)
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        if "epoch_chance" in state:
            self._within = {**state, **(own or {})}
        elif own is not None:
            restore_random_state(_chance_of(own))
        self._recount(engine)
        epochs = engine.state.max_epochs or 0
        if state.get("finished", False) or state["epoch"] >= epochs:
            logger.info("finished: '%s' has %d epochs, nothing to do", self.path, state["epoch"])
            engine.terminate()
            return
        logger.info(
            "resumed from iteration %d, epoch %d, of '%s'",
            *(engine.state.iteration, state["epoch"] + (self._within is not None), file),
        )
        if state.get("max_epochs", epochs) != epochs:
            logger.warning(
                "epochs was %d, now %d: the learning rate goes on along the schedule of %d epochs; "
                "the result is not that of a run with this number from the start",
                *(state["max_epochs"], epochs, epochs),
            )

    def _read(self, file: Path, engine: Engine) -> dict[str, Any]:
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
        if self.run_id is not None and state.get("run_id", self.run_id) != self.run_id:
            msg = (
                f"'{file}' is of another run (id {state['run_id']}) than run.json beside it (id "
                f"{self.run_id}); put the right one there, or remove it to train from the start"
            )
            raise ValueError(msg)
        length = engine.state.epoch_length
        if "epoch_chance" in state and (
            state["epoch_length"] != length or _own_part(state) is None
        ):
            msg = (
                f"'{file}' was saved within an epoch of {state['epoch_length']} iterations, here "
                f"an epoch has {length}: batch size or number of processes differ "
                f"({1 + len(state.get('others', []))} then, {world_size()} now)"
            )
            raise ValueError(msg)
        return state

    @main_only
    def _write_left_out(self, state: dict[str, Any]) -> None:
        for which, extra in state.get("adapters", {}).items():
            if not self.adapters.is_written(which, extra, state["trained"]):
                logger.info("adapter_%s is written again, as its checkpoint has it", which)
                self.adapters.save(which, extra)

    def _recount(self, engine: Engine) -> None:
        """Another number of processes takes another number of steps to where the run is."""
        length = engine.state.epoch_length
        if self._within is not None or length is None:
            return
        if engine.state.iteration == engine.state.epoch * length:
            return
        engine.state.iteration = engine.state.epoch * length
        steps = num_updates(length, int(getattr(engine, "accumulation_steps", 1)))
        self.lr_scheduler.last_epoch = engine.state.epoch * steps - 1
        self.lr_scheduler.step()  # the rate of the next step

    def _begin_epoch(self, engine: Engine) -> None:
        if self._within is not None:
            # what is drawn when the loader's iterator is made is drawn from this
            restore_random_state(self._within["epoch_chance"])
            done = self._within["iteration"] - self._within["epoch"] * self._within["epoch_length"]
            self._loader = engine.state.dataloader
            self._rest = RestOfEpoch(self._loader, done)
            engine.state.dataloader = self._rest.loader
        self._epoch_chance = random_state()

    def _take_up(self, engine: Engine) -> None:
        if self._within is not None and self._rest is not None:
            self._rest.skip()
            engine.state.dataloader = self._loader  # of the epochs to come
            restore_random_state(_chance_of(self._within))
            self._within = self._rest = self._loader = None

    def _restore_gradients(self, gradients: Mapping[str, torch.Tensor | None]) -> None:
        """Gradients of an open accumulation, and zeros where a gradient was left at zero.

        Optimizers pass over parameters that have none, not over those that have zeros.
        """
        for name, gradient in gradients.items():
            parameter = self.network.get_parameter(name)
            parameter.grad = torch.zeros_like(parameter)
            if gradient is not None:
                parameter.grad.copy_(gradient)

    # Saving

    def _after_iteration(self, engine: Engine) -> None:
        if _ends_epoch(engine):
            return  # saved after validation
        reason = self.stopping.reason()
        if reason is None and not self._is_due():
            return
        # minutes that are over leave an adapter to use; SIGTERM leaves no time to write one
        extra = {"epoch": engine.state.epoch - 1, "task": self.task.to_dict()}
        extra["iteration"] = engine.state.iteration
        timed = reason not in (None, SIGTERM)
        self._write(engine, adapters={"last": extra} if timed else {}, within=True)
        if reason is not None:
            self._stop(engine, reason)

    def _after_epoch(self, engine: Engine) -> None:
        self._save(engine)
        reason = self.stopping.reason()
        if reason is not None and engine.state.epoch < (engine.state.max_epochs or 0):
            self._stop(engine, reason)

    def _is_due(self) -> bool:
        since = (time.monotonic() - self._saved_at) / 60
        return self.minutes is not None and anywhere(since >= self.minutes)

    def _save(self, engine: Engine) -> None:
        extra = {"epoch": engine.state.epoch, "task": self.task.to_dict()}
        value = self.validator.state.metrics.get(self.metric, math.nan)
        adapters = {"last": extra}
        if self.validator.state.epoch == engine.state.epoch:
            extra[self.metric] = value
            if value > self.best or (math.isnan(value) and self.best == -math.inf):
                # NaN: no class was to be found, any epoch is as good until one is
                self.best = -math.inf if math.isnan(value) else float(value)
                adapters = {"best": extra, "last": extra}
        self._write(engine, adapters=adapters, within=False)

    def _write(self, engine: Engine, *, adapters: dict[str, dict[str, Any]], within: bool) -> None:
        """The checkpoint, then the adapters that belong to it: it can make them again."""
        kept: dict[str, Stateful] = getattr(engine, _KEPT, {})
        own: dict[str, Any] = {
            "chance": random_state(),
            "gradients": self._gradients(engine),
            "kept": {name: part.state_dict() for name, part in kept.items()},
        }
        if within:
            own["epoch_chance"] = self._epoch_chance
        first, *others = gather(own)
        state: dict[str, Any] = {
            **first,
            "others": others,
            "run_id": self.run_id,
            "trained": trained_state(self.network),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "best": self.best,
            "epoch": engine.state.epoch - within,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "max_epochs": engine.state.max_epochs,
            # ended by another handler: early stopping
            "finished": not within and bool(engine.should_terminate),
            "adapters": adapters,
        }
        scaler = getattr(engine, "scaler", None)
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        self._write_files(state)
        self._saved_at = time.monotonic()

    @main_only
    def _write_files(self, state: dict[str, Any]) -> None:
        with whole_file(self.path / CHECKPOINT) as partial:
            _save_state(state, partial)
        for which, extra in state["adapters"].items():
            self.adapters.save(which, extra)

    def _gradients(self, engine: Engine) -> dict[str, torch.Tensor | None]:
        number = int(getattr(engine, "accumulation_steps", 1))
        length = engine.state.epoch_length or 1
        is_open = not _ends_epoch(engine) and engine.state.iteration % length % number != 0
        return {
            name: _to_gather(parameter.grad) if is_open else None
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad and parameter.grad is not None
        }

    # Stopping

    def _stop(self, engine: Engine, reason: str) -> None:
        total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        logger.warning(
            "stopped by %s at iteration %d of %d, saved in '%s': the same command goes on%s",
            *(reason, engine.state.iteration, total, self.path),
            "" if self.adapters.has("best") else "; there is no adapter_best yet",
        )
        engine.terminate()

    def _completed(self, engine: Engine) -> None:
        engine.should_terminate = False  # else a second run() in this process miscounts its epoch


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as opened:
            torch.save(state, opened)
    except RuntimeError as error:  # torch's own of a file that could not be written whole
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror) from error
        raise


def _to_gather(gradient: torch.Tensor) -> torch.Tensor:
    """Of several processes on the processor: the GPU it is on is that of another."""
    return gradient if world_size() == 1 else gradient.cpu()


def _own_part(state: dict[str, Any]) -> dict[str, Any] | None:
    """What this process left there; of another number of processes it is nobody's: ``None``."""
    parts = [state, *state.get("others", [])]
    return parts[rank()] if len(parts) == world_size() else None


def _ends_epoch(engine: Engine) -> bool:
    return engine.state.iteration % (engine.state.epoch_length or 1) == 0


def _chance_of(state: Mapping[str, Any]) -> dict[str, Any]:
    if "chance" in state:
        return dict(state["chance"])
    # of a run from before NumPy's and Python's generators were kept
    return random_state() | {"torch": state["rng"], "cuda": state["cuda_rng"]}

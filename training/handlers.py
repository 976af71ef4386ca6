"""Ignite handlers of a training run: clipping, schedule, epochs, curve, progress."""

import csv
import io
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from samtune.atomic import write_atomically
from samtune.training.case_dice import CaseDice
from samtune.training.checkpoint import keep_state
from samtune.training.distributed import barrier, is_main, main_only, mean, rank, world_size
from samtune.training.failures import leave_to_guard
from samtune.training.features import SliceDataset
from samtune.training.trainer import StepEvents, step_output

logger = logging.getLogger(__name__)


class ClipGradients:
    """Clips the norm of all gradients before the optimizer's step.

    Args:
        max_norm: ``None``: no clipping.
    """

    def __init__(self, max_norm: float | None) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        assert self.max_norm is not None
        parameters = [p for p in engine.network.parameters() if p.grad is not None]  # type: ignore[attr-defined]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)


class StepSchedule:
    """Steps a learning-rate schedule with each step of a :class:`SliceTrainer`'s optimizer."""

    def __init__(self, lr_scheduler: LRScheduler) -> None:
        self.lr_scheduler = lr_scheduler

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(StepEvents.OPTIMIZER_STEPPED, self._step)

    def _step(self, engine: Engine) -> None:
        self.lr_scheduler.step()


class SetEpoch:
    """Tells samplers and datasets which epoch begins: order and draws depend on it alone."""

    def __init__(self, targets: list[Any]) -> None:
        self.targets = targets

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._set)

    def _set(self, engine: Engine) -> None:
        for target in self.targets:
            target.set_epoch(engine.state.epoch)


class FillCache:
    """Fills feature caches on disk before worker processes start: those only read.

    Several training processes share the work: each fills its part, then finds the others'.

    Args:
        datasets: see :class:`samtune.training.features.SliceDataset`.
        num_workers: of their loaders; 0: each dataset fills its cache when it is used first.
    """

    def __init__(self, datasets: list[SliceDataset], num_workers: int) -> None:
        self.datasets = datasets
        self.num_workers = num_workers

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._fill)

    def _fill(self) -> None:
        on_disk = [dataset for dataset in self.datasets if dataset.disk is not None]
        if world_size() > 1:
            for dataset in on_disk:
                dataset.fill(range(rank(), len(dataset), world_size()))
            barrier()
        for dataset in on_disk:
            if self.num_workers > 0 or world_size() > 1:
                dataset.fill()


class Curve:
    """Writes ``curve.csv``, one row an epoch: loss, learning rate, validation Dice, seconds.

    A resumed run goes on with the rows that are there of the epochs before. Of several processes
    the loss is the mean, the seconds are rank 0's, which writes.

    Args:
        path: the file.
        validator: the evaluator that runs at the end of an epoch, before this handler.
        dice: its metric.
        optimizer: whose learning rate is written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        validator: Engine,
        dice: CaseDice,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.path = Path(path)
        self.validator = validator
        self.dice = dice
        self.optimizer = optimizer
        self._rows: list[dict[str, str]] | None = None
        self._epoch = 0
        self._losses: list[float] = []
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The part of the epoch's row that is there."""
        seconds = time.perf_counter() - self._start
        return {"epoch": self._epoch, "losses": list(self._losses), "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on within that epoch."""
        self._epoch, self._losses = state["epoch"], list(state["losses"])
        self._start = time.perf_counter() - state["seconds"]

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the validation handler."""
        keep_state(engine, "curve", self)
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _reset(self, engine: Engine) -> None:
        self._rows, self._epoch = None, 0

    def _rows_before(self, epoch: int) -> list[dict[str, str]]:
        if epoch == 1 or not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]

    def _begin(self, engine: Engine) -> None:
        if self._rows is None:  # not at STARTED: a checkpoint may set the epoch after us there
            self._rows = self._rows_before(engine.state.epoch)
        if self._epoch != engine.state.epoch:  # else it was resumed within
            self._epoch, self._losses = engine.state.epoch, []
            self._start = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        self._losses.append(float(step_output(engine)["loss"]))

    def _write(self, engine: Engine) -> None:
        loss = mean(sum(self._losses) / max(len(self._losses), 1))
        self._write_row(engine, loss)

    @main_only
    def _write_row(self, engine: Engine, loss: float) -> None:
        validated = self.validator.state.epoch == engine.state.epoch
        dice = self.dice.per_class if validated else {}
        known = [value for value in dice.values() if not math.isnan(value)]
        row = {
            "epoch": str(engine.state.epoch),
            "iteration": str(engine.state.iteration),
            "train_loss": f"{loss:.6g}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.6g}",
            "val_dice": f"{sum(known) / len(known):.6g}" if known else "",
            **{f"val_dice_{name}": "" for name in self.dice.class_names},
            **{f"val_dice_{name}": f"{value:.6g}" for name, value in dice.items()},
            "seconds": f"{time.perf_counter() - self._start:.1f}",
        }
        assert self._rows is not None
        self._rows.append(row)
        keys = ("train_loss", "val_dice", "seconds")
        facts = ", ".join(f"{key} {row[key]}" for key in keys if row[key])
        logger.info("epoch %d of %s: %s", engine.state.epoch, engine.state.max_epochs, facts)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, text.getvalue().encode())


class Progress:
    """One progress bar over the iterations, on stderr; off when that is not a terminal.

    Args:
        what: text before the bar.
        show: ``None``: when stderr is a terminal, of several processes in the first.
    """

    def __init__(self, what: str = "training", show: bool | None = None) -> None:
        self.what = what
        self.show = sys.stderr.isatty() and is_main() if show is None else show
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or evaluator."""
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _reset(self, engine: Engine) -> None:
        self._bar = None

    def _open(self, engine: Engine) -> None:
        if self._bar is not None:
            return
        state = engine.state  # not at STARTED: a checkpoint may set the iteration after us there
        total = (state.max_epochs or 1) * (state.epoch_length or 0)
        self._bar = tqdm(
            total=total or None, desc=self.what, disable=not self.show, initial=state.iteration
        )

    def _advance(self, engine: Engine) -> None:
        output = step_output(engine)
        if "loss" in output:
            self._bar.set_postfix(loss=f"{float(output['loss']):.3f}", refresh=False)
        self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()

    def _failed(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        leave_to_guard(engine, error)

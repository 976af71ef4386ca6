"""MONAI's trainer with gradient accumulation that is right at an epoch's end, and loss scaling."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from ignite.engine import Engine, EventEnum
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from samtune.training.precision import AutocastInferer, Precision
from samtune.training.schedule import num_updates


class StepEvents(EventEnum):
    """``OPTIMIZER_STEPPED``: the weights were changed; not once a batch with accumulation."""

    OPTIMIZER_STEPPED = "optimizer_stepped"


def step_output(engine: Engine) -> Mapping[str, Any]:
    """What the engine's last step gave; of a decollated batch that of its first slice."""
    output: Any = engine.state.output
    first: Mapping[str, Any] = output[0] if isinstance(output, list) else output
    return first


class SliceTrainer(SupervisedTrainer):
    """Supervised training, a step of the optimizer every ``accumulation_steps`` batches.

    The gradient of a step is that of the mean over all its samples: a batch counts by its share of
    them, also in an epoch's last step, which may have fewer batches, the last one smaller. No step
    reaches over the end of an epoch. For a loss that is a mean over samples this is the gradient of
    the one large batch; Dice over the batch is taken over each batch by itself.

    ``IterationEvents.BACKWARD_COMPLETED`` is fired once a step, when all its gradients are there,
    unscaled: what clips or looks at gradients sees those of the step. ``scaler`` is there from the
    start of a run with ``fp16`` on, else ``None``.

    Args:
        accumulation_steps: batches a step.
        precision: what the network computes in; ``fp16`` scales the loss.
        options: further ones of MONAI's ``SupervisedTrainer``, but for ``amp``.

    Raises:
        ValueError: ``accumulation_steps`` is below 1.
    """

    def __init__(
        self, *, accumulation_steps: int = 1, precision: Precision = "float32", **options: Any
    ) -> None:
        num_updates(1, accumulation_steps)  # refuses what is no number of batches
        events = [*(options.pop("event_names", None) or []), StepEvents]
        super().__init__(**options, accumulation_steps=int(accumulation_steps), event_names=events)
        self.precision = precision
        self.inferer = AutocastInferer(self.inferer, precision, self.state.device)

    def run(self) -> None:  # type: ignore[override]  # as MONAI's: the loader is known
        """Train."""
        # Differs from MONAI: it scales whenever amp is on, also bf16, and on CUDA alone
        is_scaled = self.precision == "fp16"
        scaler: Any = torch.amp.GradScaler(self.state.device.type) if is_scaled else None
        self.scaler = scaler
        Workflow.run(self)

    def group(self, iteration: int) -> tuple[bool, bool, float]:
        """Of an iteration (from 1): is it the first of its step, the last, and its share of it."""
        length = self.state.epoch_length
        position = (iteration - 1) % length
        start = position - position % self.accumulation_steps
        stop = min(start + self.accumulation_steps, length)
        if stop - start == 1:
            return True, True, 1.0
        sizes = [self._batch_size(at) for at in range(start, stop)]
        share = sizes[position - start] / sum(sizes)
        return position == start, position == stop - 1, share

    def _batch_size(self, position: int) -> int:
        """Samples of a batch of the epoch; 1 where the loader doesn't say: all alike."""
        loader = self.data_loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            return 1
        try:
            number = len(loader.sampler)  # type: ignore[arg-type]
        except TypeError:
            return 1
        left = number - position * loader.batch_size
        return max(min(loader.batch_size, left), 1)

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        inputs, targets, args, kwargs = engine.prepare_batch(
            batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        is_first, is_last, share = self.group(engine.state.iteration)
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
        engine.network.train()
        if is_first:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with self._synchronised(is_last):
            pred = engine.inferer(inputs, engine.network, *args, **kwargs)
            engine.state.output[CommonKeys.PRED] = pred
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            loss = engine.loss_function(pred, targets).mean()
            engine.state.output[CommonKeys.LOSS] = loss
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
            self._backward(loss if share == 1 else loss * share)
        if is_last:
            self._step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        out: dict[str, Any] = engine.state.output
        return out

    def _backward(self, loss: Tensor) -> None:
        scaled: Any = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def _step(self) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.scaler is None:
            self.optimizer.step()
            self.fire_event(StepEvents.OPTIMIZER_STEPPED)
            return
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else a gradient was infinite: nothing was done
            self.fire_event(StepEvents.OPTIMIZER_STEPPED)

    @contextmanager
    def _synchronised(self, now: bool) -> Iterator[None]:
        """Between processes gradients are averaged once a step, not once a batch."""
        network: Any = self.network
        waits = isinstance(network, DistributedDataParallel) and not now
        with network.no_sync() if waits else nullcontext():
            yield


class SliceEvaluator(SupervisedEvaluator):
    """MONAI's evaluator with mixed precision on any device.

    Args:
        precision: what the network computes in.
        options: of MONAI's ``SupervisedEvaluator``, but for ``amp``.
    """

    def __init__(self, *, precision: Precision = "float32", **options: Any) -> None:
        super().__init__(**options)
        self.inferer = AutocastInferer(self.inferer, precision, self.state.device)

"""Ends a run whose validation metric no longer rises."""

import logging
import math
from typing import Any

from ignite.engine import Engine, Events

from samtune.training.checkpoint import keep_state

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends training after ``patience`` validations in a row without a new best value.

    The epoch's other handlers still run, the checkpoint is written. ``state_dict`` holds what a
    resumed run needs to stop where an undisturbed one does; a run that has stopped stays so.

    Args:
        patience: validations; ``None``: never.
        validator, metric: the evaluator that runs before this handler, and its key metric, higher
            is better; NaN is no new best.

    Raises:
        ValueError: ``patience`` is below 1.
    """

    def __init__(self, patience: int | None, *, validator: Engine, metric: str) -> None:
        if patience is not None and (
            isinstance(patience, bool) or not isinstance(patience, int) or patience < 1
        ):
            msg = f"early_stopping must be null or a number of validations >= 1, got {patience!r}"
            raise ValueError(msg)
        self.patience = patience
        self.validator = validator
        self.metric = metric
        self.best = -math.inf
        self.waited = 0

    @property
    def has_stopped(self) -> bool:
        """Was the patience used up?"""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Best value, and validations since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.waited = float(state["best"]), int(state["waited"])

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the validation handler and before the checkpoint."""
        if self.patience is not None:
            keep_state(engine, "early_stopping", self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            return  # not validated in this epoch
        value = float(self.validator.state.metrics.get(self.metric, math.nan))
        if value > self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.has_stopped:
            logger.info(
                "stopped after epoch %d: %s has not risen above %.4g for %d validations",
                *(engine.state.epoch, self.metric, self.best, self.waited),
            )
            engine.terminate()

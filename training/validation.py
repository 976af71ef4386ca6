"""The validation that ends a run."""

from ignite.engine import Engine, Events


class LastValidation:
    """Validates after the last epoch where MONAI's ``ValidationHandler`` doesn't.

    With ``val_interval: 2`` that is a run of an odd number of epochs: it would end unvalidated, and
    one of a single epoch without a best adapter.

    Args:
        validator: the evaluator.
        interval: epochs between the validations of the other handler.
    """

    def __init__(self, validator: Engine, interval: int) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            msg = f"val_interval must be a whole number of epochs from 1, got {interval!r}"
            raise ValueError(msg)
        self.validator = validator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, next to the other handler."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs and epoch % self.interval != 0:
            self.validator.run(epoch)  # type: ignore[arg-type]  # MONAI's takes the epoch

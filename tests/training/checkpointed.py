"""A training with the handlers that decide about weights."""

from ignite.engine import Events
from monai.handlers import LrScheduleHandler, ValidationHandler

from samtune.training.checkpoint import RunCheckpoint
from samtune.training.handlers import SetEpoch


def attach(training, path, *, interval=1, **options):
    """The handlers of train.yaml that decide about weights, in its order."""
    checkpoint = RunCheckpoint(
        path,
        network=training.network,
        optimizer=training.optimizer,
        lr_scheduler=training.lr_scheduler,
        validator=training.validator,
        metric="val_dice",
        task=training.task,
        **options,
    )
    for handler in (
        SetEpoch([training.sampler, training.dataset]),
        LrScheduleHandler(training.lr_scheduler, print_lr=False, epoch_level=False),
        ValidationHandler(interval=interval, validator=training.validator, epoch_level=True),
        checkpoint,
    ):
        handler.attach(training.trainer)
    return checkpoint


class StoppedError(Exception):
    pass


def stop_at(training, iteration):
    @training.trainer.on(Events.ITERATION_COMPLETED(once=iteration))
    def stop(engine):
        raise StoppedError

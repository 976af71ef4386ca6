"""A training with the handlers that decide about weights."""

import pytest
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


def run_until(training, *, iteration=None, epoch=None):
    """Train up to the end of an iteration or epoch, the checkpoint's part of it included."""

    def stop():
        raise StoppedError

    each, last = (
        (Events.EPOCH_COMPLETED, epoch)
        if iteration is None
        else (Events.ITERATION_COMPLETED, iteration)
    )
    training.trainer.add_event_handler(each(once=last), stop)
    with pytest.raises(StoppedError):
        training.trainer.run()

import pytest
from ignite.engine import Engine, Events

from samtune.training.validation import LastValidation


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"), [(1, 2, [1]), (4, 2, []), (5, 2, [5]), (3, 1, [])]
)
def test_the_last_epoch_is_validated_where_the_interval_leaves_it_out(epochs, interval, expected):
    class Validator:
        epochs: list[int] = []  # noqa: RUF012

        def run(self, epoch):
            self.epochs.append(epoch)

    validator, trainer = Validator(), Engine(lambda engine, batch: None)
    validator.epochs = []
    LastValidation(validator, interval).attach(trainer)
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(list(validator.epochs)))
    trainer.run([0], max_epochs=epochs)
    assert validator.epochs == expected
    assert seen[-1] == expected  # before what is registered after it


@pytest.mark.parametrize("interval", [0, -1, 1.5, True, "2"])
def test_an_interval_that_is_none(interval):
    with pytest.raises(ValueError, match="val_interval must be a whole number of epochs from 1"):
        LastValidation(None, interval)

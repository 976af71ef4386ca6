import math

import pytest
from ignite.engine import Engine, Events

from samtune.training.early_stopping import EarlyStopping


def run(values, patience, *, interval=1, state=None, after=0):
    """Epochs that a run lasts whose validations give these values."""
    validator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)
    stopping = EarlyStopping(patience, validator=validator, metric="val_dice")
    if state is not None:
        stopping.load_state_dict(state)
    finished = []

    @trainer.on(Events.EPOCH_COMPLETED(every=interval))
    def validate():
        validator.state.epoch = trainer.state.epoch
        validator.state.metrics = {"val_dice": values[trainer.state.epoch - 1 + after]}

    stopping.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: finished.append(trainer.state.epoch))
    trainer.run([0], max_epochs=len(values) - after)
    return len(finished), stopping


def test_it_ends_after_validations_without_a_new_best():
    values = [0.1, 0.5, 0.4, 0.5, 0.45, 0.9]  # equal is no new best
    assert run(values, 3)[0] == 5
    assert run(values, 4)[0] == 6
    assert run(values, None)[0] == 6


def test_a_new_best_starts_the_count_anew():
    assert run([0.5, 0.4, 0.6, 0.5, 0.5, 0.1], 2)[0] == 5


def test_nan_is_no_new_best_and_does_not_end_all_comparing():
    assert run([math.nan, 0.5, math.nan, 0.6, 0.1, 0.1], 2)[0] == 6
    assert run([math.nan, math.nan, 0.5], 2)[0] == 2


def test_epochs_without_validation_do_not_count():
    values = [0, 0.5, 0, 0.4, 0, 0.3, 0, 0.9]
    assert run(values, 2, interval=2)[0] == 6


def test_the_rest_of_a_run_stops_where_the_whole_does():
    values = [0.5, 0.4, 0.45, 0.3, 0.9]
    whole, stopping = run(values, 3)
    assert whole == 4
    assert stopping.has_stopped
    _, begun = run(values[:2], 3)
    assert not begun.has_stopped
    rest, _ = run(values, 3, state=begun.state_dict(), after=2)
    assert 2 + rest == whole


@pytest.mark.parametrize("patience", [0, -2, 2.5, "3", True])
def test_patience_is_a_number_of_validations(patience):
    with pytest.raises(ValueError, match="early_stopping must be null or a number of validations"):
        EarlyStopping(patience, validator=Engine(lambda *_: None), metric="val_dice")

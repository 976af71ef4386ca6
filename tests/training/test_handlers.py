import csv
import math
import types

import pytest
import torch
from ignite.engine import Engine, Events

from samtune.training.handlers import ClipGradients, Curve, Progress, SetEpoch


def gradient_norm(network):
    return math.sqrt(
        sum(float(p.grad.pow(2).sum()) for p in network.parameters() if p.grad is not None)
    )


def test_gradients_are_clipped_before_the_step(make_training):
    def step(*handlers):
        training = make_training(epochs=1, optimizer=torch.optim.SGD, learning_rate=1.0)
        trainer = training.trainer
        for handler in handlers:
            handler.attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda e: e.terminate())
        before = {n: p.detach().clone() for n, p in training.network.named_parameters()}
        trainer.run()
        changes = [p.detach() - before[n] for n, p in training.network.named_parameters()]
        moved = math.sqrt(sum(float(change.pow(2).sum()) for change in changes))
        return gradient_norm(training.network), moved

    free, moved = step()
    assert moved == pytest.approx(free, rel=1e-3)  # plain SGD with rate 1
    assert free > 0.02
    clipped, moved = step(ClipGradients(0.01))
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert moved == pytest.approx(0.01, rel=1e-2)
    assert step(ClipGradients(1e6))[0] == pytest.approx(free, rel=1e-6)  # no need: as they are


def test_epoch_is_told_before_it_begins():
    class Target:
        def set_epoch(self, epoch):
            self.epoch = epoch

    targets = [Target(), Target()]
    seen = []
    engine = Engine(lambda engine, batch: seen.append([target.epoch for target in targets]))
    SetEpoch(targets).attach(engine)
    engine.run([0], max_epochs=3)
    assert seen == [[1, 1], [2, 2], [3, 3]]


class FakeTraining:
    """Batches are the losses; validation runs in the epochs of ``validated``."""

    def __init__(self, path, *, validated=(1, 2, 3), resume_at=0):
        self.validator = types.SimpleNamespace(state=types.SimpleNamespace(epoch=0))
        self.dice = types.SimpleNamespace(
            class_names=["front", "back"], per_class={"front": 0.5, "back": float("nan")}
        )
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)
        self.engine = Engine(lambda engine, loss: [{"loss": torch.tensor(loss)}] * 2)

        def validate(engine):
            if engine.state.epoch in validated:
                self.validator.state.epoch = engine.state.epoch

        self.engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
        Curve(path, validator=self.validator, dice=self.dice, optimizer=optimizer).attach(
            self.engine
        )

        def resume(engine):  # after the others, as in train.yaml
            engine.state.epoch, engine.state.iteration = resume_at, 3 * resume_at

        if resume_at:
            self.engine.add_event_handler(Events.STARTED, resume)

    def run(self, epochs):
        self.engine.run([1.0, 2.0, 6.0], max_epochs=epochs)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curve_has_a_row_an_epoch(tmp_path):
    path = tmp_path / "new/curve.csv"
    FakeTraining(path, validated=(2,)).run(2)
    first, second = read(path)
    assert list(first) == [
        *("epoch", "iteration", "train_loss", "learning_rate", "val_dice"),
        *("val_dice_front", "val_dice_back", "seconds"),
    ]
    assert (first["epoch"], first["iteration"]) == ("1", "3")
    assert float(first["train_loss"]) == 3.0
    assert float(first["learning_rate"]) == 0.25
    assert first["val_dice"] == first["val_dice_front"] == ""  # not validated
    assert (second["val_dice"], second["val_dice_front"]) == ("0.5", "0.5")
    assert second["val_dice_back"] == "nan"


def test_resumed_curve_has_each_epoch_once(tmp_path):
    path = tmp_path / "curve.csv"
    FakeTraining(path).run(3)
    before = read(path)
    FakeTraining(path, resume_at=1).run(3)  # the rows of epochs 2 and 3 were lost with the weights
    after = read(path)
    assert [row["epoch"] for row in after] == ["1", "2", "3"]
    assert [row["iteration"] for row in after] == ["3", "6", "9"]
    assert after[0] == before[0]


def test_a_run_from_the_start_replaces_an_old_curve(tmp_path):
    path = tmp_path / "curve.csv"
    FakeTraining(path).run(3)
    FakeTraining(path).run(1)
    assert [row["epoch"] for row in read(path)] == ["1"]


def test_curve_goes_on_without_the_old_file(tmp_path):
    path = tmp_path / "curve.csv"
    FakeTraining(path, resume_at=2).run(3)
    assert [row["epoch"] for row in read(path)] == ["3"]


def test_progress_counts_iterations_and_shows_the_loss(capsys):
    engine = Engine(lambda engine, batch: [{"loss": 0.1234}])
    Progress("training", show=True).attach(engine)
    engine.run([0, 0], max_epochs=3)
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "6/6" in shown
    assert "loss=0.123" in shown


def test_progress_of_a_resumed_run_starts_where_it_goes_on(capsys):
    engine = Engine(lambda engine, batch: {})
    Progress("training", show=True).attach(engine)

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 2, 4

    engine.run([0, 0], max_epochs=3)
    assert "6/6" in capsys.readouterr().err


def test_progress_is_silent_off_a_terminal(capsys):
    engine = Engine(lambda engine, batch: {"pred": 0})
    Progress().attach(engine)  # pytest's stderr is no terminal
    engine.run([0, 0], max_epochs=2)
    assert capsys.readouterr() == ("", "")


def test_errors_pass_through_the_progress_bar():
    def fail(engine, batch):
        raise ValueError("of the step")

    engine = Engine(fail)
    Progress(show=False).attach(engine)
    with pytest.raises(ValueError, match="of the step"):
        engine.run([0])

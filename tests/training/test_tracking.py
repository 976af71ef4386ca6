import sys
import types

import pytest
from monai.handlers import TensorBoardStatsHandler, from_engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from samtune.training.tracking import TensorBoardWriter, Tracker
from tests.training.checkpointed import attach, run_until


def scalars(folder, tag):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]


def test_nothing_is_written_until_there_is_a_value(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tensorboard")
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == []
    writer.add_scalar("loss", 0.5, 1)
    writer.close()
    assert scalars(tmp_path / "tensorboard", "loss") == [(1, 0.5)]


def test_a_resumed_run_shows_each_step_once(tmp_path):
    killed = TensorBoardWriter(tmp_path)
    for step in range(1, 8):
        killed.add_scalar("loss", 1.0, step)
    killed.add_scalar("dice", 0.1, 4)
    killed.close()
    resumed = TensorBoardWriter(tmp_path)
    for step in range(5, 9):
        resumed.add_scalar("loss", 2.0, step)
    resumed.close()
    assert scalars(tmp_path, "loss") == [(s, 1.0) for s in range(1, 5)] + [
        (s, 2.0) for s in range(5, 9)
    ]
    assert scalars(tmp_path, "dice") == [(4, 0.1)]


def test_monais_handler_writes_through_it(make_training, tmp_path):
    training = make_training(epochs=1)
    writer = TensorBoardWriter(tmp_path)
    TensorBoardStatsHandler(
        summary_writer=writer,
        tag_name="train_loss",
        output_transform=from_engine(["loss"], first=True),
    ).attach(training.trainer)
    training.trainer.run()
    writer.close()
    assert [step for step, _ in scalars(tmp_path, "train_loss")] == [1, 2]


class FakeWandb(types.ModuleType):
    """What we use of it."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.rows, self.finished = [], [], 0

    def init(self, **options):
        self.inits.append(options)
        return self

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "nowhere")
    return fake


def track(training, path, kind):
    tracker = Tracker(
        kind,
        path=path,
        settings={"rank": 2},
        run_id="0123456789abcdef!",
        validator=training.validator,
    )
    attach(training, path, minutes=0)
    tracker.attach(training.trainer)


def train_in_two_parts(make_training, path, kind):
    """Two epochs of two iterations, stopped within the second."""
    training = make_training(epochs=2)
    track(training, path, kind)
    run_until(training, iteration=3)
    again = make_training(epochs=2)
    track(again, path, kind)
    again.trainer.run()


def test_wandb_gets_each_iteration_and_epoch_and_is_resumed_by_id(make_training, wandb, tmp_path):
    train_in_two_parts(make_training, tmp_path, "wandb")
    first, second = wandb.inits
    assert first == second
    assert first["id"] == "0123456789abcdef"
    assert (first["mode"], first["resume"], first["dir"]) == ("offline", "allow", str(tmp_path))
    assert first["config"] == {"rank": 2}
    assert [step for step, values in wandb.rows if "train_loss" in values] == [1, 2, 3, 4]
    assert [step for step, values in wandb.rows if "val_dice" in values] == [2, 4]
    assert wandb.finished == 1
    finished = make_training(epochs=2)
    track(finished, tmp_path, "wandb")
    finished.trainer.run()
    assert len(wandb.inits) == 2  # nothing is opened for a finished run


def test_the_environment_chooses_the_mode(make_training, wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    training = make_training(epochs=1)
    track(training, tmp_path, "wandb")
    training.trainer.run()
    assert wandb.inits[0]["mode"] == "disabled"


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_what_is_not_installed_is_named_with_the_command(
    make_training, tmp_path, monkeypatch, kind
):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ValueError, match=rf"{kind} is not installed; run 'pip .*samtune\[{kind}\]"):
        track(make_training(), tmp_path, kind)


def test_another_tracker_is_refused(make_training, tmp_path):
    with pytest.raises(ValueError, match="tracker must be null, mlflow or wandb, got 'neptune'"):
        track(make_training(), tmp_path, "neptune")


def test_mlflow_keeps_one_run_over_a_resume(make_training, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    train_in_two_parts(make_training, tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("samtune")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "2"
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted({metric.step for metric in history}) == [1, 2, 3, 4]

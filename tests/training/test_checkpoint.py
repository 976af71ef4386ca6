import random
from functools import partial

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.transforms import RandAffined
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from samtune.peft.adapter_file import read_adapter
from samtune.peft.lora import LoRA
from samtune.training.checkpoint import CHECKPOINT, keep_state
from tests.training.checkpointed import attach, run_until


def transforms():
    return {
        "views": 2,
        "random_transforms": [
            RandAffined(
                keys=["image", "label"],
                prob=1.0,
                rotate_range=0.3,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            )
        ],
    }


@pytest.mark.parametrize(("stopped", "cache"), [(1, True), (2, False)])
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(make_training, tmp_path, stopped, cache):
    options = {**transforms(), "cache": cache}
    whole = make_training(**options)
    attach(whole, tmp_path / "whole")
    whole.trainer.run()

    part = make_training(**options)
    attach(part, tmp_path / "part")
    run_until(part, epoch=stopped)
    torch.manual_seed(99)  # another process
    again = make_training(**options)
    torch.manual_seed(99)
    attach(again, tmp_path / "part")
    again.trainer.run()

    assert again.trainer.state.epoch == 3
    for name in ("adapter_last.safetensors", "adapter_best.safetensors"):
        expected = load_file(tmp_path / "whole" / name)
        found = load_file(tmp_path / "part" / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    one, two = (torch.load(tmp_path / run / CHECKPOINT) for run in ("whole", "part"))
    assert (one["epoch"], one["iteration"], one["best"]) == (3, 6, two["best"])
    assert torch.equal(one["chance"]["torch"], two["chance"]["torch"])


def test_a_finished_run_is_left_alone(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    before = (tmp_path / "adapter_last.safetensors").read_bytes()
    again = make_training(epochs=1)
    attach(again, tmp_path)
    again.trainer.run()
    assert again.trainer.state.iteration == 2
    assert (tmp_path / "adapter_last.safetensors").read_bytes() == before


def test_trained_parameters_change_and_all_else_is_bit_identical(
    make_training, make_network, tmp_path
):
    training = make_training(epochs=2)
    attach(training, tmp_path)
    training.trainer.run()
    fresh = make_network().state_dict()
    trained = {n for n, p in training.network.named_parameters() if p.requires_grad}
    assert trained
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, fresh[name]) is (name not in trained), name
    for name in trained:
        gradient = training.network.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.any(), name
    assert set(load_file(tmp_path / "adapter_last.safetensors")) == trained


def test_best_is_the_epoch_of_the_highest_dice(make_training, tmp_path):
    training = make_training(epochs=1)
    checkpoint = attach(training, tmp_path)
    engine, validated = training.trainer, training.validator.state

    def epoch(number, dice):
        engine.state.epoch = number
        if dice is not None:
            validated.epoch, validated.metrics = number, {"val_dice": dice}
        checkpoint._save(engine)
        best = tmp_path / "adapter_best.safetensors"
        return read_adapter(best).extra["epoch"] if best.is_file() else None

    nan = float("nan")  # no label in any validated case: a finished run has a best adapter still
    assert [epoch(1, None), epoch(2, nan), epoch(3, 0.3), epoch(4, nan)] == [None, 2, 3, 3]
    assert [epoch(5, None), epoch(6, 0.3), epoch(7, 0.4), epoch(8, 0.2)] == [3, 3, 7, 7]
    last = read_adapter(tmp_path / "adapter_last.safetensors").extra
    assert (last["epoch"], last["val_dice"]) == (8, 0.2)
    assert last["task"] == training.task.to_dict()
    assert read_adapter(tmp_path / "adapter_best.safetensors").extra["val_dice"] == 0.4


def test_best_survives_a_resume(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path).best = 0.9
    training.trainer.run()
    again = make_training(epochs=2)
    checkpoint = attach(again, tmp_path)
    again.trainer.run()
    assert checkpoint.best == pytest.approx(0.9)
    assert not (tmp_path / "adapter_best.safetensors").exists()


def test_checkpoint_of_another_network_is_refused(make_training, make_network, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    for method in (LoRA(rank=2, blocks="last:1"), LoRA(rank=3, blocks="last:2")):
        other = make_training(make_network(method), epochs=2)
        attach(other, tmp_path)
        with pytest.raises(ValueError, match=r"checkpoint\.pt' is of another network"):
            other.trainer.run()


def test_a_damaged_checkpoint_names_the_file(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:1000])
    again = make_training(epochs=2)
    attach(again, tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt' can't be read"):
        again.trainer.run()


def test_a_kill_while_saving_keeps_the_last_checkpoint(make_training, tmp_path, monkeypatch):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = make_training(epochs=2)
    attach(again, tmp_path)

    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        again.trainer.run()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


# Within an epoch


def test_stopped_within_an_epoch_with_a_loader_that_draws_its_own_order(make_training, tmp_path):
    """Shuffled by the global generator, noise from NumPy's and Python's: a user's own dataset."""

    class Chancy(torch.utils.data.Dataset):
        def __init__(self, data):
            self.data, self.loaded = data, []

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            self.loaded.append(index)
            item = dict(self.data[index])
            noise = np.random.rand() + random.random() + float(torch.rand(()))  # noqa: NPY002
            return {**item, "image": item["image"] * noise}

    def make():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        training = make_training(cache=False)
        data = Chancy(training.dataset)
        training.trainer.data_loader = DataLoader(data, batch_size=2, shuffle=True)
        training.trainer.state.epoch_length = 3
        return training, data

    whole, data = make()
    attach(whole, tmp_path / "whole")
    whole.trainer.run()
    part, _ = make()
    attach(part, tmp_path / "part", minutes=0)
    run_until(part, iteration=5)
    again, rest = make()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    attach(again, tmp_path / "part")
    again.trainer.run()
    assert rest.loaded == data.loaded[5 * 2 :]  # what was done is not even loaded
    expected = load_file(tmp_path / "whole/adapter_last.safetensors")
    found = load_file(tmp_path / "part/adapter_last.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # each iteration
@pytest.mark.parametrize("stopped", [1, 2, 4])
def test_an_open_accumulation_is_kept(make_training, tmp_path, stopped):
    """Two batches a step, three an epoch; momentum moves parameters whose gradient is zero, too."""

    def make():
        training = make_training(optimizer=partial(torch.optim.SGD, momentum=0.9))
        training.trainer.data_loader = DataLoader(
            training.dataset, batch_size=2, sampler=training.sampler
        )
        training.trainer.state.epoch_length = 3
        training.trainer.accumulation_steps = 2
        return training

    whole = make()
    attach(whole, tmp_path / "whole")
    whole.trainer.run()
    part = make()
    attach(part, tmp_path / "part", minutes=0)
    run_until(part, iteration=stopped)
    gradients = torch.load(tmp_path / "part/checkpoint.pt")["gradients"]
    assert {gradient is not None for gradient in gradients.values()} == {stopped % 3 == 1}
    again = make()
    attach(again, tmp_path / "part")
    again.trainer.run()
    expected = load_file(tmp_path / "whole/adapter_last.safetensors")
    found = load_file(tmp_path / "part/adapter_last.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_state_of_other_handlers_is_kept(make_training, tmp_path):
    class Counter:
        number = 0

        def state_dict(self):
            return {"number": self.number}

        def load_state_dict(self, state):
            self.number = state["number"]

    training, counter = make_training(epochs=1), Counter()
    keep_state(training.trainer, "counter", counter)
    counter.number = 7
    attach(training, tmp_path)
    training.trainer.run()
    again, counter = make_training(epochs=2), Counter()
    keep_state(again.trainer, "counter", counter)
    attach(again, tmp_path)
    again.trainer.run()
    assert counter.number == 7


def test_a_run_that_another_handler_ended_is_finished(make_training, tmp_path, caplog):
    caplog.set_level("INFO")
    for expected in ("", "finished: "):
        training = make_training()
        training.trainer.add_event_handler(
            Events.EPOCH_COMPLETED(once=2), training.trainer.terminate
        )
        attach(training, tmp_path)
        training.trainer.run()
        assert training.trainer.state.epoch == 2
        assert expected in caplog.text
    assert caplog.text.count("finished: ") == 1


def test_more_epochs_go_on_and_say_what_that_is(make_training, tmp_path, caplog):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    again = make_training(epochs=2)
    attach(again, tmp_path)
    again.trainer.run()
    assert again.trainer.state.iteration == 4
    assert "epochs was 1, now 2: the learning rate goes on along the schedule of 2" in caplog.text

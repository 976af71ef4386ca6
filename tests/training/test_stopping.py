import os
import signal
import threading

import pytest
import torch
from ignite.engine import Events
from safetensors.torch import load_file

from samtune.peft.adapter_file import read_adapter
from samtune.training.stopping import Stopping
from tests.training.checkpointed import attach


@pytest.fixture
def handler():
    """Whatever SIGTERM did before must be back afterwards."""
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
    own = signal.getsignal(signal.SIGTERM)
    yield calls
    assert signal.getsignal(signal.SIGTERM) is own
    signal.signal(signal.SIGTERM, before)


def at(training, event, action):
    training.trainer.add_event_handler(event, action)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("iteration", [1, 2, 4])  # within, and at the end of an epoch of two
def test_sigterm_saves_at_the_next_moment_and_the_run_goes_on(
    make_training, tmp_path, handler, iteration
):
    whole = make_training()
    attach(whole, tmp_path / "whole")
    whole.trainer.run()
    part = make_training()
    stopping = Stopping()
    attach(part, tmp_path / "part", stopping=stopping)
    at(part, Events.ITERATION_STARTED(once=iteration), terminate)
    part.trainer.run()
    assert handler == []  # ours took it
    assert part.trainer.state.iteration == iteration
    assert torch.load(tmp_path / "part/checkpoint.pt")["iteration"] == iteration
    with pytest.raises(SystemExit) as caught:
        stopping.exit_if_terminated()
    assert caught.value.code == 128 + 15
    torch.manual_seed(99)
    again = make_training()
    torch.manual_seed(99)
    attach(again, tmp_path / "part")
    again.trainer.run()
    expected = load_file(tmp_path / "whole/adapter_last.safetensors")
    found = load_file(tmp_path / "part/adapter_last.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_same_trainer_goes_on_too(make_training, tmp_path, handler):
    """In a notebook: run() again."""
    whole = make_training()
    attach(whole, tmp_path / "whole")
    whole.trainer.run()
    part = make_training()
    at(part, Events.ITERATION_STARTED(once=3), terminate)
    attach(part, tmp_path / "part")
    part.trainer.run()
    assert part.trainer.state.iteration == 3
    part.trainer.run()
    assert (part.trainer.state.epoch, part.trainer.state.iteration) == (3, 6)
    expected = load_file(tmp_path / "whole/adapter_last.safetensors")
    found = load_file(tmp_path / "part/adapter_last.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_before_the_first_iteration_sigterm_is_left_as_it_was(make_training, tmp_path, handler):
    training = make_training(epochs=1)
    at(training, Events.EPOCH_STARTED, terminate)
    attach(training, tmp_path)
    training.trainer.run()
    assert handler == [1]
    assert training.trainer.state.iteration == 2


def test_a_failure_gives_sigterm_back(make_training, tmp_path, handler):
    training = make_training()

    def fail(*args):
        raise KeyError("other")

    training.trainer.loss_function = fail
    attach(training, tmp_path)
    with pytest.raises(KeyError, match="other"):
        training.trainer.run()


def test_a_thread_can_train_without_signals(make_training, tmp_path, handler):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    thread = threading.Thread(target=training.trainer.run)
    thread.start()
    thread.join()
    assert (tmp_path / "adapter_last.safetensors").is_file()


def test_minutes_that_are_over_end_the_run_on_its_schedule(make_training, tmp_path, caplog):
    training = make_training()
    stopping = Stopping(max_minutes=10)
    minutes = iter([1, 2, 11, 11])
    stopping.minutes = lambda: next(minutes)
    attach(training, tmp_path, stopping=stopping)
    training.trainer.run()
    # asked within an epoch and at its end: after iterations 1, 2 (end of the epoch) and 3
    assert training.trainer.state.iteration == 3
    assert "stopped by max_minutes 10 at iteration 3 of 6" in caplog.text
    stopping.exit_if_terminated()  # exit code 0
    last = read_adapter(tmp_path / "adapter_last.safetensors")
    assert (last.extra["epoch"], last.extra["iteration"]) == (1, 3)
    state = torch.load(tmp_path / "checkpoint.pt")
    assert all(torch.equal(last.tensors[name], t) for name, t in state["trained"].items())
    again = make_training()
    attach(again, tmp_path)
    again.trainer.run()
    assert (again.trainer.state.epoch, again.trainer.state.iteration) == (3, 6)


def test_no_limit_and_wrong_limits():
    assert Stopping().reason() is None
    assert Stopping(1e-9).reason() == "max_minutes 1e-09"
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_minutes must be positive or null"):
            Stopping(wrong)

"""Joining, and what it says where processes can't join."""

import logging
import socket

import pytest
import torch
from ignite.engine import Events

from samtune.training import distributed
from samtune.training.checkpoint import CHECKPOINT
from samtune.training.device import pick_device
from samtune.training.distributed import (
    anywhere,
    device_of_process,
    gather,
    gather_rows,
    is_main,
    join_processes,
    leave_processes,
    let_the_first_speak,
    main_only,
    mean,
    parallel,
)
from samtune.training.tracking import TensorBoardWriter
from tests.training.checkpointed import attach, run_until

ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
}


@pytest.fixture
def torchrun(monkeypatch):
    """What torchrun tells a process."""

    def tell(**changes):
        for name, value in {**ENVIRONMENT, **changes}.items():
            monkeypatch.setenv(name, str(value))

    return tell


def test_one_process_gathers_what_it_has():
    assert is_main()
    assert gather(3) == [3]
    assert mean(2.5) == 2.5
    assert anywhere(True)
    assert not anywhere(False)
    assert list(gather_rows({"b": 1, "a": 2})) == ["a", "b"]
    leave_processes()  # nothing to leave


def test_only_rank_0_writes(torchrun):
    written = []
    write = main_only(written.append)
    torchrun(RANK=1)
    write(1)
    torchrun(RANK=0)
    write(0)
    assert written == [0]


def test_without_torchrun_the_overlay_says_how_to_start(monkeypatch):
    for name in distributed._NEEDED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE.*start it with 'torchrun --standalone"):
        join_processes("cpu")
    with pytest.raises(ValueError, match="processes have to join first"):
        parallel(torch.nn.Linear(1, 1))


def test_torchrun_without_the_overlay_names_it(torchrun):
    torchrun()
    with pytest.raises(ValueError, match=r"2 processes would each.*add configs/multi_gpu\.yaml"):
        pick_device("cpu")


def test_a_port_in_use_is_named(torchrun):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        torchrun(MASTER_PORT=port)
        with pytest.raises(ConnectionError, match=f"port {port} of .* is in use.*--master_port"):
            join_processes("cpu")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("device", ["cuda:1", "mps", "gpu"])
def test_devices_that_cannot_be_shared(device):
    with pytest.raises(ValueError, match=f"auto, cuda .* or cpu, got '{device}'"):
        device_of_process(device, 0, 4)


def test_every_process_has_its_own_gpu(torchrun):
    torchrun(LOCAL_WORLD_SIZE=2)
    assert [device_of_process("auto", i, 2) for i in range(2)] == [
        torch.device("cuda:0"),
        torch.device("cuda:1"),
    ]
    assert device_of_process("auto", 1, 0) == device_of_process("cpu", 1, 2) == torch.device("cpu")
    with pytest.raises(ValueError, match="2 processes on this node, which has 1 GPUs"):
        device_of_process("auto", 0, 1)  # the same in each, not only in the one without a GPU
    with pytest.raises(ValueError, match="'cuda' is not on this machine"):
        device_of_process("cuda", 0, 0)


def test_processes_that_follow_leave_the_word_to_the_first(torchrun, monkeypatch):
    waited = []
    monkeypatch.setattr(distributed.time, "sleep", waited.append)
    let_the_first_speak(ValueError("alone"))
    torchrun()
    let_the_first_speak(ValueError("of the first"))
    assert waited == []
    let_the_first_speak(RuntimeError("Connection closed by peer"))
    torchrun(RANK=1)
    let_the_first_speak(ValueError("of another"))
    assert len(waited) == 2
    assert logging.root.manager.disable == logging.NOTSET


def of_two(path):
    """Let a checkpoint be that of two processes."""
    state = torch.load(path / CHECKPOINT)
    names = ("chance", "gradients", "kept", "epoch_chance")
    state["others"] = [{name: state[name] for name in names if name in state}]
    torch.save(state, path / CHECKPOINT)


def test_within_an_epoch_only_as_many_processes_go_on(make_training, tmp_path):
    training = make_training()
    attach(training, tmp_path, minutes=0)
    run_until(training, iteration=1)
    of_two(tmp_path)
    again = make_training()
    attach(again, tmp_path)
    with pytest.raises(ValueError, match=r"number of processes differ \(2 then, 1 now\)"):
        again.trainer.run()


def test_after_an_epoch_another_number_of_processes_draws_anew(make_training, tmp_path):
    training = make_training()
    attach(training, tmp_path)
    run_until(training, epoch=1)
    of_two(tmp_path)
    again = make_training()
    again.trainer.state.epoch_length = 3
    attach(again, tmp_path)
    at_start = []
    again.trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda: at_start.append(torch.get_rng_state())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        before = torch.get_rng_state()
        again.trainer.run()
    assert again.trainer.state.iteration == 3 * again.trainer.state.max_epochs
    assert torch.equal(at_start[0], before)


def test_only_rank_0_has_a_tensorboard_file(torchrun, tmp_path):
    for rank, is_there in (1, False), (0, True):
        torchrun(RANK=rank)
        writer = TensorBoardWriter(tmp_path / "tensorboard")
        writer.add_scalar("train_loss", 0.5, 1)
        writer.flush()
        writer.close()
        assert (tmp_path / "tensorboard").exists() == is_there

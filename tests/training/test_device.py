import pytest
import torch

from samtune.training.device import pick_device


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, with Apple's or without."""

    def make(gpus, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("gpus", "mps", "expected"), [(0, False, "cpu"), (2, False, "cuda"), (0, True, "mps")]
)
def test_auto_takes_an_accelerator_when_there_is_one(machine, gpus, mps, expected):
    machine(gpus, mps)
    assert pick_device() == torch.device(expected)


def test_named_devices(machine):
    machine(2)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device(torch.device("cuda:7")) == torch.device("cuda:7")  # given by another tool


@pytest.mark.parametrize("name", ["cuda:2", "mps", "meta"])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(machine, name):
    machine(2)
    with pytest.raises(ValueError, match=f"'{name}' is not on this .* cpu, cuda:0, cuda:1"):
        pick_device(name)


def test_no_gpu_at_all(machine):
    machine(0)
    with pytest.raises(ValueError, match="'cuda' is not on this machine, which has: cpu"):
        pick_device("cuda")


def test_a_name_that_is_none(machine):
    machine(0)
    with pytest.raises(ValueError, match="unknown device 'gpu', expected auto or one of: cpu"):
        pick_device("gpu")

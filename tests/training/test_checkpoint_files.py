"""The files that a checkpoint leaves: after kills, on a full disk, of other runs."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from samtune.training.checkpoint import CHECKPOINT
from tests.training.checkpointed import attach, run_until


def test_an_adapter_that_a_kill_left_out_is_written_by_the_next_command(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    expected = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    names = ("adapter_best.safetensors", "adapter_last.safetensors")
    other = make_training(epochs=1, learning_rate=0.1)
    attach(other, tmp_path / "other")
    other.trainer.run()
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"x")):
        for name in names:
            spoil(tmp_path / name)
            again = make_training(epochs=1)
            attach(again, tmp_path)
            again.trainer.run()
            assert (tmp_path / name).read_bytes() == expected[name]
    for name in names:  # of an epoch before, as a kill between two writes leaves it
        shutil.copy(tmp_path / "other" / name, tmp_path / name)
    again = make_training(epochs=1)
    attach(again, tmp_path)
    again.trainer.run()
    assert {name: (tmp_path / name).read_bytes() for name in names} == {
        name: expected[name] for name in names
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_a_full_disk_keeps_the_checkpoint_and_names_the_file(make_training, tmp_path):
    """A limit of the file size refuses the write as a full disk does."""
    import resource

    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = make_training(epochs=2)
    attach(again, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt"):
            again.trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    attach(third := make_training(epochs=2), tmp_path)
    third.trainer.run()
    assert third.trainer.state.iteration == 4


def test_a_checkpoint_of_another_run_is_refused(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path, run_id="one")
    training.trainer.run()
    again = make_training(epochs=2)
    attach(again, tmp_path, run_id="two")
    with pytest.raises(ValueError, match=r"is of another run \(id one\) than run.json .*id two"):
        again.trainer.run()


def test_an_epoch_of_another_length_is_refused(make_training, tmp_path):
    training = make_training()
    attach(training, tmp_path, minutes=0)
    run_until(training, iteration=1)
    again = make_training()
    again.trainer.state.epoch_length = 3
    attach(again, tmp_path)
    with pytest.raises(ValueError, match="within an epoch of 2 iterations, here an epoch has 3"):
        again.trainer.run()


def test_an_older_checkpoint_is_read(make_training, tmp_path):
    training = make_training(epochs=1)
    attach(training, tmp_path)
    training.trainer.run()
    state = torch.load(tmp_path / CHECKPOINT)
    old = {key: state[key] for key in ("trained", "optimizer", "lr_scheduler", "best")}
    old |= {key: state[key] for key in ("epoch", "iteration")}
    old |= {"rng": state["chance"]["torch"], "cuda_rng": state["chance"]["cuda"]}
    torch.save(old, tmp_path / CHECKPOINT)
    again = make_training(epochs=2)
    attach(again, tmp_path, run_id="any")
    again.trainer.run()
    assert again.trainer.state.iteration == 4

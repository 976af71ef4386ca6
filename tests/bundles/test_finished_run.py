"""A finished run that is started again: it says so, and only where it surely is that run."""

import shutil
import sys

import pytest

from samtune.training.errors import root_cause


@pytest.fixture
def again(tiny_run, run_bundle, tmp_path, monkeypatch):
    """Call it: the command of a finished run again, where nothing can be built."""
    copy = shutil.copytree(tiny_run.path, tmp_path / "elsewhere/whole")
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run", "training"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def build_network(**options):
        raise ValueError("it was built")

    monkeypatch.setattr("samtune.training.network.build_network", build_network)

    def call(**changes):
        settings = {**tiny_run.settings, "runs_dir": str(copy.parent), "run_name": "whole"}
        run_bundle("train", "training", **{**settings, **changes})

    call.path = copy
    return call


def test_a_finished_run_says_so_before_anything_is_built(again, caplog):
    before = {file.name: file.stat().st_mtime_ns for file in again.path.iterdir()}
    for changes in ({}, {"epochs": 2, "num_workers": 1, "device": "cuda:7"}):
        caplog.clear()
        with caplog.at_level("INFO"), pytest.raises(SystemExit) as caught:
            again(**changes)
        assert caught.value.code == 0
        assert "has 3 epochs, nothing to do" in caplog.text
    assert {file.name: file.stat().st_mtime_ns for file in again.path.iterdir()} == before


@pytest.mark.parametrize("what", ["epochs", "rank", "adapter", "checkpoint", "several"])
def test_what_is_not_surely_that_finished_run_goes_the_long_way(again, monkeypatch, what):
    changes = {"epochs": {"epochs": 4}, "rank": {"rank": 3}}.get(what, {})
    if what == "adapter":  # a kill left it out
        (again.path / "adapter_last.safetensors").unlink()
    if what == "checkpoint":
        (again.path / "checkpoint.pt").write_bytes(b"half")
    if what == "several":
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError) as caught:
        again(**changes)
    assert "it was built" in str(root_cause(caught.value))

"""A run that is killed and started again ends as if nothing had happened, to the byte."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from samtune.training.stopping import EXIT_CODE
from tests.conftest import slice_tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ADAPTERS = ("adapter_best.safetensors", "adapter_last.safetensors")


@pytest.fixture(scope="module")
def killed(tiny_volumes, tmp_path_factory):
    """Call it with steps: dictionaries of settings and a moment. All share one folder of runs."""
    root = tmp_path_factory.mktemp("killed")
    slices = slice_tiny(tiny_volumes, root / "slices", (4, 1, 1))
    settings = {
        "dataset_dir": str(slices),
        "arch": "tiny_vit",
        "checkpoint": "random",
        "image_size": 32,
        "device": "cpu",
        "epochs": 2,
        "batch_size": 3,
        "views": 2,
        "rank": 2,
        "blocks": "last:1",
        "decoder": "lora",
        "dropout": 0.2,
        "learning_rate": 0.01,
    }

    command = [sys.executable, "-W", "ignore", "-m", "tests.bundles.killed_run"]
    with (root / "stderr.txt").open("wb") as log:
        parent = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def call(*steps):
        task = {"runs_dir": str(root), "settings": settings, "steps": list(steps)}
        parent.stdin.write(json.dumps(task) + "\n")
        parent.stdin.flush()
        line = parent.stdout.readline()
        assert line, (root / "stderr.txt").read_text()
        return json.loads(line)

    call.root = root
    call.said = lambda: (root / "stderr.txt").read_text()
    yield call
    parent.stdin.close()
    parent.wait(60)
    parent.stdout.close()


def adapters(run):
    return {name: (run / name).read_bytes() for name in ADAPTERS}


def curve(run):
    with (run / "curve.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def losses(run):
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in ("train_loss", "val_dice")
    }


@pytest.fixture(scope="module")
def whole(killed):
    """An undisturbed run that saves at the ends of epochs alone, and the events of one that saves
    after each iteration."""
    often = {"run_name": "often", "checkpoint_minutes": 0}
    rarely = {"run_name": "whole", "checkpoint_minutes": None}
    first, second = killed({"settings": rarely}, {"settings": often})
    assert (first["code"], second["code"]) == (0, 0), killed.said()
    return killed.root / "whole", second["events"], first["seconds"]


def test_two_runs_with_one_seed_give_the_same_bytes_however_often_they_save(whole, killed):
    run, events, _ = whole
    assert adapters(killed.root / "often") == adapters(run)
    assert curve(killed.root / "often") == curve(run)
    assert events.count("ITERATION_COMPLETED") == 8
    assert events.count("after checkpoint.pt") == 8


def test_killed_at_three_moments(whole, killed):
    run, events, _ = whole
    rng = np.random.default_rng(0)
    # one at a file, one in the first epoch, one in the second
    files = [i for i, name in enumerate(events, 1) if "adapter" in name or "within" in name]
    middle = events.index("EPOCH_COMPLETED") + 1
    moments = [rng.choice(files), rng.integers(4, middle), rng.integers(middle, len(events))]
    steps = []
    for number, moment in enumerate(moments):
        settings = {"run_name": f"killed_{number}", "checkpoint_minutes": 0}
        steps += [{"settings": settings, "moment": int(moment)}, {"settings": settings}]
    codes = [result["code"] for result in killed(*steps)]
    assert codes == [-9, 0] * 3, killed.said()
    for number in range(3):
        assert adapters(killed.root / f"killed_{number}") == adapters(run)
        assert curve(killed.root / f"killed_{number}") == curve(run)
        assert losses(killed.root / f"killed_{number}") == losses(run)


def test_sigterm_saves_exits_with_its_code_and_finished_runs_are_left_alone(whole, killed):
    run, _, _ = whole
    settings = {"run_name": "terminated", "checkpoint_minutes": None}
    moment = 2 * (3 - 1) + 1  # the third iteration begins; nothing else is saved before it
    path = killed.root / "terminated"
    (first,) = killed({"settings": settings, "moment": moment, "signal": "SIGTERM"})
    assert first["code"] == EXIT_CODE == 143
    assert (path / "checkpoint.pt").is_file()
    assert not (path / "adapter_last.safetensors").exists()
    again, third = killed({"settings": settings}, {"settings": settings})
    assert (again["code"], third["code"]) == (0, 0), killed.said()
    assert again["events"].count("ITERATION_STARTED") == 8 - 3
    assert adapters(path) == adapters(run)
    assert curve(path) == curve(run)
    assert "ITERATION_STARTED" not in third["events"]
    assert not [name for name in third["events"] if "checkpoint" in name or "adapter" in name]


def test_a_folder_in_which_another_process_trains_is_refused(killed):
    run = killed.root / "held"
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.lock_holder"]
    root = Path(__file__).resolve().parents[2]
    settings = {"run_name": "held", "epochs": 1, "run_lock::seconds": 0.1}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True
    ) as holder:
        holder.stdin.write(json.dumps({"path": str(run)}) + "\n")
        holder.stdin.flush()
        other = json.loads(holder.stdout.readline())["pid"]
        (result,) = killed({"settings": settings})
        os.kill(other, signal.SIGKILL)
        holder.stdin.close()
    assert result["code"] == 1
    assert "held' is being trained by another process" in killed.said()
    assert [file.name for file in run.iterdir()] == [".samtune.lock"]
    settings["run_lock::seconds"] = 20
    (result,) = killed({"settings": settings})
    assert result["code"] == 0, killed.said()
    assert not (run / ".samtune.lock").exists()


@pytest.mark.slow
def test_killed_at_every_write(whole, killed):
    run, events, _ = whole
    writes = [i for i, name in enumerate(events, 1) if " " in name]
    assert len(writes) > 30
    for moment in writes:
        name = f"write_{moment}"
        settings = {"run_name": name, "checkpoint_minutes": 0}
        codes = [
            result["code"]
            for result in killed({"settings": settings, "moment": moment}, {"settings": settings})
        ]
        assert codes == [-9, 0], (events[moment - 1], killed.said())
        assert adapters(killed.root / name) == adapters(run), events[moment - 1]
        assert curve(killed.root / name) == curve(run), events[moment - 1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_ten_random_times(whole, killed, workers):
    """By the clock, in a row, each going on from the one before."""
    run, _, seconds = whole
    rng = np.random.default_rng(workers)
    settings = {
        "run_name": f"ten_{workers}",
        "checkpoint_minutes": 0.001,
        "num_workers": workers,
        "cache": workers == 0,
    }
    reference = {"run_name": f"uncached_{workers}", "cache": workers == 0}
    steps = [
        {"settings": settings, "seconds": float(rng.uniform(0.2, 0.9) * seconds)} for _ in range(10)
    ]
    results = killed(*steps, {"settings": settings}, {"settings": reference})
    assert [result["code"] for result in results[-2:]] == [0, 0], killed.said()
    assert -9 in [result["code"] for result in results]
    expected = adapters(killed.root / f"uncached_{workers}")
    assert adapters(killed.root / f"ten_{workers}") == expected
    if workers == 0:
        assert expected == adapters(run)

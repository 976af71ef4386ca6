import json

import pytest

from samtune.training.resources import Resources, peak_rss_mib
from tests.training.checkpointed import attach, run_until


def run(training, path, **options):
    Resources(path).attach(training.trainer)
    attach(training, path, **options)
    return training


def commands(path):
    return json.loads((path / "resources.json").read_text())["commands"]


def test_each_command_has_its_entry(make_training, tmp_path):
    run(make_training(epochs=2), tmp_path).trainer.run()
    (entry,) = commands(tmp_path)
    assert (entry["device"], entry["peak_cuda_mib"]) == ("cpu", None)
    assert (entry["first_iteration"], entry["last_iteration"]) == (1, 4)
    assert entry["slices_per_second"] > 0
    assert 50 < entry["peak_rss_mib"] <= peak_rss_mib()
    run(make_training(epochs=2), tmp_path).trainer.run()  # finished
    assert commands(tmp_path) == [entry]


def test_a_resumed_run_adds_to_what_was_done(make_training, tmp_path):
    training = run(make_training(epochs=3), tmp_path, minutes=0)
    run_until(training, iteration=3)
    run(make_training(epochs=3), tmp_path).trainer.run()
    found = [(entry["first_iteration"], entry["last_iteration"]) for entry in commands(tmp_path)]
    assert found == [(1, 2), (4, 6)]  # the third was not at an epoch's end


def test_slices_a_second_are_those_after_the_first_iteration(make_training, tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    run(make_training(epochs=2), tmp_path).trainer.run()
    (entry,) = commands(tmp_path)
    # six slices an epoch in batches of 4 and 2; the first is left out: 2 + 4 + 2 slices, and from
    # asking for a batch to the end of its step this clock ticks once
    assert entry["slices_per_second"] == pytest.approx(8 / 3, abs=0.001)

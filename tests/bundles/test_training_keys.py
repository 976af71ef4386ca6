"""Keys of train.yaml about loss, optimisation and augmentation, in runs of random weights."""

import csv
import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from samtune.training.run_record import LATER_SETTINGS

KEYS = {
    "loss_name": "bce_iou",
    "class_weights": "inverse_frequency",
    "accumulation": 2,
    "optimizer_name": "sgd",
    "momentum": 0.5,
    "layer_decay": 0.5,
    "schedule": "polynomial",
    "early_stopping": 1,
    "checkpointing": True,
    "amp": "bf16",
    "augmentation": "oct",
}


@pytest.fixture
def run(mini_slices, run_bundle, tmp_path):
    def call(name, **overrides):
        settings = {
            "dataset_dir": str(mini_slices),
            "runs_dir": str(tmp_path),
            "run_name": name,
            "checkpoint": "random",
            "image_size": 64,
            "device": "cpu",
            "blocks": "last:3",
            "rank": 1,
            "batch_size": 1,
            "views": 2,
            **overrides,
        }
        return run_bundle("train", "training", **settings), tmp_path / name

    return call


def test_the_keys_act_together_and_twice_alike(run):
    workflow, path = run("first", epochs=6, **KEYS)
    get = workflow.parser.get_parsed_content
    rates = sorted({group["initial_lr"] for group in get("optimizer").param_groups})
    assert rates == pytest.approx([0.001 * 0.5**depth for depth in (3, 2, 1, 0)])
    assert isinstance(get("optimizer"), torch.optim.SGD)
    assert get("network").image_encoder.checkpointing
    assert get("precision") == "bf16"
    weights = get("loss").weights
    assert weights.shape == (3,)
    assert weights[0] < 1 < weights[1:].min()  # most pixels are background
    with (path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) < 6  # random weights predict nothing: the Dice stays where it was
    assert rows[0]["iteration"] == "2"  # two batches: one step an epoch
    assert get("lr_scheduler").last_epoch == len(rows)
    settings = json.loads((path / "run.json").read_text())["settings"]
    assert {key: settings[key] for key in KEYS if key != "checkpointing"} == {
        key: value for key, value in KEYS.items() if key != "checkpointing"
    }
    _, again = run("second", epochs=6, **KEYS)
    first, second = (load_file(p / "adapter_last.safetensors") for p in (path, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_older_run_without_the_keys_is_the_same_run(run):
    _, path = run("run", epochs=1, augmentation="affine")
    file = path / "run.json"
    record = json.loads(file.read_text())
    assert LATER_SETTINGS.items() <= record["settings"].items()  # the defaults are what it did
    for key in LATER_SETTINGS:
        del record["settings"][key]
    file.write_text(json.dumps(record))
    run("run", epochs=1)  # says nothing
    with pytest.raises(RuntimeError) as error:
        run("run", epochs=1, schedule="constant")
    assert "schedule was 'cosine', now 'constant'" in root_cause(error.value)


def test_no_augmentation_needs_one_view_and_weights_go_by_name(run):
    overrides = {"augmentation": "none", "views": 1, "class_weights": {"back": 3}}
    workflow, _ = run("none", epochs=1, **overrides)
    assert workflow.parser.get_parsed_content("train::dataset").random is None
    assert workflow.parser.get_parsed_content("loss").weights.tolist() == [1, 1, 3]


def root_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_what_cannot_be_says_so_before_the_first_step(run, caplog):
    caplog.set_level(logging.WARNING)
    for overrides, message in (
        ({"amp": "fp16"}, "amp: fp16 needs CUDA"),
        ({"accumulation": 0}, "accumulation must be a number of batches, 1 or more, got 0"),
        ({"loss_name": "dise"}, "loss_name must be one of dice_ce"),
        ({"early_stopping": 0}, "early_stopping must be null or a number"),
    ):
        with pytest.raises(RuntimeError) as error:
            run("run", epochs=1, **overrides)
        assert message in root_cause(error.value)

"""The bundle on two folders of slices at once."""

import csv
import json

import pytest

from samtune.preprocessing.manifest import load_manifest


@pytest.fixture(scope="module")
def joined_run(mini_slices, tmp_path_factory, run_bundle, packaged_weights):
    """A run on the tiny task and on a folder of it whose class 3 has another name."""
    root = tmp_path_factory.mktemp("joined")
    other = root / "other"
    manifest = json.loads((mini_slices / "manifest.json").read_text())
    manifest["settings"]["class_names"] = {"1": "front", "3": "lid"}
    other.mkdir()
    (other / "slices").symlink_to(mini_slices / "slices")
    (other / "manifest.json").write_text(json.dumps(manifest))
    folders = [str(mini_slices), {"folder": str(other), "weight": 2}]
    settings = {
        **{"dataset_dir": folders, "runs_dir": str(root / "runs"), "run_name": "joined"},
        **{"sampler": "balanced", "epochs": 1, "views": 1, "rank": 2, "device": "cpu"},
        "train#random_transforms": [],
    }
    run_bundle("train", "training", **settings)
    return root / "runs/joined", mini_slices


def test_a_run_on_two_folders_has_the_classes_of_both(joined_run):
    record = json.loads((joined_run[0] / "run.json").read_text())
    assert record["task"]["classes"] == {"1": "front", "2": "lid", "3": "back"}
    assert len(record["data"]["dataset_dir"]) == len(record["data"]["slices"]) == 2
    assert record["settings"]["sampler"] == "balanced"
    with (joined_run[0] / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"val_dice_front", "val_dice_lid", "val_dice_back"} <= set(rows[0])


def test_it_is_evaluated_on_both_with_each_ones_own_labels(joined_run, run_bundle):
    path, mini_slices = joined_run
    run_bundle("evaluate", run_dir=str(path), device="cpu")
    with (path / "metrics_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = len([c for c in load_manifest(mini_slices).cases.values() if c.split == "test"])
    assert len({row["case"] for row in rows}) == 2 * cases
    for row in rows:
        missing = "back" if row["case"].startswith("other") else "lid"
        if row["name"] in (missing, "whole"):
            assert (row["status"], row["dice"]) == ("both_empty", "nan")
    assert {row["name"] for row in rows if row["status"] != "both_empty"} == {
        *("front", "lid", "back")
    }

"""Ensembles, flips and post-processing: the same in evaluate.yaml, inference.yaml and predict."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.manifest import load_manifest
from samtune.training.ensemble import check_unseen, load_averaged, open_runs
from samtune.training.postprocess import LARGEST, CandidateScores, clean, write_choice
from samtune.training.predict import predict
from samtune.training.quality import component_sizes
from samtune.training.run_folder import load_run


@pytest.fixture(scope="module")
def runs(loud_run, tmp_path_factory):
    """Two runs, for both of which keeping the largest object of `front` was chosen."""
    root = tmp_path_factory.mktemp("cv")
    mask = np.zeros((30, 30, 30), bool)
    mask[:15, :15, :15] = mask[20:, 20:, 15:] = True  # too large for the other steps
    for number in (0, 1):
        run = root / f"fold_{number}"
        shutil.copytree(loud_run, run)
        if number == 1:
            shutil.copy(run / "adapter_last.safetensors", run / "adapter_best.safetensors")
        scores = CandidateScores({1: "front", 3: "back"})
        truth = clean(mask, LARGEST, (1, 1, 1)).astype(np.uint8)
        scores.add("x", mask.astype(np.uint8), truth, (1, 1, 1))
        write_choice(load_run(run), "best", scores)
    return root


def volume(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("postprocess", [True, False])
def test_evaluate_inference_and_predict_agree(
    runs, run_bundle, tiny_volumes, tmp_path, postprocess
):
    settings = {"flips": "h", "postprocess": postprocess, "device": "cpu"}
    out = str(tmp_path / "evaluated")
    run_bundle("evaluate", run_dir=str(runs), output_dir=out, **settings)
    evaluated = sorted((tmp_path / "evaluated/predictions_test").iterdir())
    scans = [tiny_volumes / "images" / path.name for path in evaluated]
    more = str(runs / "fold_1")
    run_bundle(
        "inference",
        run_dir=str(runs / "fold_0"),
        ensemble=[more],
        images=list(map(str, scans)),
        output_dir=str(tmp_path / "inferred"),
        **settings,
    )
    written = predict(runs, scans, tmp_path / "predicted", **settings)
    for path, other in zip(written, evaluated, strict=True):
        np.testing.assert_array_equal(volume(path), volume(other))
        np.testing.assert_array_equal(volume(path), volume(tmp_path / "inferred" / path.name))
    objects = [len(component_sizes(volume(path) == 1)) for path in written]
    assert objects == [1, 1] if postprocess else max(objects) > 1
    protocol = json.loads((tmp_path / "evaluated/metrics_test.json").read_text())["protocol"]
    assert protocol["ensemble"] == [str(runs / "fold_0"), more]
    assert protocol["flips"] == "h"
    chosen = {"front": LARGEST, "back": "none"}
    assert protocol["postprocess"] == (chosen if postprocess else None)


def test_runs_of_one_base_share_it(runs):
    averaged = load_averaged(open_runs(runs))
    assert (averaged.num_members, len(averaged.networks)) == (2, 1)


def test_an_ensemble_is_not_scored_on_cases_that_a_member_was_trained_on(runs, tiny_slices):
    members, tiny_manifest = open_runs(runs), load_manifest(tiny_slices)
    check_unseen(members, tiny_manifest, "test")
    leaking = replace(
        tiny_manifest,
        slices=[
            replace(row, split="test") if row.split == "train" else row
            for row in tiny_manifest.slices
        ],
    )
    with pytest.raises(ValueError, match=r"fold_0' was trained on 2 of the 4 cases of the split"):
        check_unseen(members, leaking, "test")
    check_unseen(members[:1], leaking, "test")
    away = [with_data(run, dataset_dir="gone") for run in members]  # known by run.json
    with pytest.raises(ValueError, match="2 of the 4 cases"):
        check_unseen(away, leaking, "test")
    older = [with_data(run, split=None) for run in members]  # known by its slices
    with pytest.raises(ValueError, match="2 of the 4 cases"):
        check_unseen(older, leaking, "test")
    check_unseen(
        [with_data(run, split=None, dataset_dir="gone") for run in members], leaking, "test"
    )


def with_data(run, **changes):
    return replace(run, record={**run.record, "data": {**run.record["data"], **changes}})

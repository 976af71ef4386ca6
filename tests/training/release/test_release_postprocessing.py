"""What was chosen on the validation cases goes along, and the bundle applies it."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from samtune.training.postprocess import LARGEST, CandidateScores, clean, write_choice
from samtune.training.predict import predict
from samtune.training.release.checks import NotReleasableError
from samtune.training.release.materialise import materialise
from samtune.training.release.verify import verify_bundle
from samtune.training.run_folder import load_run


def choose_largest(run, adapter):
    """As if `samtune postprocess` had found that the largest object of `front` is enough."""
    mask = np.zeros((30, 30, 30), bool)
    mask[:15, :15, :15] = mask[20:, 20:, 15:] = True  # too large for the other steps
    scores = CandidateScores({1: "front", 3: "back"})
    truth = clean(mask, LARGEST, (1, 1, 1)).astype(np.uint8)
    scores.add("x", mask.astype(np.uint8), truth, (1, 1, 1))
    write_choice(load_run(run), adapter, scores)


def volume(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module", params=[pytest.param("best", marks=pytest.mark.slow), "last"])
def cleaned(request, loud_run, run_bundle, tmp_path_factory):
    """A run whose released adapter has a choice, and which adapter that is."""
    run = shutil.copytree(loud_run, tmp_path_factory.mktemp("cleaned") / "run")
    adapter = request.param
    if adapter == "last":  # what is said by the best one is said by the last one
        best, last = (run / f"adapter_{name}.safetensors" for name in ("best", "last"))
        best.replace(run / "kept")
        last.replace(best)
        (run / "kept").replace(last)
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        torch.save({**state, "finished": True}, run / "checkpoint.pt")  # its file names no epoch
    choose_largest(run, adapter)
    run_bundle("evaluate", run_dir=str(run), device="cpu", adapter=adapter)
    return run, adapter


@pytest.fixture(scope="module")
def bundle_of(cleaned, release, tmp_path_factory):
    run, adapter = cleaned
    out = tmp_path_factory.mktemp("bundle") / "tiny_mr_lora"
    return release(out, run=run, adapter=adapter)


@pytest.fixture(scope="module")
def scan(tiny_volumes, test_case):
    return tiny_volumes / "images" / f"{test_case}.nii.gz"


def test_the_bundle_applies_it_whichever_adapter_is_released(
    cleaned, bundle_of, released, scan, tmp_path, caplog
):
    run, adapter = cleaned
    (expected,) = predict(run, scan, tmp_path, adapter=adapter, device="cpu", progress=False)
    # both adapters are the one that is released without a choice elsewhere
    found, raw = (one / "sample/expected" / expected.name for one in (bundle_of, released))
    np.testing.assert_array_equal(volume(found), volume(expected))
    assert (volume(found) != volume(raw)).any()
    assert all(check.state == "ok" for check in verify_bundle(bundle_of))
    assert "not used" not in caplog.text


@pytest.mark.parametrize("cleaned", ["last"], indirect=True)
def test_full_weights_keep_a_pipeline_that_applies_it(bundle_of, infer, tmp_path):
    with pytest.raises(ValueError, match=r"its transforms lack the steps of postprocessing\.json"):
        materialise(bundle_of, tmp_path / "full", torchscript=True)
    full = materialise(bundle_of, tmp_path / "full")
    infer(full, output_dir=tmp_path / "out")
    (expected,) = (full / "sample/expected").iterdir()
    found = volume(tmp_path / "out" / expected.name)
    np.testing.assert_array_equal(found, volume(expected))


def test_a_choice_for_the_other_adapter_stays_behind(scored_run, release, tmp_path):
    run = shutil.copytree(scored_run, tmp_path / "run")
    choose_largest(run, "last")
    bundle = release(tmp_path / "out", run=run, sample=None, sample_label=None)
    assert not (bundle / "models/postprocessing.json").exists()


def test_metrics_made_without_what_the_bundle_applies_are_refused(scored_run, release, tmp_path):
    run = shutil.copytree(scored_run, tmp_path / "run")
    choose_largest(run, "best")
    with pytest.raises(NotReleasableError, match=r"with post-processing \{\}, released would be"):
        release(tmp_path / "out", run=run)
    (run / "postprocessing.json").unlink()
    path = run / "metrics_test.json"
    companion = json.loads(path.read_bytes())
    companion["protocol"]["flips"] = "h"
    path.write_text(json.dumps(companion))
    with pytest.raises(NotReleasableError, match="is of the mean over flips 'h'"):
        release(tmp_path / "out", run=run)

"""Several runs as one bundle: what it holds, predicts, and which are refused."""

import csv
import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaml

from samtune.cli import main
from samtune.training.ensemble import open_runs
from samtune.training.predict import predict
from samtune.training.release.checks import NotReleasableError
from samtune.training.release.verify import verify_bundle


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def states(checks):
    return {check.name: check.state for check in checks}


@pytest.fixture(scope="module")
def folds(loud_run, run_bundle, tmp_path_factory):
    """Two members with the same test case, and the evaluation of their ensemble."""
    root = tmp_path_factory.mktemp("cv")
    for number in (0, 1):
        shutil.copytree(loud_run, root / f"fold_{number}")
    last = root / "fold_1/adapter_last.safetensors"
    shutil.copy(last, last.with_name("adapter_best.safetensors"))
    run_bundle("evaluate", run_dir=str(root), device="cpu")
    return root


@pytest.fixture(scope="module")
def ensemble(release, folds, tmp_path_factory):
    return release(tmp_path_factory.mktemp("ensemble") / "tiny_mr_lora", run=folds)


def test_each_member_has_its_folder_and_the_bundle_predicts_their_mean(
    ensemble, folds, released, tiny_volumes, test_case, tmp_path
):
    for number in (0, 1):
        name = f"fold_{number}/adapter_best.safetensors"
        assert (ensemble / "models" / name).read_bytes() == (folds / name).read_bytes()
    assert not (ensemble / "models/run.json").exists()
    scans = tiny_volumes / "images" / f"{test_case}.nii.gz"
    (mean,) = predict(folds, scans, tmp_path, device="cpu", progress=False)
    # what the ensemble's bundle predicts, and that of its first member alone
    found, alone = (bundle / "sample/expected" / mean.name for bundle in (ensemble, released))
    assert found.read_bytes() == mean.read_bytes()
    assert found.read_bytes() != alone.read_bytes()


def test_its_metrics_are_those_of_the_ensemble(ensemble, folds):
    docs = ensemble / "docs"
    assert (docs / "metrics_test.csv").read_bytes() == (folds / "metrics_test.csv").read_bytes()
    metadata = json.loads((ensemble / "configs/metadata.json").read_bytes())
    assert "Mean of the probabilities of 2 networks." in metadata["description"]
    card = (docs / "README.md").read_text()
    assert "| members | 2, mean of their probabilities |" in card
    assert "which no member was trained or chosen on" in card


def test_it_is_verified_and_an_altered_member_is_found(ensemble, rehash, tmp_path):
    assert states(verify_bundle(ensemble)) == dict.fromkeys(
        ("files", "metadata", "versions", "network", "sample", "metrics"), "ok"
    )
    bundle = shutil.copytree(ensemble, tmp_path / "copy")
    first, second = (bundle / f"models/fold_{n}/adapter_best.safetensors" for n in (0, 1))
    shutil.copy(first, second)
    rehash(bundle)
    found = states(verify_bundle(bundle))
    assert (found["files"], found["sample"]) == ("ok", "FAILED")


def test_monai_runs_it(ensemble, infer, tmp_path):
    infer(ensemble, output_dir=tmp_path)
    (expected,) = (ensemble / "sample/expected").iterdir()
    found = nib.load(tmp_path / expected.name)
    np.testing.assert_array_equal(found.dataobj, nib.load(expected).dataobj)


def test_full_weights_of_an_ensemble_are_refused(ensemble, tmp_path, capsys):
    out = tmp_path / "full"
    assert main(["release", str(ensemble), "--materialise", str(out)]) == 1
    assert "is an ensemble of 2 runs" in capsys.readouterr().err
    assert not out.exists()


def test_members_trained_alike_share_a_config_others_have_their_own(
    ensemble, release, folds, tmp_path
):
    assert not list((ensemble / "configs").glob("train_*"))
    other = shutil.copytree(folds, tmp_path / "cv")
    path = other / "fold_1/config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seed": 5}))
    runs = [other / "fold_0", other / "fold_1"]
    bundle = release(tmp_path / "out", run=runs, metrics=other, sample=None, sample_label=None)
    assert yaml.safe_load((bundle / "configs/train.yaml").read_text())["seed"] == 0
    assert yaml.safe_load((bundle / "configs/train_fold_1.yaml").read_text())["seed"] == 5


def as_folds(folds, out, *numbers_of):
    """A copy whose run N says that it is fold ``(number, of how many)``."""
    shutil.copytree(folds, out)
    for number, (fold, of) in enumerate(numbers_of):
        path = out / f"fold_{number}/run.json"
        record = json.loads(path.read_text())
        record["settings"]["data"] = {"fold": fold, "folds": of, "seed": 0, "stratify": None}
        path.write_text(json.dumps(record))
    return out


def test_a_release_of_some_folds_is_whole(release, folds, tmp_path):
    cv = as_folds(folds, tmp_path / "cv", (0, 3), (2, 3))
    with pytest.raises(ValueError, match="has 2 of the 3 folds of a cross-validation"):
        open_runs(cv)
    runs = [cv / "fold_0", cv / "fold_1"]
    bundle = release(tmp_path / "out", run=runs, metrics=folds, sample=None, sample_label=None)
    assert set(states(verify_bundle(bundle)).values()) <= {"ok", "warning", "skipped"}
    names = ["fold_0", "fold_1"]
    for folder in (bundle, bundle / "models"):  # as commands name it, as its configs do
        assert [run.path.name for run in open_runs(folder)] == names


def test_folds_of_two_cross_validations_are_no_ensemble(folds, tmp_path):
    cv = as_folds(folds, tmp_path / "cv", (0, 2), (1, 3))
    with pytest.raises(ValueError, match="are not of one cross-validation"):
        open_runs(cv)


@pytest.fixture(scope="module")
def rotated(folds, run_bundle, tiny_slices, tmp_path_factory):
    """Two folds, each with another test case, each evaluated."""
    root = tmp_path_factory.mktemp("rotated")
    slices = shutil.copytree(tiny_slices, root / "slices_1")
    manifest = json.loads((slices / "manifest.json").read_bytes())
    splits = {name: case["split"] for name, case in manifest["cases"].items()}
    first = {split: next(c for c in splits if splits[c] == split) for split in ("train", "test")}
    swap = {first["train"]: "test", first["test"]: "train"}
    for name, case in manifest["cases"].items():
        case["split"] = swap.get(name, "train" if case["split"] == "test" else case["split"])
    for row in manifest["slices"]:
        if "split" in row:
            row["split"] = manifest["cases"][row["case"]]["split"]
    (slices / "manifest.json").write_text(json.dumps(manifest))
    for number in (0, 1):
        shutil.copytree(folds / f"fold_{number}", root / f"cv/fold_{number}")
    path = root / "cv/fold_1/run.json"
    record = json.loads(path.read_bytes())
    digest = hashlib.sha256((slices / "manifest.json").read_bytes()).hexdigest()
    record["data"].update(slices=digest, dataset_dir=str(slices))
    path.write_text(json.dumps(record))
    for number in (0, 1):
        run_bundle("evaluate", run_dir=str(root / f"cv/fold_{number}"), device="cpu")
    return root / "cv"


def test_of_a_cross_validation_each_row_is_of_the_member_that_had_not_seen_the_case(
    rotated, release, tmp_path
):
    bundle = release(tmp_path / "out", run=rotated)
    rows = table(bundle / "docs/metrics_test.csv")
    members = [table(rotated / f"fold_{number}/metrics_test.csv") for number in (0, 1)]
    assert sorted(rows, key=str) == sorted(members[0] + members[1], key=str)
    assert [row["case"] for row in rows] == sorted(row["case"] for row in rows)
    front = [float(row["dice"]) for row in rows if row["name"] == "front"]
    metadata = json.loads((bundle / "configs/metadata.json").read_bytes())
    found = metadata["eval_metrics"]["front"]
    assert found["cases"] == len(front) == len({row["case"] for row in rows})
    assert found["dice"]["mean"] == pytest.approx(np.nanmean(front))
    companion = json.loads((bundle / "docs/metrics_test.json").read_bytes())
    assert companion["protocol"]["scored_by"].startswith("out-of-fold")
    card = (bundle / "docs/README.md").read_text()
    assert "released, was not scored" in card


def test_a_table_that_a_member_was_trained_on_is_refused(rotated, release, folds, tmp_path):
    """The table of the first fold's test cases, which the second was trained on."""
    with pytest.raises(NotReleasableError, match=r"fold_1' was evaluated on 2 cases that it was"):
        release(tmp_path / "out", run=rotated, metrics=folds)


def test_runs_scored_on_the_same_cases_need_a_table_of_the_ensemble(
    folds, release, scored_run, tmp_path
):
    for number in (0, 1):
        run = shutil.copytree(folds / f"fold_{number}", tmp_path / f"run_{number}")
        for path in scored_run.glob("metrics_test*"):
            shutil.copy(path, run)
    runs = [tmp_path / "run_0", tmp_path / "run_1"]
    with pytest.raises(NotReleasableError, match=r"were scored on the same cases.*\(--metrics\)"):
        release(tmp_path / "out", run=runs)
    # the table of one of them is not the ensemble's, and the other way round
    with pytest.raises(NotReleasableError, match=r"is of one run, .* an ensemble of run_0, run_1"):
        release(tmp_path / "out", run=runs, metrics=scored_run)
    with pytest.raises(NotReleasableError, match="is of an ensemble of fold_0, fold_1"):
        release(tmp_path / "out", run=runs[0], metrics=folds)
    assert not (tmp_path / "out").exists()


def test_members_are_checked_each(folds, release, tmp_path):
    cv = shutil.copytree(folds, tmp_path / "cv")
    path = cv / "fold_1/run.json"
    record = json.loads(path.read_bytes())

    def refused(error, message, **changes):
        with pytest.raises(error, match=message):
            release(tmp_path / "out", run=cv, **changes)

    refused(ValueError, "1 folders of slices for 2 runs", slices=tmp_path)
    record["settings"]["epochs"] = 9
    path.write_text(json.dumps(record))
    refused(NotReleasableError, "fold_1' is unfinished: 3 of 9 epochs")
    record["settings"]["epochs"] = 3
    record["network"]["base_sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    refused(NotReleasableError, "have different base weights .*a release has one")

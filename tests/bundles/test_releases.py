"""The bundles that this repository brings: whole, small, and they do what they say."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import create_workflow
from skimage.io import imread

from samtune.training.release.files import HASHES
from samtune.training.release.verify import passed, verify_bundle

BUNDLES = Path(__file__).parents[2] / "bundles"
RELEASES = sorted(path.parent.name for path in BUNDLES.glob(f"*/{HASHES}"))
LARGEST = 5e6  # bytes of an adapter


def read_label(path: Path) -> np.ndarray:
    volume = path.name.endswith(".nii.gz")
    return np.asarray(nib.load(path).dataobj) if volume else imread(path)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_there_are_three():
    assert RELEASES == ["hippocampus_mr_lora", "hippocampus_mr_salt", "retina_vessels_salt"]


@pytest.mark.parametrize("name", RELEASES)
def test_it_is_as_released_and_repeats_its_sample(packaged_weights: Path, name: str):
    checks = verify_bundle(BUNDLES / name)
    assert passed(checks), checks
    assert {check.name for check in checks} >= {"files", "network", "sample", "metrics"}


@pytest.mark.parametrize("name", RELEASES)
def test_monai_segments_its_sample(packaged_weights: Path, tmp_path: Path, name: str):
    bundle = BUNDLES / name
    workflow = create_workflow(
        config_file=str(bundle / "configs/inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        output_dir=str(tmp_path),
        device="cpu",
    )
    workflow.run()
    (expected,) = (bundle / "sample/expected").iterdir()
    found, wanted = read_label(tmp_path / expected.name), read_label(expected)
    assert found.shape == wanted.shape
    for value in np.unique(wanted)[1:]:
        both = np.sum((found == value) & (wanted == value))
        # other processors round otherwise
        assert 2 * both / (np.sum(found == value) + np.sum(wanted == value)) > 0.99


@pytest.mark.parametrize("name", RELEASES)
def test_its_adapter_is_small(name: str):
    (adapter,) = (BUNDLES / name / "models").glob("*.safetensors")
    assert adapter.stat().st_size < LARGEST


@pytest.mark.parametrize("name", RELEASES)
def test_its_table_has_every_test_case_and_no_other(name: str):
    docs = BUNDLES / name / "docs"
    split = {row["case"]: row["split"] for row in table(docs / "split.csv")}
    scored = {row["case"] for row in table(docs / "metrics_test.csv")}
    assert scored == {case for case, of in split.items() if of == "test"}
    card = (docs / "README.md").read_text()
    assert all(case in card for case in scored)


def test_both_of_the_hippocampus_have_the_same_cases_and_slices():
    first, second = (BUNDLES / f"hippocampus_mr_{method}" for method in ("lora", "salt"))
    assert table(first / "docs/split.csv") == table(second / "docs/split.csv")
    records = [json.loads((one / "models/run.json").read_bytes()) for one in (first, second)]
    assert records[0]["data"]["slices"] == records[1]["data"]["slices"]


def test_no_child_is_in_two_splits_of_the_retina():
    rows = table(BUNDLES / "retina_vessels_salt/docs/split.csv")
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["case"][: len("Image_01")], set()).add(row["split"])
    assert len(splits) == 14
    assert all(len(found) == 1 for found in splits.values())

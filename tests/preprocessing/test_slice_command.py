"""The options read off a manifest make the same settings again."""

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_command import slice_command, unsaid_settings

SPLIT = "case,split,patient\nc0,train,p\nc1,val,q\nc2,test,r\n"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for number in range(3):
            array = rng.integers(1, 4 if kind == "labels" else 900, (12, 10, 4)).astype(np.int16)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"c{number}.nii.gz")
    (folder / "split.csv").write_text(SPLIT)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--modality", "mr"],
        ["--modality", "mr", "--percentiles", "1.5", "99", "--scope", "slice", "--axis", "0"],
        ["--modality", "ct", "--window", "-600.5", "1500", "--bits", "16"],
        ["--modality", "ct", "--preset", "medsam", "--layout", "volume", "--channels", "3"],
        ["--modality", "mr", "--preset", "medsam", "--class-names", "1:a,2:b c,3:d"],
        ["--modality", "oct", "--spacing", "0.7,1.25", "--tile", "6", "--tile-overlap", "2"],
        ["--modality", "mr", "--crop", "2.5mm", "--tile", "6", "--tile-overlap", "0"],
        ["--modality", "mr", "--label-map", "1,2=>1:both", "--label-map", "*=>0"],
        ["--modality", "mr", "--ignore-label", "3", "--min-voxels", "2", "--min-pixels", "3"],
    ],
    ids=" ".join,
)
def test_the_command_gives_the_same_settings(scans: Path, tmp_path: Path, options: list[str]):
    table = str(scans / "split.csv")
    folders = ["slice", str(scans / "images"), "--labels", str(scans / "labels"), "-q"]
    made = [*folders, *options, "--split-csv", table, "--patient-csv", table]
    assert main([*made, "--out", str(tmp_path / "made")]) == 0
    first = load_manifest(tmp_path / "made")

    words = shlex.split(slice_command(first.settings, split_csv=table, patient_csv=table))
    places = {"IMAGES": scans / "images", "LABELS": scans / "labels", "slices": tmp_path / "again"}
    assert words.pop(0) == "samtune"
    assert main([str(places.get(word, word)) for word in words]) == 0
    again = load_manifest(tmp_path / "again")
    assert again.settings == first.settings
    assert again.cases == first.cases
    assert not unsaid_settings(first.settings)


def test_what_has_no_option_is_named(scans: Path, tmp_path: Path):
    options = ["--modality", "mr", "--case-ids", "hmac", "--salt-file", str(tmp_path / "salt")]
    out = tmp_path / "made"
    assert main(["slice", str(scans / "images"), "-q", *options, "--out", str(out)]) == 0
    settings = load_manifest(out).settings
    assert unsaid_settings(settings) == ["case_ids"]
    assert "--labels" not in slice_command(settings)

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest


@pytest.fixture
def slices(tmp_path, capsys):
    """Slices of three patients with two visits each."""
    label = np.zeros((5, 6, 3), np.uint8)
    label[1:3, 2:4, 1] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("ann-1", "ann-2", "bob-1", "bob-2", "eve-1", "eve-2"):
            nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    images, labels, out = (str(tmp_path / name) for name in ("images", "labels", "out"))
    arguments = ["slice", images, "--labels", labels, "--modality", "oct", "--out", out, "-q"]
    assert main([*arguments, "--workers", "1", "--patient-regex", "^(.+)-[12]$"]) == 0
    capsys.readouterr()
    return tmp_path / "out"


def test_the_split_is_rewritten_and_printed(slices, capsys):
    assert main(["split", str(slices), "--folds", "3", "--fold", "2", "--seed", "4"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["train", "val", "test"]
    for line in printed:
        name, cases = line.split(": ")[0], line.split(": ")[2]
        assert line.startswith(f"{name}: 2 cases of 1 patients, 6 slices: ")
        records = load_manifest(slices).cases
        assert cases == ", ".join(case for case in records if records[case].split == name)
    settings = load_manifest(slices).settings["split"]
    assert (settings["folds"], settings["fold"], settings["seed"]) == (3, 2, 4)
    assert settings["patients"] == {"regex": "^(.+)-[12]$"}


def test_a_dry_run_and_quiet(slices, capsys):
    before = (slices / "manifest.json").read_bytes()
    assert main(["split", str(slices), "--split-counts", "1", "1", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("dry run, nothing written\n")
    assert (slices / "manifest.json").read_bytes() == before
    assert main(["split", str(slices), "--split", "1", "0", "0", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert {record.split for record in load_manifest(slices).cases.values()} == {"train"}


def test_what_cannot_be_done_is_one_line(slices, capsys, tmp_path):
    assert main(["split", str(slices), "--folds", "4"]) == 1
    assert "3 cases or patients can't fill 4 folds" in capsys.readouterr().err
    assert main(["split", str(tmp_path), "--stratify", "presence"]) == 1
    assert "expected a folder written by 'samtune slice'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["split", str(slices), "--folds", "3", "--split", "1", "1", "1"])

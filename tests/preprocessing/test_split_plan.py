import os
from dataclasses import replace

import pytest

from samtune.preprocessing.folder_lock import locked_folder
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.patients import PatientRule
from samtune.preprocessing.split_plan import resplit_folder
from samtune.preprocessing.split_rule import SplitRule

EYES = PatientRule("^(.+)_[LR]$")


@pytest.fixture
def eyes(cases):
    """Four patients with two eyes each, from cases a and b."""
    for folder in cases:
        for number in range(4):
            for side, source in (("L", "a"), ("R", "b")):
                content = (folder / f"{source}.nii.gz").read_bytes()
                (folder / f"p{number}_{side}.nii.gz").write_bytes(content)
        for name in "abc":
            (folder / f"{name}.nii.gz").unlink()
    return cases


def sides(out) -> dict[str, str]:
    return {case: record.split for case, record in load_manifest(out).cases.items()}


def test_slicing_keeps_eyes_together_and_says_which_are_of_whom(eyes, run, tmp_path):
    run(split=SplitRule((1, 1, 2)), patients=EYES)
    manifest = load_manifest(tmp_path / "out")
    split = sides(tmp_path / "out")
    assert all(split[f"p{n}_L"] == split[f"p{n}_R"] for n in range(4))
    assert sorted(split.values()) == ["test"] * 4 + ["train"] * 2 + ["val"] * 2
    assert manifest.patients() == {case: case[:2] for case in split}
    assert manifest.settings["split"] == {
        "rule": "ratio",
        "ratio": [1.0, 1.0, 2.0],
        "seed": 0,
        "patients": {"regex": "^(.+)_[LR]$"},
    }
    before = (tmp_path / "out/manifest.json").read_bytes()
    assert run(split=SplitRule((1, 1, 2)), patients=EYES).done == []
    assert (tmp_path / "out/manifest.json").read_bytes() == before


def test_slicing_with_strata_is_split_at_the_end_and_resumes(eyes, run, tmp_path, read_all):
    rule = SplitRule(counts=(2, 1, 1), stratify="volume")
    assert {p.split for p in run(split=rule, patients=EYES, dry_run=True).planned} == {
        "split after slicing"
    }
    run(split=rule, patients=EYES)
    before = read_all(tmp_path / "out")
    split = sides(tmp_path / "out")
    assert sorted(split.values()) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    (tmp_path / "out/cases/p1_L.json").unlink()
    assert run(split=rule, patients=EYES).done == ["p1_L"]
    assert read_all(tmp_path / "out") == before


def test_strata_that_cannot_be_made_end_before_writing(run, tmp_path):
    for changes, message in [
        ({"split": SplitRule(stratify="volume"), "labels": None}, "labels are needed to stratify"),
        ({"split": SplitRule(counts=(1, 1, 2), stratify="volume")}, "is the number of cases, 3"),
        ({"split": SplitRule(folds=4)}, "3 cases or patients can't fill 4 folds"),
        ({"patients": EYES}, "gives none for 3 of 3 cases"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**changes)
    assert not (tmp_path / "out").exists()


def test_resplitting_is_as_if_sliced_so_and_only_the_manifest_changes(
    eyes, run, tmp_path, read_all
):
    rule = SplitRule(folds=4, fold=1, stratify="presence", seed=3)
    run(split=rule, patients=EYES, out=tmp_path / "whole")
    run()
    before = read_all(tmp_path / "out")
    assert resplit_folder(tmp_path / "out", rule, EYES, dry_run=True).settings["split"]["fold"] == 1
    assert read_all(tmp_path / "out") == before
    resplit_folder(tmp_path / "out", rule, EYES)
    after, whole = read_all(tmp_path / "out"), read_all(tmp_path / "whole")
    assert after["manifest.json"] == whole["manifest.json"] != before["manifest.json"]
    assert {n: c for n, c in after.items() if n != "manifest.json"} == {
        n: c for n, c in before.items() if n != "manifest.json"
    }
    # slicing goes on with the new split, and with the old one no more
    assert run(split=rule, patients=EYES).skipped == sorted(sides(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"split\.rule: folds -> ratio"):
        run()


def test_patients_once_known_stay_known(eyes, run, tmp_path):
    run(patients=EYES)
    for fold in range(4):
        resplit_folder(tmp_path / "out", SplitRule(folds=4, fold=fold))
        split = sides(tmp_path / "out")
        assert all(split[f"p{n}_L"] == split[f"p{n}_R"] for n in range(4))
    table = tmp_path / "split.csv"
    table.write_text(
        "case,split\n" + "".join(f"{case},{'val' if 'L' in case else 'test'}\n" for case in split)
    )
    with pytest.raises(ValueError, match="patient 'p0' is in val"):
        resplit_folder(tmp_path / "out", SplitRule(csv=table))


def test_a_failed_resplit_changes_nothing(run, tmp_path, read_all, monkeypatch):
    run(labels=None)
    before = read_all(tmp_path / "out")
    with pytest.raises(ValueError, match="case 'a' has no label to stratify by"):
        resplit_folder(tmp_path / "out", SplitRule(stratify="presence"))
    with (
        locked_folder(tmp_path / "out"),
        pytest.raises(OSError, match="another samtune process is writing there"),
    ):
        resplit_folder(tmp_path / "out", SplitRule(seed=5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            resplit_folder(tmp_path / "out", SplitRule(seed=5))
    assert read_all(tmp_path / "out") == before
    with pytest.raises(FileNotFoundError, match="a folder written by 'samtune slice'"):
        resplit_folder(tmp_path, SplitRule())


def test_cases_cropped_for_training_stay_in_training(run, tmp_path, monkeypatch):
    run(split=SplitRule(counts=(1, 1, 1)))
    manifest = load_manifest(tmp_path / "out")
    cropped = replace(manifest, settings={**manifest.settings, "slicing": {"crop_margin": 5}})
    monkeypatch.setattr("samtune.preprocessing.split_plan.load_manifest", lambda _: cropped)
    with pytest.raises(ValueError, match="training cases are cropped round their labels"):
        resplit_folder(tmp_path / "out", SplitRule((1, 0, 0)), dry_run=True)
    assert resplit_folder(tmp_path / "out", SplitRule(counts=(1, 1, 1)), dry_run=True).cases

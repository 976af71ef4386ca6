import csv

import nibabel as nib
import numpy as np
import pytest

NAMES = {1: "anterior", 2: "posterior"}


@pytest.mark.parametrize("layout", ["slice", "volume"])
def test_a_run_killed_while_slicing_is_completed_by_the_next(run, tmp_path, layout, read_all):
    run(out=tmp_path / "whole", layout=layout)
    run(layout=layout)
    out = tmp_path / "out"
    # killed in case b, before the end: half a file, no record, no manifest
    (out / "manifest.json").unlink()
    (out / "contact_sheet.png").unlink()
    (out / "cases/b.json").unlink()
    last = max((out / "slices").glob("b*.npz"))
    (out / f"slices/.{last.name}.part").write_bytes(last.read_bytes()[:40])
    (out / "cases/.b.json.part").write_bytes(b"{")
    last.unlink()
    report = run(layout=layout)
    assert (report.done, report.skipped) == (["b"], ["a", "c"])
    assert read_all(out) == read_all(tmp_path / "whole")


def test_slices_left_by_a_killed_run_of_another_axis_are_removed(run, tmp_path, read_all):
    run(out=tmp_path / "whole", axis=0)
    run(axis=1)  # 8 slices a case, more than along axis 0
    for path in [*(tmp_path / "out/cases").iterdir(), tmp_path / "out/manifest.json"]:
        path.unlink()
    (tmp_path / "out/slices/mine.npz").write_bytes(b"not ours")
    run(axis=0)
    (tmp_path / "out/slices/mine.npz").unlink()  # still there
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_a_slice_file_that_went_missing_is_made_again(run, tmp_path, read_all):
    run()
    before = read_all(tmp_path / "out")
    (tmp_path / "out/slices/a_001.npz").unlink()
    report = run()
    assert (report.done, report.skipped) == (["a"], ["b", "c"])
    assert read_all(tmp_path / "out") == before


def test_a_complete_folder_is_left_as_it_is(run, tmp_path, read_all):
    run()
    before = read_all(tmp_path / "out")
    report = run()
    assert (report.done, report.skipped, report.num_slices) == ([], ["a", "b", "c"], 4 + 5 + 8)
    assert read_all(tmp_path / "out") == before


def test_another_configuration_is_refused_with_the_differing_keys(run, tmp_path, read_all):
    run(modality="ct", class_names=NAMES)
    before = read_all(tmp_path / "out")
    with pytest.raises(ValueError, match="made with another configuration") as error:
        run(modality="ct", window=(40, 350), axis=0, seed=5, class_names={**NAMES, 3: "other"})
    for part in (
        "axis: 2 -> 0",
        "class_names.3: not set -> other",
        "intensity.window_width: 400.0 -> 350.0",
        "split.seed: 0 -> 5",
    ):
        assert part in str(error.value)
    assert "modality" not in str(error.value)
    assert read_all(tmp_path / "out") == before


def test_force_replaces_a_folder_of_another_configuration(run, tmp_path, read_all):
    run(axis=0, out=tmp_path / "whole")
    run(axis=1, layout="volume")
    report = run(axis=0, force=True)
    assert (report.done, report.skipped) == (["a", "b", "c"], [])
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


@pytest.mark.parametrize("folder", [0, 1])
def test_a_changed_source_is_an_error_and_redone_by_force(run, cases, tmp_path, folder, read_all):
    run()
    before = read_all(tmp_path / "out")
    path = cases[folder] / "b.nii.gz"
    image = nib.load(path)
    array = np.asanyarray(image.dataobj).copy()
    array[1, 1, 1] += 1
    nib.save(nib.Nifti1Image(array, image.affine), path)
    with pytest.raises(ValueError, match=r"b\.nii\.gz: has changed since it was sliced: sha256"):
        run()
    assert read_all(tmp_path / "out") == before
    assert run(force=True).done == ["a", "b", "c"]
    assert read_all(tmp_path / "out")["cases/b.json"] != before["cases/b.json"]


def test_a_case_taken_away_or_moved_to_another_split_is_an_error(
    run, cases, tmp_path, save_volume, read_all
):
    run(split_ratio=(0.5, 0.0, 0.5))
    before = read_all(tmp_path / "out")
    for folder in cases:
        (folder / "c.nii.gz").rename(folder / "c.away")
    with pytest.raises(ValueError, match="holds case 'c', which is not among the 2 images"):
        run(split_ratio=(0.5, 0.0, 0.5))
    for folder in cases:
        (folder / "c.away").rename(folder / "c.nii.gz")
        for name in "defghijk":
            (folder / f"{name}.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    with pytest.raises(ValueError, match="cases would move to another split"):
        run(split_ratio=(0.5, 0.0, 0.5))
    assert read_all(tmp_path / "out") == before


def test_a_file_as_output_folder_and_a_foreign_record_are_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: expected a folder for the output, found a file"):
        run(out=tmp_path / "file")
    (tmp_path / "out/cases").mkdir(parents=True)
    for text, message in [
        ("{", "not valid JSON"),
        ('{"format_version": 0}', "format_version is 0"),
        ('{"format_version": 1}', r"a\.json: not the record of a sliced case"),
    ]:
        (tmp_path / "out/cases/a.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            run()


def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(run, tmp_path, read_all):
    for name in ("b.txt", "a/c.txt", "slices/d.npz", "notes.md", "z.bin"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    before = read_all(tmp_path / "out")
    for changes in ({}, {"force": True}, {"dry_run": True}):
        with pytest.raises(ValueError, match=r"did not write \(a, b\.txt, notes\.md and 1 more\)"):
            run(**changes)
    assert read_all(tmp_path / "out") == before


def test_an_empty_folder_and_one_of_ours_with_a_note_are_taken(run, tmp_path):
    (tmp_path / "out").mkdir()
    run()
    (tmp_path / "out/notes.md").write_text("seen")
    assert run().skipped == ["a", "b", "c"]
    assert run(force=True).done == ["a", "b", "c"]
    assert (tmp_path / "out/notes.md").read_text() == "seen"


def test_failures_are_listed_in_a_csv_without_folders_until_they_are_mended(run, cases, tmp_path):
    good = {path: path.read_bytes() for path in cases[0].iterdir()}
    for name in ("c", "a"):
        (cases[0] / f"{name}.nii.gz").write_bytes(b"")
    report = run()
    with (tmp_path / "out/failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["file"]) for row in rows] == [("a", "a.nii.gz"), ("c", "c.nii.gz")]
    assert rows[0]["reason"].startswith("a.nii.gz: not a complete NIfTI file")
    assert report.failed["a"].replace(f"{cases[0]}/", "") == rows[0]["reason"]
    assert str(tmp_path) not in (tmp_path / "out/failures.csv").read_text()
    for path, content in good.items():
        path.write_bytes(content)
    run()
    assert not (tmp_path / "out/failures.csv").exists()


def test_names_of_files_are_names_on_every_system(run, cases, tmp_path):
    for folder in cases:  # characters of a name here, separators on Windows
        (folder / "a.nii.gz").rename(folder / "x:a*.nii.gz")
    assert run().done == ["b", "c", "x_a_"]
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"data", "out"}
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert {"x_a_.json", "x_a__000.npz"} <= names
    assert not any(set(name) & set("\\:*") for name in names)

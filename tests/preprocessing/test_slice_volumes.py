import hashlib
import importlib
import json
import re
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.intensity import Intensity, apply
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.preprocessing.slicing import slices_to_volume
from samtune.preprocessing.volumes import read_volume

NAMES = {1: "anterior", 2: "posterior"}


def put_back(out: Path, case: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and label volume of a case, from its slice files alone."""
    manifest = load_manifest(out)
    imgs, gts = [], []
    for record in manifest.select(case=case):
        one_imgs, one_gts = read_slice_file(manifest.path(record))
        imgs.append(one_imgs[record.position])
        if one_gts is not None:
            gts.append(one_gts[record.position])
    geometry = manifest.cases[case].geometry
    label = slices_to_volume(np.stack(gts), geometry) if gts else None
    return slices_to_volume(np.stack(imgs), geometry), label


@pytest.mark.parametrize("layout", ["slice", "volume"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_every_slice_of_every_case_is_kept_and_gives_the_volumes_back(
    run, cases, tmp_path, layout, axis
):
    report = run(layout=layout, axis=axis)
    assert (report.done, report.skipped, report.failed) == (["a", "b", "c"], [], {})
    manifest = load_manifest(tmp_path / "out")
    assert len(manifest.slices) == report.num_slices
    assert report.num_slices == sum(c.geometry.slices_shape[0] for c in manifest.cases.values())
    files = {record.file for record in manifest.slices}
    assert len(files) == (3 if layout == "volume" else report.num_slices)
    assert {p.name for p in (tmp_path / "out/slices").iterdir()} == {Path(f).name for f in files}
    for case in "abc":
        image, label = (read_volume(folder / f"{case}.nii.gz") for folder in cases)
        imgs, gts = put_back(tmp_path / "out", case)
        np.testing.assert_array_equal(imgs, apply(image.array, Intensity.for_modality("mr")))
        np.testing.assert_array_equal(gts, label.array)
        assert imgs.dtype == gts.dtype == np.uint8


def test_the_manifest_says_what_is_in_each_slice(run, cases, tmp_path):
    run(class_names=NAMES, split_counts=(1, 1, 1))
    manifest = load_manifest(tmp_path / "out")
    assert manifest.settings["class_names"] == {"1": "anterior", "2": "posterior"}
    assert manifest.settings["label_values"] == [1, 2]
    assert manifest.settings["split"] == {"rule": "counts", "counts": [1, 1, 1], "seed": 0}
    assert manifest.settings["intensity"]["upper_percentile"] == 99.5
    # case a is RAS: label 1 is 2 x 3 pixels in axial slices 1 and 2, label 2 is 1 x 3
    assert [record.labels for record in manifest.select(case="a")] == [
        {},
        {1: 6, 2: 3},
        {1: 6, 2: 3},
        {},
    ]
    assert sorted(record.split for record in manifest.cases.values()) == ["test", "train", "val"]
    for case, record in manifest.cases.items():
        content = (cases[0] / f"{case}.nii.gz").read_bytes()
        assert record.source_sha256 == hashlib.sha256(content).hexdigest()
        assert record.image_name == record.label_name == f"{case}.nii.gz"
        assert {s.split for s in manifest.select(case=case)} == {record.split}


def test_unlabelled_volumes_and_a_single_file_are_sliced(run, cases, tmp_path):
    run(labels=None)
    manifest = load_manifest(tmp_path / "out")
    assert all(record.labels is None for record in manifest.slices)
    assert put_back(tmp_path / "out", "b")[1] is None
    report = run(images=cases[0] / "a.nii.gz", out=tmp_path / "one")
    assert (report.done, report.num_slices) == (["a"], 4)


def test_labels_above_255_are_uint16_and_above_65535_an_error(run, cases, tmp_path, save_volume):
    affine = nib.load(cases[1] / "a.nii.gz").affine
    for case, value in (("a", 256), ("b", 70000)):
        path = cases[1] / f"{case}.nii.gz"
        label = np.asanyarray(nib.load(path).dataobj).astype(np.int32) * value
        save_volume(path, label, nib.load(path).affine if case == "b" else affine)
    report = run()
    assert put_back(tmp_path / "out", "a")[1].dtype == np.uint16
    assert list(report.failed) == ["b"]
    assert "b.nii.gz: label value 140000; slice files hold values up to 65535" in report.failed["b"]


def test_two_runs_give_equal_bytes_at_another_time_and_with_other_workers(
    run, tmp_path, monkeypatch, read_all
):
    run(out=tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(time, "localtime", lambda _=None: time.gmtime(2_000_000_000))
        run(out=tmp_path / "two")
    run(out=tmp_path / "three", workers=2)
    one = read_all(tmp_path / "one")
    assert "contact_sheet.png" in one
    assert "cases/a.json" in one
    assert read_all(tmp_path / "two") == one
    assert read_all(tmp_path / "three") == one


def test_an_empty_folder_or_unpaired_file_ends_before_writing(run, cases, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: looked for \*\.nii .* found nothing"):
        run(images=tmp_path / "empty")
    (cases[1] / "b.nii.gz").rename(tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match=r"1 of 3 images without a label .*: b\.nii\.gz"):
        run()
    (cases[0] / "b.nii.gz").unlink()
    (tmp_path / "b.nii.gz").rename(cases[1] / "b.nii.gz")
    with pytest.raises(ValueError, match=r"1 of 3 labels without an image .*: b\.nii\.gz"):
        run()
    assert not (tmp_path / "out").exists()


def test_labels_that_are_all_empty_end_before_writing(run, cases, tmp_path):
    for path in cases[1].iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    with pytest.raises(ValueError, match=r"labels: no voxel > 0 in any of the 3 readable labels"):
        run()
    assert not (tmp_path / "out").exists()


def test_one_empty_label_is_fine(run, cases, tmp_path):
    path = cases[1] / "a.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert not run().failed
    manifest = load_manifest(tmp_path / "out")
    assert all(record.labels == {} for record in manifest.select(case="a"))


def spoil(path: Path, how: str) -> str:
    """Make a file bad; returns what the message must say beside the file's name."""
    image = nib.load(path)
    array = np.asanyarray(image.dataobj).copy()
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
        return "not a complete NIfTI file"
    if how == "shape":
        nib.save(nib.Nifti1Image(array[1:], image.affine), path)
        return r"shape \(5, 8, 5\), its image b\.nii\.gz has \(6, 8, 5\)"
    if how == "affine":
        nib.save(nib.Nifti1Image(array, image.affine + np.eye(4)[:, [3, 2, 1, 0]]), path)
        return "label has affine .* its image b.nii.gz has"
    if how == "fraction":
        nib.save(nib.Nifti1Image(array * np.float32(0.5), image.affine), path)
        return r"label value 0\.5 at voxel .*a whole number"
    if how == "unnamed":
        nib.save(nib.Nifti1Image(array * np.uint8(4), image.affine), path)
        return "label value 4 has no class name; named are 1:anterior, 2:posterior"
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), path)
    return "1 of 240 voxels are NaN or infinite"


@pytest.mark.parametrize(
    ("folder", "how"),
    [
        (0, "truncated"),
        (0, "nan"),
        (1, "truncated"),
        (1, "shape"),
        (1, "affine"),
        (1, "fraction"),
        (1, "unnamed"),
    ],
)
def test_a_bad_case_fails_alone_with_its_reason_and_is_done_once_mended(
    run, cases, tmp_path, folder, how, read_all
):
    run(out=tmp_path / "whole", class_names=NAMES)
    path = cases[folder] / "b.nii.gz"
    good = path.read_bytes()
    expected = spoil(path, how)
    report = run(class_names=NAMES)
    assert (report.done, list(report.failed)) == (["a", "c"], ["b"])
    reason = report.failed["b"]
    assert reason.startswith(str(path))
    assert "\n" not in reason
    assert re.search(expected, reason)
    manifest = load_manifest(tmp_path / "out")
    assert (sorted(manifest.cases), manifest.failed) == (["a", "c"], ["b"])
    assert not list((tmp_path / "out").rglob("b*"))  # nothing half-written
    path.write_bytes(good)
    report = run(class_names=NAMES)
    assert (report.done, report.skipped, report.failed) == (["b"], ["a", "c"], {})
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_if_all_cases_fail_there_is_no_manifest(run, cases, tmp_path):
    for path in cases[0].iterdir():
        path.write_bytes(b"")
    report = run()
    assert sorted(report.failed) == ["a", "b", "c"]
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["failures.csv"]


def test_a_full_disk_fails_the_case_and_leaves_no_record(run, tmp_path, monkeypatch):
    from samtune.preprocessing import slice_case

    original = slice_case.write_slice_file

    def full(path, imgs, gts):
        if path.name in failing:
            raise OSError("No space left on device")
        original(path, imgs, gts)

    with monkeypatch.context() as patch:
        patch.setattr(slice_case, "write_slice_file", full)
        failing = {"a_001.npz", "b_001.npz", "c_001.npz"}
        assert len(run().failed) == 3
        left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert left == ["failures.csv"]
        failing = {"b_001.npz"}
        report = run()
    assert report.failed == {"b": "No space left on device"}
    assert not list((tmp_path / "out").rglob("b*"))
    assert run().done == ["b"]


def test_a_dry_run_plans_from_headers_and_writes_nothing(run, cases, tmp_path):
    spoil(cases[1] / "b.nii.gz", "shape")
    report = run(dry_run=True, split_counts=(3, 0, 0), axis=None)
    assert not (tmp_path / "out").exists()
    assert [(p.geometry.case, p.num_slices, p.split) for p in report.planned] == [
        ("a", 4, "train"),
        ("c", 6, "train"),
    ]
    assert list(report.failed) == ["b"]
    assert report.num_slices == 10


def test_a_csv_gives_the_split_and_its_change_is_noticed(run, tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("case,split\na,test\nb,train\nc,val\n")
    run(split_csv=path)
    manifest = load_manifest(tmp_path / "out")
    assert {case: record.split for case, record in manifest.cases.items()} == {
        "a": "test",
        "b": "train",
        "c": "val",
    }
    path.write_text("case,split\na,train\nb,train\nc,val\n")
    with pytest.raises(ValueError, match=r"another configuration .*split\.sha256"):
        run(split_csv=path)


def test_a_killed_worker_is_one_clear_error(run, monkeypatch):
    module = importlib.import_module("samtune.preprocessing.run_cases")

    class Parallel:
        def __init__(self, **_):
            pass

        def __call__(self, _):
            raise module.BrokenProcessPool("gone")
            yield

    monkeypatch.setattr(module.joblib, "Parallel", Parallel)
    with pytest.raises(OSError, match=r"a worker process was killed.*after 0 of 3 cases"):
        run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": 3}, "axis must be 0, 1, 2 or None, got 3"),
        ({"layout": "flat"}, "layout must be slice or volume, got 'flat'"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"window": (40, 400)}, "a window is for modality ct, got 'mr'"),
        ({"class_names": {0: "background"}}, "class names: 0:'background'; expected a value >= 1"),
        ({"class_names": {1: "a", 2: "a"}}, "a name is there twice"),
        ({"split_counts": (1, 1, 2)}, "is the number of cases, 3"),
    ],
)
def test_unusable_settings_end_before_writing(run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)
    assert not (tmp_path / "out").exists()


def test_no_file_holds_a_path_of_this_machine(run, tmp_path, read_all):
    run(class_names=NAMES)
    for name, content in read_all(tmp_path / "out").items():
        assert str(tmp_path).encode() not in content, name
    assert "manifest.json" in read_all(tmp_path / "out")
    json.loads((tmp_path / "out/cases/a.json").read_text())


def test_real_volumes_come_back_exactly(hippocampus, tmp_path):
    images = sorted((hippocampus / "images").glob("*.nii.gz"))[:2]
    for image in images:
        out = tmp_path / image.name
        report = slice_volumes(image, hippocampus / "labels", modality="mr", out=out, workers=1)
        case = image.name.removesuffix(".nii.gz")
        assert report.done == [case]
        label = read_volume(hippocampus / "labels" / image.name)
        np.testing.assert_array_equal(put_back(out, case)[1], label.array)
        assert load_manifest(out).case_labels() == [1, 2]

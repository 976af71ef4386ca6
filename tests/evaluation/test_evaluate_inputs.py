"""Folders as users have them: options, other grids, other formats, bad files, full disks, kills."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from skimage.io import imsave

from samtune.evaluation.evaluate_folders import evaluate_folders
from samtune.evaluation.label_files import label_grid
from samtune.evaluation.metrics import score_masks
from samtune.evaluation.regions import Region, regions_from_config, with_options
from samtune.evaluation.table import read_metrics
from samtune.preprocessing import volumes

REGIONS = regions_from_config({1: "front", 2: "back"})
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def evaluate(folders, **changes):
    return evaluate_folders(
        folders.pred, folders.ref, folders.out, **{"regions": REGIONS, **changes}
    )


def read_array(path):
    return np.asarray(nib.load(path).dataobj)


def rows_of(report, case):
    return [row for row in report.rows if row.case == case]


def test_an_nnunet_folder_is_evaluated_with_what_lies_beside_the_labels(folders):
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        (folders.pred / name).write_text("{}")
    (folders.pred / "case_0.npz").write_bytes(b"")  # nnU-Net's probabilities
    report = evaluate(folders)
    assert report.is_complete
    assert {row.case for row in report.rows} == {f"case_{number}" for number in range(4)}


def test_ignored_voxels_count_in_neither_file(folders):
    ref = read_array(folders.ref / "case_0.nii.gz").copy()
    pred = read_array(folders.pred / "case_0.nii.gz").copy()
    ref[:, :, :3] = 255
    folders.write_ref("case_0", ref)
    with_ignore = rows_of(evaluate(folders, ignore_label=255), "case_0")
    kept_ref, kept_pred = ref.copy(), pred.copy()
    kept_ref[:, :, :3] = kept_pred[:, :, :3] = 0
    for row, value in zip(with_ignore, (1, 2), strict=True):
        expected = score_masks(kept_pred == value, kept_ref == value, spacing=(1, 1, 2))
        assert (row.dice, row.nsd, row.hd95_mm) == (expected.dice, expected.nsd, expected.hd95_mm)
    # without the option it is a label that nobody listed; it is never found as a class
    assert "label 255" in evaluate(folders, force=True).failures["case_0"]
    found = evaluate(folders, regions=None, ignore_label=255, force=True)
    assert [region.labels for region in found.regions] == [(1,), (2,)]
    with pytest.raises(FileExistsError, match="its ignore_label is 255, now None"):
        evaluate(folders, regions=found.regions)


def test_classes_have_their_own_tolerances_and_clDice(folders):  # noqa: N802 - its name
    report = evaluate(folders, class_tolerances_mm={"back": (0.5, 2)}, cldice=["back"])
    lines = [line.split(",") for line in folders.out.read_text().splitlines()]
    columns = dict(zip(lines[0], zip(*lines[1:3], strict=True), strict=True))
    assert [name for name in lines[0] if "nsd" in name] == ["nsd_1mm", "nsd_0.5mm", "nsd_2mm"]
    assert columns["nsd_1mm"][1] == columns["nsd_0.5mm"][0] == columns["nsd_2mm"][0] == ""
    assert columns["cldice"][0] == ""
    assert 0 < float(columns["cldice"][1]) <= 1
    assert read_metrics(folders.out) == report.rows
    with pytest.raises(ValueError, match="no class or region is named 'liver'; names are front, b"):
        evaluate(folders, cldice=["liver"])


def test_region_options_are_checked():
    with pytest.raises(ValueError, match=r"region 'front': tolerances \[-1.0\] mm"):
        with_options(REGIONS, tolerances_mm={"front": [-1]})
    with pytest.raises(ValueError, match="region 'x': tolerances"):
        Region("x", (1,), tolerances_mm=())


def test_monai_definition_is_written_beside_the_numbers(folders):
    options = {"tolerances_mm": (0.5,)}
    ours = evaluate(folders, **options)
    theirs = evaluate(folders, **options, definition="monai", force=True)
    assert [row.dice for row in ours.rows] == [row.dice for row in theirs.rows]
    assert [row.nsd for row in ours.rows] != [row.nsd for row in theirs.rows]
    companion = json.loads(theirs.companion.read_text())
    assert companion["settings"]["definition"] == "monai"
    assert "MONAI" in companion["definitions"]["hd95"]


def test_lengths_in_pixels_ignore_the_spacing(folders):
    evaluate(folders, unit="px", tolerances_mm=(1, 2))
    header = folders.out.read_text().splitlines()[0].split(",")
    assert [name for name in header if name.endswith("px")] == [
        "nsd_1px", "nsd_2px", "hd95_px", "assd_px",
    ]  # fmt: skip
    row = read_metrics(folders.out)[0]
    arrays = (read_array(folder / "case_0.nii.gz") == 1 for folder in (folders.pred, folders.ref))
    expected = score_masks(*arrays, spacing=(1, 1, 1))
    assert (row.unit, row.hd95_mm, row.assd_mm) == ("px", expected.hd95_mm, expected.assd_mm)
    assert math.isnan(row.volume_ref_ml)


def flipped(folders):
    """The same prediction stored from left to right instead of from right to left."""
    path = folders.pred / "case_2.nii.gz"
    array, affine = read_array(path), AFFINE.copy()
    affine[0, 0], affine[0, 3] = -1, len(array) - 1
    folders.write_pred("case_2", array[::-1], affine)


def finer(folders):
    """The same prediction with every voxel halved along the last axis."""
    array, affine = read_array(folders.pred / "case_2.nii.gz"), AFFINE.copy()
    affine[2, 2], affine[2, 3] = 1, -0.5
    folders.write_pred("case_2", array.repeat(2, axis=2), affine)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (flipped, ["oriented LAS, reference RAS", "-1.0", "(1.0, 1.0, 2.0) mm"]),
        (finer, ["(12, 10, 16)", "(12, 10, 8)"]),
    ],
)
def test_another_grid_fails_unless_resampling_is_asked_for(folders, change, found):
    good = evaluate(folders)
    change(folders)
    bad = evaluate(folders)
    assert all(text in bad.failures["case_2"] for text in found), bad.failures
    assert evaluate(folders, resample_pred=True, force=True).rows == good.rows


def test_same_shape_and_another_spacing_fails_with_both(folders):
    path = folders.pred / "case_2.nii.gz"
    folders.write_pred("case_2", read_array(path), np.diag([1.0, 1.0, 3.0, 1.0]))
    reason = evaluate(folders).failures["case_2"]
    assert "(1.0, 1.0, 3.0) mm" in reason
    assert "(1.0, 1.0, 2.0) mm" in reason


def test_nan_and_negative_labels_fail_with_where_they_are(folders):
    array = read_array(folders.pred / "case_1.nii.gz").astype(np.float32)
    array[3, 4, 5] = np.nan
    folders.write_pred("case_1", array)
    array[3, 4, 5] = -1
    folders.write_pred("case_2", array)
    failures = evaluate(folders).failures
    assert "nan at voxel (3, 4, 5)" in failures["case_1"]
    assert "-1" in failures["case_2"]


def test_a_case_that_is_there_twice_ends_the_run_before_anything_is_written(folders):
    nib.save(nib.load(folders.pred / "case_1.nii.gz"), folders.pred / "case_1.nii")
    with pytest.raises(ValueError, match=r"pred: case 'case_1' has two files"):
        evaluate(folders)
    assert not folders.out.exists()


def test_an_output_that_cannot_be_written_is_named(folders):
    folders.out.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="out"):
        evaluate(folders)


@pytest.fixture
def open_folder():
    """A folder that every user may enter: pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are Unix only")
def test_a_write_protected_output_is_named(folders, open_folder):
    shutil.copytree(folders.pred, open_folder / "pred")
    shutil.copytree(folders.ref, open_folder / "ref")
    out = open_folder / "out"
    out.mkdir(mode=0o555)
    receive, send = multiprocessing.Pipe(duplex=False)

    def evaluate_as_nobody():
        if os.geteuid() == 0:  # root may write all
            os.setuid(65534)
        try:
            evaluate_folders(open_folder / "pred", open_folder / "ref", out / "metrics.csv")
        except OSError as error:
            send.send((type(error).__name__, str(error)))

    process = multiprocessing.get_context("fork").Process(target=evaluate_as_nobody)
    process.start()
    process.join()
    assert receive.poll()
    kind, text = receive.recv()
    assert kind == "PermissionError"
    assert "metrics.json" in text
    assert list(out.iterdir()) == []


def copy_cases(folders, total):
    for number in range(4, total):
        for folder in (folders.pred, folders.ref):
            source = folder / f"case_{number % 4}.nii.gz"
            (folder / f"case_{number}.nii.gz").write_bytes(source.read_bytes())


def test_a_full_disk_keeps_finished_cases_and_the_next_run_goes_on(folders):
    resource = pytest.importorskip("resource", reason="file size limits are Unix only")
    copy_cases(folders, 16)
    # long names make the table, which grows, larger than its companion, which is written first
    regions = [Region(f"{value}" * 400, (value,)) for value in (1, 2)]
    evaluate(folders, regions=regions)
    whole = folders.out.read_bytes()
    assert len(whole) > folders.out.with_suffix(".json").stat().st_size + 1500
    for path in folders.out.parent.iterdir():
        path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 700, hard))
    try:
        with pytest.raises(OSError, match=r"metrics\.csv"):
            evaluate(folders, regions=regions)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert evaluate(folders, regions=regions).num_kept == 15
    assert folders.out.read_bytes() == whole


def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(folders):
    copy_cases(folders, 16)
    evaluate(folders)
    whole = {path.name: path.read_bytes() for path in folders.out.parent.iterdir()}
    for path in folders.out.parent.iterdir():
        path.unlink()
    generator = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    num_killed = 0
    for _ in range(6):
        process = context.Process(target=evaluate, args=(folders,))
        process.start()
        time.sleep(generator.uniform(0.005, 0.08))
        process.kill()
        process.join()
        num_killed += process.exitcode == -signal.SIGKILL
    assert num_killed
    evaluate(folders)
    assert {
        p.name: p.read_bytes() for p in folders.out.parent.iterdir() if p.name[0] != "."
    } == whole


def write_itk(path, array):
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((1.0, 1.0, 2.0))
    SimpleITK.WriteImage(image, str(path), True)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_formats_score_as_nifti_does(folders, suffix):
    if suffix not in volumes.SUFFIXES:
        pytest.skip(f"preprocessing reads no {suffix} yet")
    expected = evaluate(folders).rows
    for folder in (folders.pred, folders.ref):
        for path in sorted(folder.iterdir()):
            write_itk(folder / path.name.replace(".nii.gz", suffix), read_array(path))
            path.unlink()
    found = evaluate(folders, force=True)
    assert found.rows == expected


def test_pictures_are_scored_in_2d_and_in_pixels(tmp_path):
    if not hasattr(volumes, "read_image"):
        pytest.skip("preprocessing reads no .png yet")
    ref = np.zeros((20, 30), np.uint8)
    ref[4:12, 5:20] = 1
    pred = np.roll(ref, 2, axis=1)
    for folder, label in (("pred", pred), ("ref", ref)):
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / "eye.png", label, check_contrast=False)
    out = tmp_path / "metrics.csv"
    report = evaluate_folders(
        tmp_path / "pred",
        tmp_path / "ref",
        out,
        regions=[Region("vessel", (1,))],
        tolerances_mm=(1, 2),
    )
    expected = score_masks(pred > 0, ref > 0, spacing=(1, 1), tolerances_mm=(1, 2))
    (row,) = report.rows
    assert (row.dice, row.nsd, row.hd95_mm) == (expected.dice, expected.nsd, expected.hd95_mm)
    assert "nsd_1px,nsd_2px,hd95_px" in out.read_text()


def write_npz(folder, case, **arrays):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{case}.npz", **arrays)


def npz_pair():
    ref = np.zeros((5, 12, 14), np.uint8)
    ref[1:4, 3:8, 3:8] = 1
    return np.roll(ref, 1, axis=2), ref


def test_npz_without_spacing_is_scored_in_pixels(tmp_path):
    pred, ref = npz_pair()
    for case in ("a", "b"):
        write_npz(tmp_path / "ref", case, imgs=ref, gts=ref)
    write_npz(tmp_path / "pred", "a", segs=pred)
    write_npz(tmp_path / "pred", "b", logits=pred)
    out = tmp_path / "metrics.csv"
    regions = [Region("organ", (1,))]
    report = evaluate_folders(tmp_path / "pred", tmp_path / "ref", out, regions=regions)
    expected = score_masks(pred > 0, ref > 0, spacing=None)
    assert (report.rows[0].dice, report.rows[0].nsd) == (expected.dice, expected.nsd)
    assert "arrays ['logits'], expected one of ['segs', 'gts'" in report.failures["b"]
    assert [row.unit for row in report.rows] == ["px", "px"]
    assert label_grid(tmp_path / "ref" / "a.npz") == ((5, 12, 14), None)


@pytest.mark.parametrize(("key", "stored"), [("gts", [0.7, 0.8, 5.0]), ("labels", [5.0, 0.8, 0.7])])
def test_spacing_of_npz_is_itks_beside_medsams_keys_and_the_arrays_beside_ours(
    tmp_path, key, stored
):
    pred, ref = npz_pair()
    write_npz(tmp_path / "ref", "a", **{key: ref}, spacing=stored)
    write_npz(tmp_path / "pred", "a", segs=pred)  # MedSAM's predictions have none
    out = tmp_path / "metrics.csv"
    report = evaluate_folders(
        tmp_path / "pred", tmp_path / "ref", out, regions=[Region("organ", (1,))]
    )
    (row,) = report.rows
    expected = score_masks(pred > 0, ref > 0, spacing=(5, 0.8, 0.7))
    assert (row.unit, row.hd95_mm, row.nsd) == ("mm", 0.7, expected.nsd)
    assert label_grid(tmp_path / "ref" / "a.npz") == ((5, 12, 14), (5.0, 0.8, 0.7))


@pytest.mark.parametrize(
    ("spacing", "found"),
    [
        ([0.8, 0.8], r"spacing is \[0.8, 0.8\]; expected 3 numbers > 0"),
        ([0.8, 0.8, 0.0], "expected 3 numbers > 0"),
        ([0.8, 0.8, 6.0], "reference .* expected the same within"),
    ],
)
def test_other_and_unusable_spacing_of_npz_fails_with_both(tmp_path, spacing, found):
    pred, ref = npz_pair()
    write_npz(tmp_path / "ref", "a", gts=ref, spacing=[0.8, 0.8, 5.0])
    write_npz(tmp_path / "pred", "a", segs=pred, spacing=spacing)
    report = evaluate_folders(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "m.csv", regions=[Region("organ", (1,))]
    )
    assert re.search(found, report.failures["a"])


def test_grid_of_a_volume_is_read_from_its_header(folders):
    assert label_grid(folders.ref / "case_0.nii.gz") == ((12, 10, 8), (1.0, 1.0, 2.0))

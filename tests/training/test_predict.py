import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.model_frame import image_to_frame, logits_to_slice
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slicing import slices_to_volume
from samtune.preprocessing.volumes import read_volume
from samtune.training.predict import FailedScansError, predict
from samtune.training.run_folder import load_run


@pytest.fixture(scope="module")
def scans(tiny_volumes):
    return [tiny_volumes / "images" / f"case_{i}.nii.gz" for i in (1, 3)]


@pytest.fixture(scope="module")
def written(loud_run, scans, tmp_path_factory):
    return predict(loud_run, scans, tmp_path_factory.mktemp("pred"), device="cpu")


def test_label_files_have_name_shape_affine_and_codes_of_the_scans(written, scans):
    assert [path.name for path in written] == [scan.name for scan in scans]
    for path, scan in zip(written, scans, strict=True):
        label, image = nib.load(path), nib.load(scan)
        assert label.shape == image.shape
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(label.affine, image.affine)
        for key in ("sform_code", "qform_code", "xyzt_units"):
            assert label.header[key] == image.header[key], key
        assert (int(label.header["sform_code"]), int(label.header["qform_code"])) == (1, 2)
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 3}  # the task's own values


def test_prediction_is_argmax_of_logits_resized_to_each_slice(loud_run, written, scans):
    network = load_run(loud_run).network()
    volume = read_volume(scans[1])
    slices, geometry = prepare_case(
        volume, case="x", intensity=Intensity.for_modality("mr"), axis=None
    )
    expected = []
    for image in slices:
        frame = image_to_frame(torch.from_numpy(image)[None], 128, "medsam")
        with torch.no_grad():
            logits = logits_to_slice(network(frame[None])[0], image.shape)
        expected.append(np.array([0, 1, 3])[logits.argmax(0).numpy()])
    label = np.asarray(nib.load(written[1]).dataobj)
    same = label == slices_to_volume(np.stack(expected), geometry)
    assert same.mean() > 0.999  # a tie may fall the other way in a batch of another size


def test_batch_size_and_neighbours_change_nothing_that_matters(loud_run, written, scans, tmp_path):
    (alone,) = predict(loud_run, scans[1], tmp_path, device="cpu", batch_size=3)
    one, other = (np.asarray(nib.load(path).dataobj) for path in (alone, written[1]))
    assert (one == other).mean() > 0.999


def test_last_adapter_is_another_one(loud_run, written, scans, tmp_path):
    (path,) = predict(loud_run, [scans[0]], tmp_path, adapter="last", device="cpu", progress=False)
    best, last = (np.asarray(nib.load(file).dataobj) for file in (written[0], path))
    assert (best != last).any()


def test_what_is_wrong_is_said_before_anything_is_written(tiny_run, scans, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        predict(tmp_path, scans, out)
    with pytest.raises(ValueError, match="'cuda:9' is not on this machine"):
        predict(tiny_run.path, scans, out, device="cuda:9")
    with pytest.raises(ValueError, match="would be overwritten by its prediction"):
        predict(tiny_run.path, scans, scans[0].parent, device="cpu")
    with pytest.raises(FileNotFoundError, match=r"nothing.pth' does not exist"):
        predict(tiny_run.path, scans, out, checkpoint="nothing.pth", device="cpu")
    assert not out.exists()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def other_run(loud_run, tmp_path_factory):
    """Like the loud run, with another adapter as its best."""
    path = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(loud_run, path)
    shutil.copy(path / "adapter_last.safetensors", path / "adapter_best.safetensors")
    return path


@pytest.fixture(scope="module")
def averaged(loud_run, other_run, scans, tmp_path_factory):
    """The mean of two runs with all that can be written."""
    out = tmp_path_factory.mktemp("averaged")
    options = {"probabilities": "nii.gz", "statistics": True, "device": "cpu"}
    return predict(loud_run, scans, out, ensemble=[other_run], **options)


def test_an_ensemble_is_the_mean_of_what_its_runs_say(
    loud_run, other_run, averaged, scans, tmp_path
):
    means = []
    for number, run in enumerate((loud_run, other_run)):
        predict(run, scans[0], tmp_path / str(number), device="cpu", probabilities="npz")
        file = tmp_path / str(number) / "probabilities/case_1.npz"
        with np.load(file) as data:
            assert data["channels"].tolist() == ["background", "front", "back"]
            np.testing.assert_array_equal(data["affine"], nib.load(scans[0]).affine)
            means.append(data["probabilities"].astype(float))
    together = nib.load(averaged[0].parent / "probabilities/case_1.nii.gz")
    found = np.moveaxis(np.asarray(together.dataobj), 3, 0)
    # of a slice's own pixels: the mean is of the frame's, before they are resized
    np.testing.assert_allclose(found, np.mean(means, 0), atol=0.1)
    assert abs(found - np.mean(means, 0)).mean() < 5e-3
    assert abs(found - means[0]).mean() > 2e-2


def test_probabilities_are_on_the_scans_grid_and_agree_with_the_label(averaged, scans):
    for path, scan in zip(averaged, scans, strict=True):
        image, label = nib.load(scan), np.asarray(nib.load(path).dataobj)
        file = nib.load(path.parent / "probabilities" / path.name)
        assert file.get_data_dtype() == np.float32
        assert file.shape == (*image.shape, 3)
        np.testing.assert_array_equal(file.affine, image.affine)
        values = np.asarray(file.dataobj)
        np.testing.assert_allclose(values.sum(3), 1, atol=1e-5)
        top = np.sort(values, 3)
        clear = top[..., 2] - top[..., 1] > 1e-4
        np.testing.assert_array_equal(np.array([0, 1, 3])[values.argmax(3)][clear], label[clear])


def test_tables_hold_the_volumes_of_the_label_files(averaged):
    table = {row["case"]: row for row in rows(averaged[0].parent / "qc.csv")}
    statistics = rows(averaged[0].parent / "statistics.csv")
    assert [(row["case"], row["label"], row["name"]) for row in statistics] == [
        (case, label, name)
        for case in ("case_1", "case_3")
        for label, name in (("1", "front"), ("3", "back"))
    ]
    for row in statistics:
        label = np.asarray(nib.load(averaged[0].parent / f"{row['case']}.nii.gz").dataobj)
        expected = (label == int(row["label"])).sum() * 5 / 1000  # voxels of 5 mm3
        assert float(row["volume_ml"]) == pytest.approx(expected, rel=1e-4)
        assert table[row["case"]][f"{row['name']}_volume_ml"] == row["volume_ml"]
        confidence = float(table[row["case"]][f"{row['name']}_mean_confidence"])
        assert 1 / 3 < confidence <= 1


def test_the_record_says_what_they_were_made_with(averaged, loud_run, other_run):
    record = json.loads((averaged[0].parent / "predictions.json").read_text())
    assert record["complete"] is True
    assert record["runs"] == [str(loud_run), str(other_run)]
    assert len(set(record["settings"]["adapters"])) == 2
    assert record["settings"]["flips"] == "none"
    assert set(record["cases"]) == {"case_1", "case_3"}


def test_a_folder_of_folds_is_their_ensemble(loud_run, other_run, averaged, scans, tmp_path):
    for number, run in enumerate((loud_run, other_run)):
        shutil.copytree(run, tmp_path / f"cv/fold_{number}")
    (label,) = predict(tmp_path / "cv", scans[0], tmp_path / "out", device="cpu")
    same = np.asarray(nib.load(label).dataobj) == np.asarray(nib.load(averaged[0]).dataobj)
    assert same.all()


def test_one_bad_scan_does_not_end_the_others_and_resuming_does_the_rest(
    loud_run, written, scans, tmp_path, caplog
):
    folder = tmp_path / "scans"
    folder.mkdir()
    for scan in scans:
        shutil.copy(scan, folder)
    (folder / "case_2.nii.gz").write_bytes(b"no NIfTI")  # found by its header
    torn = folder / "case_4.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((90, 90, 3)), np.eye(4)), tmp_path / "whole.nii")
    torn.with_suffix("").write_bytes((tmp_path / "whole.nii").read_bytes()[:-5000])
    out = tmp_path / "out"
    with pytest.raises(FailedScansError, match=r"2 of 4 .*: case_2: .*; case_4: ") as info:
        predict(loud_run, folder, out, device="cpu")
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == []  # said once
    assert [path.name for path in info.value.written] == ["case_1.nii.gz", "case_3.nii.gz"]
    for one, other in zip(info.value.written, written, strict=True):
        assert one.read_bytes() == other.read_bytes()
    status = {row["case"]: row["status"] for row in rows(out / "qc.csv")}
    assert status == {"case_1": "ok", "case_2": "failed", "case_3": "ok", "case_4": "failed"}
    assert json.loads((out / "predictions.json").read_text())["complete"] is False

    shutil.copy(scans[0], folder / "case_2.nii.gz")  # the cause is gone
    torn.with_suffix("").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in info.value.written}
    files = predict(loud_run, folder, out, device="cpu", resume=True)
    assert [path.name for path in files] == ["case_1.nii.gz", "case_2.nii.gz", "case_3.nii.gz"]
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert files[1].stat().st_mtime_ns > max(before.values())
    assert {row["case"]: row["status"] for row in rows(out / "qc.csv")}["case_2"] == "ok"

    shutil.copy(scans[1], folder / "case_1.nii.gz")  # another scan of the same name
    predict(loud_run, folder, out, device="cpu", resume=True)
    after = {name: (out / name).stat().st_mtime_ns for name in before}
    assert after["case_1.nii.gz"] > before["case_1.nii.gz"]
    assert after["case_3.nii.gz"] == before["case_3.nii.gz"]

    with pytest.raises(FileExistsError, match="flips was 'none', now 'h'"):
        predict(loud_run, folder, out, device="cpu", resume=True, flips="h")


def test_what_an_earlier_call_wrote_of_other_masks_is_gone(loud_run, scans, tmp_path):
    options = {"device": "cpu", "progress": False}
    predict(loud_run, scans, tmp_path, probabilities="npz", statistics=True, **options)
    assert sorted(path.name for path in (tmp_path / "probabilities").iterdir()) == [
        "case_1.npz",
        "case_3.npz",
    ]
    assert (tmp_path / "statistics.csv").is_file()
    predict(loud_run, scans[0], tmp_path, probabilities="nii.gz", flips="h", **options)
    # case_3's label is still the one that its probabilities are of
    assert sorted(path.name for path in (tmp_path / "probabilities").iterdir()) == [
        "case_1.nii.gz",
        "case_3.npz",
    ]
    assert not (tmp_path / "statistics.csv").exists()
    predict(loud_run, scans, tmp_path, **options)
    assert list((tmp_path / "probabilities").iterdir()) == []


def test_statistics_of_a_resumed_call_are_of_all_its_scans(loud_run, scans, tmp_path):
    options = {"device": "cpu", "progress": False, "resume": True}
    predict(loud_run, scans[0], tmp_path, statistics=True, **options)
    predict(loud_run, scans, tmp_path, **options)  # they would lack the second scan
    assert not (tmp_path / "statistics.csv").exists()
    predict(loud_run, scans, tmp_path, statistics=True, **options)
    assert {row["case"] for row in rows(tmp_path / "statistics.csv")} == {"case_1", "case_3"}


def test_what_does_not_fit_is_refused_before_anything_is_written(loud_run, scans, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="is in the ensemble twice"):
        predict(loud_run, scans, out, ensemble=loud_run)
    with pytest.raises(ValueError, match="flips must be one of"):
        predict(loud_run, scans, out, flips="left")
    with pytest.raises(ValueError, match=r"probabilities must be nii.gz or npz, got 'csv'"):
        predict(loud_run, scans, out, probabilities="csv")
    changed = tmp_path / "changed"
    shutil.copytree(loud_run, changed)
    record = json.loads((changed / "run.json").read_text())
    record["data"]["intensity"]["upper"] = 12
    (changed / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="can't be an ensemble, they differ in intensity"):
        predict(loud_run, scans, out, ensemble=[changed])
    assert not out.exists()

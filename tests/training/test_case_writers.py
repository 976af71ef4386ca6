import csv
import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samtune.evaluation.bootstrap import mean_interval
from samtune.evaluation.evaluate_folders import evaluate_folders
from samtune.evaluation.regions import Region
from samtune.evaluation.table import read_metrics
from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.volumes import read_grid
from samtune.training.case_stream import reference_volume
from samtune.training.case_writers import CaseLabelWriter, CaseMetricsWriter, grid_of
from samtune.training.prediction_record import RECORD_FILE
from samtune.training.raw_slices import RawSlices
from samtune.training.task import make_task

TASK = make_task({1: "front", 3: "back"}, {"whole": "1+3"})


@pytest.fixture
def labels():
    """Two cases of 4 x 6 x 3 voxels of 1 x 2 x 5 mm; b has no `back`."""
    a, b = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)
    a[:, :2, 1], a[:, 2:5, 1] = 1, 3
    b[1:3, 1:3, :2] = 1
    return {"a": a, "b": b}


@pytest.fixture
def score(slice_labels, stream, labels, tmp_path):
    """Run the writer over slices; rows of its table by (case, name), and the engine."""
    manifest = slice_labels(labels)

    def call(slices, **options):
        writer = CaseMetricsWriter(manifest, "test", TASK, tmp_path / "out/m.csv", **options)
        engine = stream(slices)
        writer.attach(engine)
        engine.run(engine.batches)
        with (tmp_path / "out/m.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {(row["case"], row["name"]): row for row in rows}, engine

    return call


def slices_of(case, label):
    return [(case, index, label[:, :, index].astype(np.int64)) for index in range(label.shape[2])]


def test_perfect_predictions(score, labels, tmp_path):
    rows, engine = score([*slices_of("a", labels["a"]), *slices_of("b", labels["b"])])
    assert list(rows) == [(c, n) for c in "ab" for n in ("front", "back", "whole")]
    row = rows["a", "whole"]
    assert list(row) == [
        *("case", "label", "name", "status", "dice", "iou", "nsd_1mm", "hd95_mm"),
        *("volume_ref_ml", "volume_pred_ml", "volume_error_ml"),
        *("assd_mm", "sensitivity", "precision"),
    ]
    assert (row["label"], row["status"], row["dice"], row["hd95_mm"]) == ("1+3", "ok", "1.0", "0.0")
    assert float(row["volume_ref_ml"]) == pytest.approx(4 * 5 * 10 / 1000)  # voxels of 10 mm3
    assert rows["b", "back"]["status"] == "both_empty"
    assert math.isnan(float(rows["b", "back"]["dice"]))
    assert engine.state.metrics == {"dice_front": 1.0, "dice_back": 1.0, "dice_whole": 1.0}
    summary = (tmp_path / "out/m_summary.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in summary[1:]] == [
        ["1", "front"],
        ["3", "back"],
        ["1+3", "whole"],
    ]


def test_distances_are_in_mm_of_the_cases_own_axes(score, labels):
    moved = np.roll(labels["b"], 1, axis=1)  # by one voxel of 2 mm
    rows, _ = score([*slices_of("b", moved)], tolerances_mm=(1.0, 2.0))
    row = rows["b", "front"]
    assert float(row["dice"]) == pytest.approx(0.5)
    assert float(row["hd95_mm"]) == pytest.approx(2.0)
    assert float(row["nsd_2mm"]) == 1.0
    assert float(row["nsd_1mm"]) < 1.0


def test_cases_that_were_never_seen_are_predicted_empty(score, labels):
    rows, _ = score(slices_of("a", labels["a"]))
    row = rows["b", "front"]
    assert (row["status"], row["dice"], row["iou"], row["nsd_1mm"]) == (
        "pred_empty",
        "0.0",
        "0.0",
        "0.0",
    )
    assert row["hd95_mm"] == "inf"
    assert float(row["volume_ref_ml"]) == pytest.approx(0.08)
    assert float(row["volume_pred_ml"]) == 0
    assert rows["b", "back"]["status"] == "both_empty"


def test_overlapping_masks_are_scored_each_for_itself(score, labels, tmp_path):
    a = labels["a"]
    masks = np.stack([a == 1, a > 0, a > 0])  # `back` covers `front` too
    slices = [("a", i, masks[..., i]) for i in range(3)]
    rows, _ = score(slices, pred_dir=tmp_path / "pred")
    assert rows["a", "front"]["dice"] == rows["a", "whole"]["dice"] == "1.0"
    assert float(rows["a", "back"]["dice"]) == pytest.approx(2 * 12 / (12 + 20))
    written = np.asarray(nib.load(tmp_path / "pred/a.nii.gz").dataobj)
    np.testing.assert_array_equal(written, np.where(a > 0, 3, 0))  # the later class is kept


def test_predictions_are_written_on_the_grid_of_the_scan(score, labels, tmp_path):
    score([*slices_of("a", labels["a"]), *slices_of("b", labels["b"])], pred_dir=tmp_path / "pred")
    for case in "ab":
        label = nib.load(tmp_path / f"hand_made/labels/{case}.nii.gz")
        written = nib.load(tmp_path / f"pred/{case}.nii.gz")
        np.testing.assert_array_equal(written.dataobj, label.dataobj)
        np.testing.assert_allclose(written.affine, label.affine, atol=1e-6)
        assert written.header.get_xyzt_units()[0] == "mm"
    assert nib.aff2axcodes(nib.load(tmp_path / "pred/b.nii.gz").affine) == ("P", "S", "R")


def test_companion_says_how_the_masks_came_about(score, labels, tmp_path):
    score(slices_of("a", labels["a"]), protocol={"prompt": "oracle_box"})
    companion = json.loads((tmp_path / "out/m.json").read_text())
    assert companion["protocol"] == {"split": "test", "num_cases": 2, "prompt": "oracle_box"}
    assert companion["complete"] is True


def test_a_second_evaluation_replaces_the_first(score, labels):
    score(slices_of("a", labels["a"]))
    rows, _ = score(slices_of("b", labels["b"]), tolerances_mm=(2.0,))
    assert rows["a", "front"]["status"] == "pred_empty"
    assert "nsd_2mm" in rows["a", "front"]


def test_label_writer_writes_each_scan_when_it_is_complete(tiny_volumes, tmp_path, stream):
    scans = [tiny_volumes / "images" / f"case_{i}.nii.gz" for i in (1, 3)]
    sources = RawSlices(
        scans,
        intensity=Intensity.for_modality("mr").to_dict(),
        axis=None,
        transform=dict,
        out=tmp_path / "new/folder",
    )
    slices = []
    for position in range(len(sources)):
        item = sources[position]
        pred = np.zeros(tuple(item["size_hw"]), np.int64)
        pred[0, 0], pred[-1, 0] = 1 + item["index"], 300
        slices.append((item["case"], item["index"], pred))
    record = tmp_path / "new/folder" / RECORD_FILE  # of others, which a resume would trust
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    engine, writer = stream(slices, batch_size=4), CaseLabelWriter(sources)
    writer.attach(engine)
    engine.run(engine.batches)
    assert not record.exists()
    assert writer.written == [tmp_path / "new/folder" / scan.name for scan in scans]
    for path, scan in zip(writer.written, scans, strict=True):
        volume, image = nib.as_closest_canonical(nib.load(path)), nib.load(scan)
        assert volume.get_data_dtype() == np.uint16
        np.testing.assert_array_equal(nib.load(path).affine, image.affine)
        np.testing.assert_array_equal(np.asarray(volume.dataobj)[0, 0], [1, 2, 3])  # axis 2 is cut
        assert (np.asarray(volume.dataobj)[-1, 0] == 300).all()


def test_a_grid_for_a_case_whose_file_is_not_at_hand(tiny_manifest, tiny_volumes):
    for case, record in tiny_manifest.cases.items():
        grid = grid_of(record.geometry)
        source = read_grid(tiny_volumes / "images" / f"{case}.nii.gz")
        assert grid.shape == source.shape
        np.testing.assert_array_equal(grid.affine, source.affine)
        np.testing.assert_allclose(grid.header.get_sform(), source.affine, atol=1e-5)
        np.testing.assert_allclose(grid.header.get_qform(), source.affine, atol=1e-5)


def test_reference_of_the_hand_made_cases_is_what_was_given(slice_labels, labels):
    manifest = slice_labels(labels, orientations=("RAS",))
    np.testing.assert_array_equal(reference_volume(manifest, "a"), labels["a"])


def test_options_are_those_of_samtune_evaluate(score, labels, tmp_path):
    rng = np.random.default_rng(3)
    preds = {
        case: rng.choice([0, 1, 3], label.shape).astype(np.uint8) for case, label in labels.items()
    }
    options = {
        "tolerances_mm": (1.0,),
        "class_tolerances_mm": {"front": [2.0, 5.0]},
        "cldice": ["whole"],
        "definition": "monai",
    }
    slices = [one for case in "ab" for one in slices_of(case, preds[case])]
    score(slices, pred_dir=tmp_path / "pred", **options)
    evaluate_folders(
        tmp_path / "pred",
        tmp_path / "hand_made/labels",
        tmp_path / "other/m.csv",
        regions=TASK.scored(),
        **options,
    )
    for name in ("m.csv", "m_summary.csv", "m_summary.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "other" / name).read_text()
    header = (tmp_path / "out/m.csv").read_text().partition("\n")[0].split(",")
    assert {"nsd_1mm", "nsd_2mm", "nsd_5mm", "cldice"} <= set(header)
    settings = json.loads((tmp_path / "out/m.json").read_text())["settings"]
    assert settings["definition"] == "monai"
    assert settings["tolerances_mm_by_region"] == {"front": [2.0, 5.0]}


def test_one_value_may_stand_without_brackets(score, labels):
    options = {"tolerances_mm": 3, "class_tolerances_mm": {"front": 2}, "cldice": "front"}
    rows, _ = score(slices_of("a", labels["a"]), **options)
    assert (rows["a", "front"]["nsd_2mm"], rows["a", "front"]["nsd_3mm"]) == ("1.0", "")
    assert (rows["a", "front"]["cldice"], rows["a", "back"]["cldice"]) == ("1.0", "")


def test_unknown_names_and_scored_ignore_labels_are_errors(score):
    with pytest.raises(ValueError, match="no class or region is named 'liver'"):
        score([], class_tolerances_mm={"liver": 2})
    with pytest.raises(ValueError, match="ignore_label 3 is also a class"):
        score([], ignore_label=3)
    with pytest.raises(ValueError, match="definition 'mine', expected one of"):
        score([], definition="mine")


@pytest.mark.parametrize("given", [255, "auto"])
def test_what_nobody_judged_is_in_neither_mask(slice_labels, stream, labels, tmp_path, given):
    a = labels["a"].copy()
    a[:, 3, 1] = 255  # a column of what was `back`
    manifest = slice_labels({"a": a})
    if given == "auto":
        manifest.settings["label_steps"] = {"ignore_label": 255}
    out = tmp_path / "m.csv"
    writer = CaseMetricsWriter(manifest, "test", TASK, out, ignore_label=given)
    slices = slices_of("a", labels["a"])  # predicts `back` there
    engine = stream(slices)
    writer.attach(engine)
    engine.run(engine.batches)
    with out.open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {row["dice"] for row in rows.values()} == {"1.0"}
    assert float(rows["back"]["volume_pred_ml"]) == pytest.approx(4 * 2 * 10 / 1000)
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["ignore_label"] == 255


def test_intervals_draw_the_patients_of_the_slices(slice_labels, stream, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{p}_{eye}": (rng.random((4, 6, 3)) < 0.5).astype(np.uint8) for p in "pqr" for eye in "lr"
    }
    manifest = slice_labels(arrays, orientations=("RAS",))
    for case, record in manifest.cases.items():
        manifest.cases[case] = replace(record, patient=case[0])
    slices = [
        (case, index, np.where(rng.random(label.shape[:2]) < 0.7, label[:, :, index], 0))
        for case, label in arrays.items()
        for index in range(3)
    ]
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{case},{case[0]}\n" for case in arrays))
    found = {}
    for name, options in (("own", {}), ("table", {"patients": table})):
        out = tmp_path / f"{name}.csv"
        writer = CaseMetricsWriter(manifest, "test", make_task({1: "x"}), out, **options)
        engine = stream(slices)
        writer.attach(engine)
        engine.run(engine.batches)
        summary = json.loads(out.with_name(f"{name}_summary.json").read_text())["classes"][0]
        assert summary["num_patients"] == 3
        assert json.loads(out.with_suffix(".json").read_text())["patients"]["q_l"] == "q"
        found[name] = summary["dice"]
        dice = [row.dice for row in sorted(read_metrics(out), key=lambda row: row.case)]
        expected = mean_interval(dice, groups=[case[0] for case in sorted(arrays)])
        assert (summary["dice"]["ci_low"], summary["dice"]["ci_high"]) == pytest.approx(
            (expected.low, expected.high)
        )
        assert expected.low != mean_interval(dice).low  # the unit counts
    assert found["own"] == found["table"]


def test_a_single_picture_is_scored_in_two_dimensions_and_pixels(slice_labels, stream, tmp_path):
    label = np.zeros((10, 10, 1), np.uint8)
    label[3:7, 3:7] = 1
    pred = np.roll(label, 1, axis=1)
    manifest = slice_labels({"a": label}, orientations=("RAS",))
    (record,) = manifest.cases.values()
    unsized = replace(record.geometry, spacing=(1.0, 1.0, 1.0))
    manifest.cases["a"] = replace(record, image_name="a.png", geometry=unsized)
    out = tmp_path / "m.csv"
    writer = CaseMetricsWriter(manifest, "test", make_task({1: "x"}), out, tolerances_mm=(0.0,))
    engine = stream([("a", 0, pred[:, :, 0].astype(np.int64))])
    writer.attach(engine)
    engine.run(engine.batches)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["hd95_px"] == "1.0"
    assert float(row["nsd_0px"]) == pytest.approx(0.5)  # with two sides to the slice: 0.781
    assert math.isnan(float(row["volume_ref_ml"]))


def test_predictions_of_pictures_are_pictures_that_samtune_evaluate_takes(
    slice_labels, stream, tmp_path
):
    """PNG references of the same names: the same rows as the bundle's table."""
    rng = np.random.default_rng(0)
    labels = {case: (rng.random((6, 9, 1)) < 0.5).astype(np.uint8) for case in "ab"}
    manifest = slice_labels(labels, orientations=("RAS",))
    (tmp_path / "ref").mkdir()
    (tmp_path / "pred").mkdir()
    for case, record in manifest.cases.items():
        unsized = replace(record.geometry, spacing=(1.0, 1.0, 1.0), affine=np.eye(4))
        manifest.cases[case] = replace(record, image_name=f"{case}.jpg", geometry=unsized)
        Image.fromarray(labels[case][:, :, 0]).save(tmp_path / f"ref/{case}.png")
        # left by a version that wrote volumes
        nib.save(nib.Nifti1Image(labels[case], np.eye(4)), tmp_path / f"pred/{case}.nii.gz")
    preds = {case: np.roll(label[:, :, 0], 1, axis=1) for case, label in labels.items()}
    out = tmp_path / "m.csv"
    writer = CaseMetricsWriter(
        manifest, "test", make_task({1: "x"}), out, pred_dir=tmp_path / "pred"
    )
    engine = stream([(case, 0, pred.astype(np.int64)) for case, pred in preds.items()])
    writer.attach(engine)
    engine.run(engine.batches)
    assert sorted(path.name for path in (tmp_path / "pred").iterdir()) == ["a.png", "b.png"]
    for case, pred in preds.items():
        with Image.open(tmp_path / f"pred/{case}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), pred)
    report = evaluate_folders(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "e.csv", regions=[Region("x", (1,))]
    )
    assert report.is_complete
    assert (tmp_path / "e.csv").read_text() == out.read_text()
    assert 0 < report.rows[0].dice < 1

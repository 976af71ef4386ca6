"""The facts of a run folder: what is read, what is missing, and that pictures stand upright."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from samtune.evaluation import MetricsCsv, regions_from_config, score_case
from samtune.evaluation.report import page
from samtune.preprocessing.manifest import MANIFEST_NAME, load_manifest
from samtune.preprocessing.slice_file import read_slice_file, write_slice_file
from samtune.preprocessing.volumes import read_volume, write_label
from samtune.training.case_stream import reference_volume
from samtune.training.case_writers import grid_of
from samtune.training.report import run_facts

CLASSES = {1: "front", 3: "back"}


def make_run(folder: Path, slices: Path, **changes: Any) -> Path:
    """What training and evaluation leave, without either: predictions are shifted labels."""
    manifest = load_manifest(slices)
    record = {
        "format_version": 1,
        "settings": {"epochs": 2, "peft": {"name": "lora", "rank": 8, "targets": ["q", "v"]}},
        "task": {"classes": {"1": "front", "3": "back"}, "regions": {}},
        "data": {"dataset_dir": str(slices), "slices": "not this", "modality": "mr"},
        "network": {"arch": "lite_medsam", "image_size": 128, "peft": {"method": {"name": "lora"}}},
        "parameters": {"trainable": 10, "total": 1000},
        "versions": {"torch": "2"},
        "git_commit": "abc",
        "command": ["run", "training"],
    } | changes
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "curve.csv").write_text(
        "epoch,iteration,train_loss,val_dice\n1,10,1.5,\n2,20,0.5,0.75\n"
    )
    regions = regions_from_config(CLASSES)
    table = MetricsCsv(
        folder / "metrics_test.csv", regions=regions, notes={"protocol": {"adapter": "best"}}
    )
    for case in sorted({record.case for record in manifest.select("test")}):
        label = reference_volume(manifest, case)
        pred = np.roll(label, 1, 0)
        geometry = manifest.cases[case].geometry
        table.add(score_case(case, pred, label, geometry.spacing, regions))
        (folder / "predictions_test").mkdir(exist_ok=True)
        write_label(folder / f"predictions_test/{case}.nii.gz", pred, like=grid_of(geometry))
    table.finish()
    return folder


@pytest.fixture
def made_run(tmp_path: Path, tiny_slices: Path) -> Path:
    from samtune.networks.weights import sha256_of

    data = {
        "dataset_dir": str(tiny_slices),
        "slices": sha256_of(tiny_slices / MANIFEST_NAME),
        "modality": "mr",
    }
    return make_run(tmp_path / "run", tiny_slices, data=data)


def test_whole_run_lacks_nothing(made_run: Path):
    facts = run_facts(made_run)
    assert facts.missing == []
    assert facts.name == "run"
    assert facts.overview["method"] == "lora"
    assert facts.overview["cases scored"] == "2"
    assert len(facts.scores) == 2 * 2
    assert facts.curve["epoch"] == [1, 2]
    assert facts.curve["val_dice"][1] == 0.75
    assert math.isnan(facts.curve["val_dice"][0])
    assert facts.settings["peft.targets"] == "q, v"
    assert facts.settings["command"] == "run training"
    assert facts.versions["git commit"] == "abc"
    assert facts.versions["evaluation: numpy"] == np.__version__
    assert facts.protocol == {"adapter": "best"}


def test_pictures_stand_upright(made_run: Path, tiny_volumes: Path, tiny_slices: Path):
    facts = run_facts(made_run)
    case = facts.scores[0].case
    pictures = facts.load_case(case)
    label = nib.as_closest_canonical(nib.load(tiny_volumes / f"labels/{case}.nii.gz"))
    ras = np.asarray(label.dataobj)  # cut along 2: anterior is up, so rows run from its end
    assert pictures.reference.shape == (ras.shape[2], ras.shape[1], ras.shape[0])
    for k in range(ras.shape[2]):
        assert (pictures.reference[k] == ras[:, ::-1, k].T).all()
    assert pictures.pixel_mm == pytest.approx((1.25, 1.0))
    pred = nib.as_closest_canonical(nib.load(made_run / f"predictions_test/{case}.nii.gz"))
    assert (pictures.prediction[1] == np.asarray(pred.dataobj)[:, ::-1, 1].T).all()
    image = nib.as_closest_canonical(nib.load(tiny_volumes / f"images/{case}.nii.gz"))
    bright = np.asarray(image.dataobj)[:, ::-1, 1].T > 130
    assert bright.any()
    assert pictures.image[1][bright].min() > pictures.image[1][~bright].max()


def test_rows_and_columns_of_a_picture_stay(made_run: Path):
    load = run_facts(made_run).load_case
    case = run_facts(made_run).scores[0].case
    before = load(case)
    record = load.manifest.cases[case]
    load.manifest.cases[case] = dataclasses.replace(record, image_name="case.png")
    load._cached.cache_clear()
    after = load(case)
    assert (after.image == before.image[:, ::-1].swapaxes(1, 2)).all()
    assert (after.reference == before.reference[:, ::-1].swapaxes(1, 2)).all()
    assert after.pixel_mm == before.pixel_mm[::-1]


def test_colour_and_16_bits(tmp_path: Path, made_run: Path, tiny_slices: Path):
    facts = run_facts(made_run)
    case = facts.scores[0].case
    grey = facts.load_case(case).image
    root = tmp_path / "copy"
    shutil.copytree(tiny_slices, root)
    manifest = load_manifest(root)
    for record in manifest.select(case=case):
        images, labels = read_slice_file(manifest.path(record))
        write_slice_file(manifest.path(record), np.stack([images] * 3, axis=-1), labels)
    coloured = run_facts(made_run, slices=root).load_case(case).image
    assert coloured.shape == (*grey.shape, 3)
    assert (coloured[..., 1] == grey).all()
    for record in manifest.select(case=case):
        images, labels = read_slice_file(manifest.path(record))
        deep = images[..., 0].astype(np.uint16) * 100 + 7
        write_slice_file(manifest.path(record), deep, labels)
    stretched = run_facts(made_run, slices=root).load_case(case).image
    assert stretched.dtype == np.uint8
    assert stretched.min() == 0
    assert stretched.max() == 255
    low, high = int(grey.min()), int(grey.max())
    expected = np.round((grey.astype(float) - low) * 255 / (high - low))
    assert np.abs(stretched - expected).max() <= 1


def test_case_that_the_slices_lack(made_run: Path):
    with pytest.raises(ValueError, match="has no case 'other'"):
        run_facts(made_run).load_case("other")


def test_run_without_metrics(made_run: Path):
    for file in made_run.glob("metrics_test*"):
        file.unlink()
    facts = run_facts(made_run)
    assert facts.scores == []
    assert facts.load_case is None
    assert any("no metrics of the test cases" in text for text in facts.missing)
    assert "Trainable parameters" in page.render(facts)


def test_metrics_without_run_predictions_and_curve(made_run: Path, tiny_slices: Path):
    (made_run / "run.json").unlink()
    (made_run / "curve.csv").unlink()
    shutil.rmtree(made_run / "predictions_test")
    facts = run_facts(made_run)
    said = " ".join(facts.missing)
    for what in ("run.json", "curve.csv", "--slices"):
        assert what in said
    assert facts.load_case is None
    facts = run_facts(made_run, slices=tiny_slices)
    assert "no predictions (predictions_test)" in " ".join(facts.missing)
    assert facts.load_case(facts.scores[0].case).prediction is None
    assert "There is no prediction of this case." in page.render(facts)


def test_slices_that_moved_or_changed(tmp_path: Path, tiny_slices: Path):
    run = make_run(tmp_path / "run", tiny_slices)  # of other slices, by their hash
    assert "others than those it was trained on" in run_facts(run).missing[0]
    record = json.loads((run / "run.json").read_text())
    record["data"]["dataset_dir"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(record))
    facts = run_facts(run)
    assert "gone'. Name their folder with --slices" in facts.missing[0]
    assert facts.load_case is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_facts(run, slices=tmp_path / "nowhere")


def test_prediction_on_another_grid_is_said_in_its_card(made_run: Path, tiny_volumes: Path):
    case = run_facts(made_run).scores[0].case
    other = next(p for p in sorted((tiny_volumes / "images").iterdir()) if case not in p.name)
    grid = read_volume(other)
    file = made_run / f"predictions_test/{case}.nii.gz"
    file.unlink()
    write_label(file, np.zeros(grid.shape, np.uint8), like=grid)
    assert f"No picture: case &#x27;{case}&#x27;: array has shape" in page.render(
        run_facts(made_run)
    )


def test_unfinished_table_and_missing_companion_are_said(made_run: Path):
    companion = made_run / "metrics_test.json"
    companion.write_text(json.dumps(json.loads(companion.read_text()) | {"complete": False}))
    assert "did not get to the end" in run_facts(made_run).missing[0]
    companion.unlink()
    assert "no metrics_test.json" in run_facts(made_run).missing[0]


def test_folder_of_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"neither run\.json nor metrics_test\.csv"):
        run_facts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("metrics_test.json", "[]"),
        ("metrics_test.csv", "case\n"),
        ("curve.csv", "epoch,val_dice\n1,high\n"),
    ],
)
def test_damaged_file_is_named(made_run: Path, name: str, content: str):
    (made_run / name).write_text(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        run_facts(made_run)


def test_figures_of_the_cases(made_run: Path, tmp_path: Path):
    figures = pytest.importorskip("samtune.evaluation.report.figures")
    files = figures.write_figures(run_facts(made_run), tmp_path / "figures")
    names = {file.stem for file in files}
    assert {"cases_1", "cases_3", "points_dice", "curve"} <= names
    assert all(file.stat().st_size > 1000 for file in files)

"""Resampled and tiled slices with neighbours as channels: slice, train, evaluate, predict."""

import csv

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.label_map import LabelMap
from samtune.preprocessing.label_steps import LabelSteps
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slice_volumes import slice_volumes
from samtune.training.run_folder import load_run


@pytest.fixture(scope="module")
def tiled_run(tiny_volumes, packaged_weights, run_bundle, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiled")
    names = sorted(path.name for path in (tiny_volumes / "images").iterdir())[:3]
    for folder in ("images", "labels"):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).symlink_to(tiny_volumes / folder / name)
    report = slice_volumes(
        root / "images",
        root / "labels",
        modality="mr",
        out=root / "slices",
        intensity=Intensity.for_modality("mr", scope="slice", bits=16, percentiles=(1, 99)),
        slicing=Slicing(spacing_mm=(1.2, 1.1), tile_size=20, tile_overlap=4),
        label_steps=LabelSteps(LabelMap.parse(["1,3=>1:both"]), min_pixels=2),
        split_counts=(1, 1, 1),
        workers=1,
        progress=False,
    )
    assert not report.failed
    run_bundle(
        "train",
        "training",
        dataset_dir=str(root / "slices"),
        runs_dir=str(root / "runs"),
        run_name="tiled",
        epochs=1,
        batch_size=8,
        views=2,
        rank=2,
        neighbours=1,
        device="cpu",
    )
    run_bundle("evaluate", run_dir=str(root / "runs/tiled"), device="cpu")
    return root


def test_training_scores_whole_cases_on_their_own_grid(tiled_run):
    run = tiled_run / "runs/tiled"
    trained = load_run(run)
    assert trained.neighbours == 1
    assert trained.slicing == load_manifest(tiled_run / "slices").settings["slicing"]
    manifest = load_manifest(tiled_run / "slices")
    (case,) = {row.case for row in manifest.select("test")}
    assert manifest.cases[case].geometry.num_tiles == 2
    with (run / "metrics_test.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == [case]
    label = nib.load(run / "predictions_test" / f"{case}.nii.gz")
    assert label.shape == manifest.cases[case].geometry.shape


@pytest.mark.parametrize("file_format", [None, "nrrd"])
def test_predictions_have_the_scan_s_grid_and_are_those_of_evaluation(
    tiled_run, run_bundle, tmp_path, file_format
):
    run = tiled_run / "runs/tiled"
    manifest = load_manifest(tiled_run / "slices")
    (case,) = {row.case for row in manifest.select("test")}
    scan = tiled_run / "images" / manifest.cases[case].image_name
    run_bundle(
        "inference",
        run_dir=str(run),
        images=str(scan),
        output_dir=str(tmp_path),
        format=file_format,
        device="cpu",
    )
    (written,) = tmp_path.iterdir()
    if file_format is None:
        label = nib.load(written)
        np.testing.assert_array_equal(label.affine, nib.load(scan).affine)
        values = np.asarray(label.dataobj)
    else:
        assert written.suffix == ".nrrd"
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(written))).T
    expected = nib.load(run / "predictions_test" / f"{case}.nii.gz")
    assert (values == np.asarray(expected.dataobj)).mean() > 0.999  # batches may break ties

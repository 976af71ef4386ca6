"""The grid of predictions: slice, columns, and what is refused."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from samtune.preprocessing.manifest import load_manifest
from samtune.training import comparison_grid
from samtune.training.comparison_grid import draw_comparison_grid, largest_slice


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn."""
    rows = []

    def overlay_grid(given, out, **options):
        rows.extend(given)
        return out

    monkeypatch.setattr(comparison_grid, "overlay_grid", overlay_grid)
    return rows


def test_perfect_predictions_look_like_the_reference(tiny_slices, tiny_volumes, tmp_path, drawn):
    manifest = load_manifest(tiny_slices)
    case = sorted(manifest.cases)[0]
    folder = tiny_volumes / "labels"
    cases = {"worst": case}
    draw_comparison_grid(
        manifest, {"A": folder}, cases, tmp_path / "g.png", scores={"A": {case: 0.987}}
    )
    ((title, grey, columns),) = drawn
    assert title == f"worst: {case}"
    assert grey.dtype == np.uint8
    names = [name for name, _ in columns]
    assert names == ["image", "reference", "A (Dice 0.99)"]
    assert columns[0][1] is None
    assert columns[1][1].any()
    np.testing.assert_array_equal(columns[1][1], columns[2][1])


def test_the_slice_has_most_labelled_pixels(tiny_slices, tiny_volumes):
    manifest = load_manifest(tiny_slices)
    for case in manifest.cases:
        volume = nib.load(tiny_volumes / "labels" / f"{case}.nii.gz")
        label = np.asarray(nib.as_closest_canonical(volume).dataobj)
        areas = (label > 0).sum(axis=tuple({0, 1, 2} - {manifest.cases[case].geometry.axis}))
        record = largest_slice(manifest, case)
        assert sum(record.labels.values()) == areas.max()


def test_a_missing_prediction_is_said(tiny_slices, tiny_volumes, tmp_path, drawn):
    manifest = load_manifest(tiny_slices)
    first, second = sorted(manifest.cases)[:2]
    (tmp_path / "pred").mkdir()
    shutil.copy(tiny_volumes / "labels" / f"{first}.nii.gz", tmp_path / "pred")
    draw_comparison_grid(
        manifest, {"A": tmp_path / "pred"}, {"best": second}, tmp_path / "grid.png"
    )
    assert drawn[0][2][-1] == ("A (no prediction)", None)


def test_another_grid_and_unknown_cases_are_refused(tiny_slices, tiny_volumes, tmp_path, drawn):
    manifest = load_manifest(tiny_slices)
    case = sorted(manifest.cases)[0]
    volume = nib.load(tiny_volumes / "labels" / f"{case}.nii.gz")
    (tmp_path / "pred").mkdir()
    moved = volume.affine.copy()
    moved[0, 3] += 1
    array = np.asarray(volume.dataobj)
    nib.save(nib.Nifti1Image(array, moved), tmp_path / "pred" / f"{case}.nii.gz")
    with pytest.raises(ValueError, match=f"{case}.nii.gz: .* isn't that of case '{case}'"):
        draw_comparison_grid(manifest, {"A": tmp_path / "pred"}, {"best": case}, tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"no slices of case\(s\) z"):
        draw_comparison_grid(manifest, {"A": tmp_path / "pred"}, {"best": "z"}, tmp_path / "g.png")

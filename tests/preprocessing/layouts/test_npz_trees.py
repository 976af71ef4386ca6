"""SAM-LoRA and MedSAM: ``.npz`` files that are slices already."""

import numpy as np
import pytest

from samtune.preprocessing.layouts import LAYOUTS, list_dataset, recognise
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.npz_case import (
    read_npz,
    read_npz_grid,
    read_npz_image,
    read_npz_label,
)
from samtune.preprocessing.slice_file import read_slice_file
from samtune.preprocessing.slice_volumes import slice_volumes


def write(path, rng, shape, *, colour=False, **more):
    """A file as MedSAM's or SAM-LoRA's tools write it; returns its two arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gts = rng.integers(0, 3, shape).astype(np.uint8)
    imgs = rng.integers(0, 256, (*shape, 3) if colour else shape).astype(np.uint8)
    np.savez_compressed(path, imgs=imgs, gts=gts, **more)
    return imgs, gts


def test_sam_lora_folders_are_the_split(tmp_path, rng):
    for name in ("train/case1", "train/case2", "val/case3", "test/case4"):
        write(tmp_path / f"{name}.npz", rng, (2, 5, 4), colour=True)
    assert recognise(tmp_path).layout == "sam_lora"
    assert [(one.case, one.split) for one in list_dataset(tmp_path).cases] == [
        ("case1", "train"),
        ("case2", "train"),
        ("case3", "val"),
        ("case4", "test"),
    ]
    np.savez(tmp_path / "val/case5.npz", imgs=np.zeros((1, 2, 2), np.uint8))
    assert list_dataset(tmp_path).unpaired == ["val/case5.npz: no arrays imgs and gts"]


def test_medsam_files_are_cases(tmp_path, rng):
    write(tmp_path / "CT_b.npz", rng, (2, 4, 4), spacing=np.ones(3))
    write(tmp_path / "CT_a.npz", rng, (2, 4, 4))
    (tmp_path / "notes.txt").touch()
    assert recognise(tmp_path).layout == "medsam"
    assert [one.case for one in LAYOUTS["medsam"].cases(tmp_path)] == ["CT_a", "CT_b"]
    assert [one.case for one in list_dataset(tmp_path / "CT_b.npz").cases] == ["CT_b"]
    np.savez(tmp_path / "CT_c.npz", imgs=np.zeros((1, 2, 2), np.uint8))
    (tmp_path / "CT_d.npz").write_bytes(b"PK")
    assert list_dataset(tmp_path).unpaired == [
        "CT_c.npz: has imgs; expected imgs and gts",
        "CT_d.npz: has no arrays; expected imgs and gts",
    ]


def test_other_npz_files_are_no_layout(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.zeros(3))
    assert recognise(tmp_path) is None


@pytest.mark.parametrize(
    ("shape", "colour", "out"),
    [
        ((3, 5, 4), False, (3, 5, 4)),
        ((3, 5, 4), True, (3, 5, 4, 3)),
        ((5, 4), True, (1, 5, 4, 3)),
        ((5, 4), False, (1, 5, 4)),
    ],
)
def test_stored_slices_come_out_as_they_are(tmp_path, rng, shape, colour, out):
    imgs, gts = write(tmp_path / "in/c.npz", rng, shape, colour=colour, spacing=(0.5, 0.75, 4.0))
    cases = list_dataset(tmp_path / "in", "medsam").cases
    report = slice_volumes(
        cases,
        modality="oct",
        out=tmp_path / "out",
        layout="volume",
        split_counts=(1, 0, 0),
        workers=1,
        progress=False,
    )
    assert report.failed == {}
    got, labels = read_slice_file(tmp_path / "out/slices/c.npz")
    np.testing.assert_array_equal(got, imgs.reshape(out))
    np.testing.assert_array_equal(labels, gts.reshape(out[:3]))
    record = load_manifest(tmp_path / "out").cases["c"]
    # stored in SimpleITK's order: along columns, rows, slices; ours: rows, columns, slices
    assert record.geometry.spacing == (0.75, 0.5, 4.0)
    assert record.geometry.axis == 2


def test_an_axis_with_the_largest_spacing_in_plane_is_not_cut(tmp_path, rng):
    write(tmp_path / "in/c.npz", rng, (3, 5, 4), spacing=(2.0, 0.5, 0.5))
    cases = list_dataset(tmp_path / "in").cases
    options = {"modality": "oct", "split_counts": (1, 0, 0), "workers": 1, "progress": False}
    report = slice_volumes(cases, out=tmp_path / "out", **options)
    assert report.num_slices == 3
    report = slice_volumes(cases, out=tmp_path / "x", axis=0, **options)
    assert "can't be cut along axis 0" in report.failed["c"]


def test_three_equal_channels_are_grey(tmp_path, rng):
    imgs, _ = write(tmp_path / "a.npz", rng, (2, 5, 4))
    np.savez(
        tmp_path / "b.npz",
        imgs=np.repeat(imgs[..., None], 3, axis=3),
        gts=np.zeros((2, 5, 4), np.uint8),
    )
    np.testing.assert_array_equal(read_npz(tmp_path / "b.npz").imgs, imgs)


@pytest.mark.parametrize("spacing", [[1.0, 0.0, 1.0], [1.0], [np.nan, 1, 1]])
def test_a_spacing_without_a_meaning_is_refused(tmp_path, rng, spacing):
    write(tmp_path / "a.npz", rng, (2, 5, 4), spacing=np.array(spacing))
    with pytest.raises(ValueError, match=r"a\.npz: spacing is .*; expected 3 numbers > 0, in mm"):
        read_npz_image(tmp_path / "a.npz")


def test_labels_that_are_not_there_are_an_error(tmp_path):
    np.savez(tmp_path / "a.npz", imgs=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="has no labels 'gts'"):
        read_npz_label(tmp_path / "a.npz")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4), (5, 4)])
def test_the_grid_is_known_without_the_values(tmp_path, rng, shape, colour):
    write(tmp_path / "a.npz", rng, shape, colour=colour, spacing=(0.5, 0.75, 4.0))
    grid, volume = read_npz_grid(tmp_path / "a.npz"), read_npz_image(tmp_path / "a.npz")
    assert grid.shape == volume.shape == (5, 4, 3 if len(shape) == 3 else 1)
    assert grid.spacing == volume.spacing == (0.75, 0.5, 4.0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(2)}, "expected the array 'imgs', found x"),
        ({"imgs": np.zeros((2, 2, 2, 2, 2))}, "'imgs' has shape"),
        ({}, "found none"),
    ],
)
def test_a_file_without_slices_has_no_grid(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_npz_grid(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:10])
    with pytest.raises(ValueError, match=r"b\.npz: not a complete \.npz slice file"):
        read_npz_grid(tmp_path / "b.npz")

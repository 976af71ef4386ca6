from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from samtune.preprocessing import contact_sheet
from samtune.preprocessing.contact_sheet import (
    COLOURS,
    TILE,
    draw_contact_sheet,
    middle_slice,
    upright,
)
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import write_slice_file
from samtune.preprocessing.slice_volumes import slice_volumes


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def one_case(tmp_path, save_volume):
    """30 x 20 x 4 voxels of 1 x 2 x 4 mm with a bright left anterior corner, labelled 2 there."""
    image = np.full((30, 20, 4), 10, dtype=np.uint8)
    image[:10, 15:] = 250
    label = np.zeros(image.shape, dtype=np.uint8)
    label[2:8, 16:19, 1] = label[2:8, 16:19, 2] = 2
    label[20, 2, 2] = 1
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    save_volume(tmp_path / "i/a.nii", image, affine)
    save_volume(tmp_path / "l/a.nii", label, affine)
    slice_volumes(tmp_path / "i", tmp_path / "l", modality="oct", out=tmp_path / "o", workers=1)
    return load_manifest(tmp_path / "o")


def test_anterior_is_up_and_left_is_left_in_true_proportions(one_case):
    sheet = pixels(one_case.root / "contact_sheet.png")
    # 30 mm wide, 40 mm high: 135 x 180 pixels, centred in the tile
    x, y = 4 + (TILE - 135) // 2, 4
    tile = sheet[y : y + 180, x : x + 135]
    assert (tile[5, 5] == 250).all()  # left anterior
    assert (tile[175, 130] == 10).all()  # right posterior
    assert (tile[5, 130] == 10).all()
    assert (tile[175, 5] == 10).all()
    assert (sheet[y + 90, x - 2] == 24).all()
    assert (sheet[y + 90, x + 135 + 1] == 24).all()


def test_outlines_have_the_colour_of_their_class(one_case):
    assert middle_slice(one_case, "a").index == 2  # of the labelled 1 and 2
    sheet = pixels(one_case.root / "contact_sheet.png")[4 : 4 + TILE]
    x = 4 + (TILE - 135) // 2
    for value, (left, right, bottom, top) in {1: (20, 21, 2, 3), 2: (2, 8, 16, 19)}.items():
        rows, columns = np.nonzero((sheet == COLOURS[value - 1]).all(axis=2))
        pixel = 135 / 30  # a voxel is 4.5 x 9 pixels; row 0 is the anterior end, voxel 20
        assert columns.min() - x == pytest.approx(left * pixel, abs=1)
        assert columns.max() + 1 - x == pytest.approx(right * pixel, abs=1)
        assert rows.min() == pytest.approx(180 - top * 9, abs=1)
        assert rows.max() + 1 == pytest.approx(180 - bottom * 9, abs=1)


def test_upright_turns_right_anterior_axes_into_a_picture():
    array = np.array([["left posterior", "left anterior"], ["right posterior", "right anterior"]])
    assert upright(array).tolist() == [
        ["left anterior", "right anterior"],
        ["left posterior", "right posterior"],
    ]


@pytest.mark.parametrize("modality", ["mr", "oct"])
def test_cases_without_labels_and_long_names_are_drawn(tmp_path, cases, save_volume, modality):
    name = "a_very_long_case_name_that_does_not_fit_below_a_picture.nii.gz"
    (cases[0] / "a.nii.gz").rename(cases[0] / name)
    slice_volumes(cases[0], modality=modality, out=tmp_path / "out", workers=1)
    assert pixels(tmp_path / "out/contact_sheet.png").shape == (202 + 4, 3 * 184 + 4, 3)


def test_more_cases_than_tiles_are_thinned_evenly(tmp_path, cases):
    slice_volumes(*cases, modality="mr", out=tmp_path / "out", workers=1)
    manifest = load_manifest(tmp_path / "out")
    draw_contact_sheet(manifest, tmp_path / "two.png", max_tiles=2)
    assert pixels(tmp_path / "two.png").shape[1] == 2 * 184 + 4
    with pytest.raises(ValueError, match="3 cases, 0 tiles"):
        draw_contact_sheet(manifest, tmp_path / "none.png", max_tiles=0)


def test_pictures_are_drawn_as_they_are_and_scans_upright(run, tmp_path):
    run()
    manifest = load_manifest(tmp_path / "out")
    row = next(row for row in manifest.slices if row.case == "a")
    record = manifest.cases["a"]
    height, width = record.geometry.slices_shape[1:]
    image = np.zeros((1, height, width), np.uint16)
    image[0, 0, :] = 65535  # the first row; of a scan what lies furthest left
    write_slice_file(manifest.path(row), image, None)
    scan = contact_sheet._tile(manifest, row).mean(axis=2)
    manifest.cases["a"] = replace(record, image_name="a.png")
    picture = contact_sheet._tile(manifest, row).mean(axis=2)
    assert picture[0].min() > 200 > 50 > picture[-1].max()
    assert scan[:, 0].min() > 200 > 50 > scan[:, -1].max()

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from samtune.preprocessing.prompts import tight_box
from samtune.preprocessing.slicing import CaseGeometry, volume_to_slices
from samtune.preprocessing.volumes import read_grid
from samtune.preprocessing.voxel_prompts import (
    VoxelPlane,
    VoxelPrompt,
    parse_prompt,
    read_prompts,
)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SRP", "LAI", "IPR"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_voxels_of_the_file_are_found_in_the_slices(codes, axis, tmp_path):
    array = np.zeros((7, 9, 11), np.uint8)
    array[2:4, 5:9, 3:10] = 1
    image = nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    nib.save(image.as_reoriented(turn), tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    geometry = CaseGeometry.of(read_grid(tmp_path / "a.nii"), case="a", axis=axis)
    plane = VoxelPlane(geometry)
    slices = volume_to_slices(stored, geometry)
    cut = next(a for a in range(3) if codes[a] in ("RL", "AP", "SI")[axis])
    assert plane.num_slices == stored.shape[cut]
    for number in range(stored.shape[cut]):
        own = stored.take(number, axis=cut).T  # y x: x along the first axis that is left
        sliced = slices[plane.index(number)]
        np.testing.assert_array_equal(plane.view(sliced), own)
        if not own.any():
            continue
        assert plane.size_xy == own.shape[::-1]
        assert plane.box(tight_box(own > 0)) == list(tight_box(sliced > 0))
        for y, x in np.argwhere(own)[::5]:
            u, v = plane.point(x, y)
            marked = np.zeros_like(own)
            marked[y, x] = 1
            expected = np.zeros_like(sliced)
            expected[int(v), int(u)] = 1
            np.testing.assert_array_equal(plane.view(expected), marked)


def test_in_a_picture_x_is_the_column(tmp_path):
    geometry = CaseGeometry("p", (4, 6, 1), np.eye(4), (1.0, 1.0, 1.0), "RAS", 2)
    plane = VoxelPlane(geometry, is_picture=True)
    assert plane.size_xy == (6, 4)
    rows = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(plane.view(rows), rows)
    assert plane.point(5, 1) == [5, 1]
    with pytest.raises(ValueError, match="x0 < x1 <= 6"):
        plane.check(VoxelPrompt(0, 1, (0, 0, 7, 2)), "here")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (VoxelPrompt(5, 1, (0, 0, 1, 1)), "here: slice 5 is not in 0 to 2"),
        (VoxelPrompt(-1, 1, (0, 0, 1, 1)), "here: slice -1 is not in"),
        (VoxelPrompt(0, 1, (3, 0, 3, 1)), r"here: box \[3, 0, 3, 1\] must have 0 <= x0 < x1 <= 4"),
        (VoxelPrompt(0, 1, None, ((4, 0, 1),)), r"here: point \(4, 0\) must be within 4 x 6"),
    ],
)
def test_prompts_outside_of_the_scan_are_named(prompt, message):
    plane = VoxelPlane(CaseGeometry("p", (4, 6, 3), np.eye(4), (1.0, 1.0, 1.0), "RAS", 2))
    with pytest.raises(ValueError, match=message):
        plane.check(prompt, "here")
    plane.check(VoxelPrompt(2, 1, (0, 0, 4, 6), ((3, 5, 0),)), "here")


CLASSES = {1: "front", 3: "back"}


def test_a_file_is_read(tmp_path):
    file = tmp_path / "p.json"
    prompt = {"slice": 4, "class": "back", "box": [1, 2, 3, 4.5], "points": [[2, 3, 1], [0, 0, 0]]}
    cases = {"a": [prompt, {"slice": 0, "points": [[1, 1, 1]]}]}
    file.write_text(json.dumps({"format_version": 1, "cases": cases}))
    assert read_prompts(file, CLASSES) == {
        "a": [
            VoxelPrompt(4, 3, (1, 2, 3, 4.5), ((2, 3, 1), (0, 0, 0))),
            VoxelPrompt(0, 1, None, ((1, 1, 1),)),
        ]
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], r"expected the keys slice, class, box, points, got \[\]"),
        ({"slice": 1, "boxes": [1]}, r"got \['boxes'\]"),
        ({"box": [0, 0, 1, 1]}, "slice must be a whole number, got None"),
        ({"slice": 1.5, "box": [0, 0, 1, 1]}, "slice must be a whole number, got 1.5"),
        ({"slice": 1}, "needs a box or points"),
        ({"slice": 1, "box": [0, 0, 1]}, r"box must be \[x0, y0, x1, y1\], got \[0, 0, 1\]"),
        ({"slice": 1, "points": [[1, 1]]}, r"a point must be .* got \[1, 1\]"),
        ({"slice": 1, "points": [[1, 1, 2]]}, r"a point must be .* got \[1, 1, 2\]"),
        ({"slice": 1, "box": [0, 0, 1, 1], "class": 2}, r"class 2 is not known.*1 \(front\)"),
        ({"slice": 1, "box": [0, 0, 1, 1], "class": "side"}, "class 'side' is not known"),
        ({"slice": 1, "box": [0, 0, 1, 1], "class": [1]}, r"class \[1\] is not known"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(entry, message):
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        parse_prompt(entry, CLASSES, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "p.json' is not JSON"),
        ("[]", "p.json': expected"),
        ('{"format_version": 2, "cases": {"a": [1]}}', "p.json': expected"),
        ('{"format_version": 1, "cases": {"a": 1}}', "case 'a': expected a list of prompts, got 1"),
        ('{"format_version": 1, "cases": {"a": [1]}}', "case 'a', prompt 1: expected the keys"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, message, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "p.json")
    with pytest.raises(FileNotFoundError, match=r"none.json' does not exist"):
        read_prompts(tmp_path / "none.json")

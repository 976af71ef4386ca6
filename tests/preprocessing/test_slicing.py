import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.preprocessing.slicing import (
    CaseGeometry,
    choose_axis,
    slice_spacing,
    slices_to_volume,
    volume_to_slices,
)
from samtune.preprocessing.volumes import (
    check_same_grid,
    orientation,
    read_label,
    read_volume,
    write_label,
)

SHAPE = (5, 7, 4)
SPACING = (0.5, 0.75, 3.0)
ORIENTATIONS = ["RAS", "LPS", "LAI", "PSR", "SRP", "ASL"]
ALL_48 = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]


def geometry_of(affine, axis, shape=SHAPE, spacing=SPACING):
    return CaseGeometry("a", shape, affine, spacing, orientation(affine), axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("is_oblique", [False, True])
def test_label_file_to_slices_and_back_is_the_same_array_and_affine(
    tmp_path, save_volume, make_affine, make_oblique, codes, axis, is_oblique
):
    affine = (make_oblique if is_oblique else make_affine)(codes)
    array = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    label = read_label(save_volume(tmp_path / "label.nii.gz", array, affine))
    geometry = CaseGeometry.of(label, case="a", axis=axis)
    slices = volume_to_slices(label.array, geometry)
    assert slices.shape[0] == geometry.slices_shape[0]
    write_label(tmp_path / "back.nii.gz", slices_to_volume(slices, geometry), label)
    back = read_volume(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_array_equal(back.affine, label.affine)
    check_same_grid(label, back)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("is_oblique", [False, True])
def test_slices_run_towards_right_anterior_superior(
    make_affine, make_oblique, codes, axis, is_oblique
):
    affine = (make_oblique if is_oblique else make_affine)(codes)
    geometry = geometry_of(affine, axis)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]  # i j k -> mm, from the definition
    other = [a for a in (0, 1, 2) if a != axis]
    for array_axis, ras_axis in enumerate([axis, *other]):  # N, H, W
        millimetres = volume_to_slices(world[..., ras_axis], geometry)
        assert (np.diff(millimetres, axis=array_axis) > 0).all()


def test_slice_sizes_and_spacing_follow_the_ras_axes(make_affine):
    # file axes P S R: RAS sizes are (4, 5, 7), RAS spacing (3.0, 0.5, 0.75)
    for axis, shape, spacing in [
        (0, (4, 5, 7), (0.5, 0.75)),
        (1, (5, 4, 7), (3.0, 0.75)),
        (2, (7, 4, 5), (3.0, 0.5)),
    ]:
        geometry = geometry_of(make_affine("PSR"), axis)
        assert volume_to_slices(np.zeros(SHAPE), geometry).shape == shape
        assert geometry.slices_shape == shape
        assert slice_spacing(geometry) == spacing


def test_all_48_orientations_are_different_and_inverted_exactly(make_affine):
    assert len(set(ALL_48)) == 48
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for codes in ALL_48:
        for axis in (0, 1, 2):
            geometry = geometry_of(make_affine(codes), axis)
            slices = volume_to_slices(array, geometry)
            assert slices.flags.c_contiguous
            np.testing.assert_array_equal(slices_to_volume(slices, geometry), array)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    codes=st.sampled_from(ALL_48),
    axis=st.sampled_from([0, 1, 2]),
    degrees=st.floats(-20, 20),
)
def test_slices_and_back_is_the_identity_for_any_size(shape, codes, axis, degrees):
    column = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    matrix = np.zeros((3, 3))
    for file_axis, code in enumerate(codes):
        matrix[column[code], file_axis] = -1.0 if code in "LPI" else 1.0
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    geometry = geometry_of(affine, axis, shape=shape, spacing=(1.0, 1.0, 1.0))
    slices = volume_to_slices(array, geometry)
    assert slices.dtype == np.uint16
    np.testing.assert_array_equal(slices_to_volume(slices, geometry), array)


@pytest.mark.parametrize(
    ("spacing_ras", "axis"),
    [
        ((3.0, 1.0, 1.0), 0),
        ((1.0, 3.0, 1.0), 1),
        ((0.7, 0.7, 5.0), 2),
        ((1.0, 1.0, 1.0), 2),
        ((1.0, 1.000001, 1.0), 2),  # float32 rounding in the header is a tie
        ((1.0, 1.2, 1.2), 2),
        ((1.2, 1.2, 1.0), 2),
    ],
)
def test_the_largest_spacing_is_cut_and_ties_take_axis_2(spacing_ras, axis):
    assert choose_axis(spacing_ras) == axis


def test_the_axis_is_chosen_in_ras_order_not_file_order(tmp_path, save_volume, make_affine):
    # file axis 2 has the largest spacing, 3 mm, and runs to the right
    path = save_volume(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8), make_affine("PSR"))
    assert CaseGeometry.of(read_volume(path), case="a").axis == 0


def test_geometry_survives_json_exactly(make_oblique):
    geometry = geometry_of(make_oblique("SRP"), 1)
    again = CaseGeometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert again == geometry
    assert hash(again) == hash(geometry)
    np.testing.assert_array_equal(again.affine, geometry.affine)
    assert again != geometry_of(make_oblique("SRP"), 0)


def test_arrays_off_the_grid_are_refused_with_both_shapes(make_affine):
    geometry = geometry_of(make_affine("PSR"), 0)
    with pytest.raises(ValueError, match=r"case 'a': array has shape \(7, 5, 4\), expected \(5, 7"):
        volume_to_slices(np.zeros((7, 5, 4)), geometry)
    with pytest.raises(ValueError, match=r"have shape \(5, 7, 4\), expected \(4, 5, 7\)"):
        slices_to_volume(np.zeros((5, 7, 4)), geometry)


def test_impossible_geometry_is_refused(make_affine):
    affine = make_affine("RAS")
    for change, message in [
        ({"axis": 3}, "axis must be 0, 1 or 2, got 3"),
        ({"shape": (5, 0, 4)}, "shape must be 3 sizes >= 1"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be 3 mm > 0"),
        ({"affine": np.eye(3)}, "affine must be 4x4"),
        ({"orientation": "LAS"}, "orientation LAS is not that of the affine, RAS"),
    ]:
        values = {"case": "a", "shape": SHAPE, "affine": affine, "spacing": SPACING}
        values |= {"orientation": "RAS", "axis": 0}
        with pytest.raises(ValueError, match=message):
            CaseGeometry(**{**values, **change})


def test_a_real_label_survives_all_axes(hippocampus: Path):
    label = read_label(sorted((hippocampus / "labels").glob("*.nii.gz"))[0])
    for axis in (0, 1, 2):
        geometry = CaseGeometry.of(label, case="a", axis=axis)
        slices = volume_to_slices(label.array, geometry)
        np.testing.assert_array_equal(slices_to_volume(slices, geometry), label.array)

import json
import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from samtune.preprocessing.intensity import Intensity
from samtune.preprocessing.plane import Plane, resize_images, resize_labels
from samtune.preprocessing.prepare import prepare_case
from samtune.preprocessing.slice_settings import Slicing
from samtune.preprocessing.slicing import (
    CaseGeometry,
    slices_to_volume,
    stored_spacing,
    volume_to_slices,
)
from samtune.preprocessing.tiles import TileGrid
from samtune.preprocessing.volumes import read_label, read_volume

ALL_48 = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]
WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def geometry_of(codes, shape, axis, spacing=(1.0, 1.0, 1.0)):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        row, sign = WORLD[code]
        affine[row, column] = sign * spacing[column]
    return CaseGeometry("a", shape, affine, spacing, codes, axis)


def stored_parts(stored, geometry):
    """Stored slices of a case, by slice, then by tile."""
    tiles = geometry.num_tiles
    return [
        {tile: stored[index * tiles + tile] for tile in range(tiles)}
        for index in range(geometry.slices_shape[0])
    ]


@settings(max_examples=150, deadline=None)
@given(
    codes=st.sampled_from(ALL_48),
    axis=st.sampled_from([0, 1, 2]),
    label=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(*[st.integers(1, 9)] * 3),
        elements=st.integers(0, 4),
    ),
    margin=st.one_of(st.none(), st.integers(0, 3)),
    tile=st.one_of(st.none(), st.tuples(st.integers(1, 6), st.integers(0, 5))),
)
def test_labels_and_images_come_back_exactly_from_crops_and_tiles(codes, axis, label, margin, tile):
    size, overlap = (None, 0) if tile is None else (tile[0], min(tile[1], tile[0] - 1))
    slicing = Slicing(crop_margin=margin, tile_size=size, tile_overlap=overlap)
    native = geometry_of(codes, label.shape, axis)
    slices = volume_to_slices(label, native)
    geometry = slicing.lay(native, slices)
    if geometry.plane is None:
        assert tile is None
        np.testing.assert_array_equal(slices_to_volume(slices, geometry), label)
        return
    parts = stored_parts(geometry.plane.store_labels(slices), geometry)
    back = np.stack([geometry.plane.restore_label(part) for part in parts])
    assert back.dtype == label.dtype
    np.testing.assert_array_equal(slices_to_volume(back, geometry), label)
    image = np.stack([slices, slices * 9, slices + 1], axis=3)
    for picture in (slices, image):
        parts = stored_parts(geometry.plane.store_images(picture), geometry)
        back = np.stack([geometry.plane.restore_image(part) for part in parts])
        seen = np.zeros(native.slices_shape[1:], dtype=bool)
        top, left, height, width = geometry.plane.crop or (0, 0, *seen.shape)
        seen[top : top + height, left : left + width] = True
        np.testing.assert_array_equal(back[:, seen], picture[:, seen])
        assert not back[:, ~seen].any()


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.integers(1, 20),
    data=st.data(),
)
def test_tiles_cover_every_pixel_overlap_enough_and_are_as_few_as_can_be(size, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    grid = TileGrid.of(size, tile, overlap)
    for length, side, starts in zip(size, grid.tile_hw, (grid.tops, grid.lefts), strict=True):
        assert side == min(tile, length)
        assert (starts[0], starts[-1] + side) == (0, length)
        if len(starts) > 1:
            assert max(np.diff(starts)) <= tile - overlap + 0.5  # starts are whole pixels
            assert len(starts) == math.ceil((length - overlap) / (tile - overlap))
    assert len(grid) == len(grid.tops) * len(grid.lefts) == len(grid.corners)


def test_overlapping_logits_are_blended_by_distance_from_the_tile_s_edge():
    grid = TileGrid.of((1, 6), 4, 2)
    assert (grid.lefts, grid.tile_hw) == ((0, 2), (1, 4))
    left, right = np.zeros((1, 1, 4)), np.full((1, 1, 4), 6.0)
    # weights 1 2 2 1 in each; columns 2 and 3 are in both: (2 * 0 + 1 * 6) / 3, (0 + 2 * 6) / 3
    np.testing.assert_allclose(grid.blend({0: left, 1: right})[0, 0], [0, 0, 2, 4, 6, 6], rtol=1e-6)
    label = {0: np.full((1, 4), 1, np.uint8), 1: np.full((1, 4), 2, np.uint8)}
    assert grid.paste(label)[0].tolist() == [1, 1, 1, 2, 2, 2]


def test_a_missing_tile_is_background():
    plane = Plane((1, 6), tile=(4, 2))
    assert plane.restore_label({1: np.full((1, 4), 2, np.uint8)})[0].tolist() == [0, 0, 2, 2, 2, 2]


def test_logits_outside_the_crop_are_no_class_at_all():
    plane = Plane((3, 4), crop=(1, 1, 2, 2))
    logits = plane.restore_logits({0: np.ones((2, 2, 2), np.float32)})
    assert logits.shape == (2, 3, 4)
    inside = np.zeros((3, 4), dtype=bool)
    inside[1:3, 1:3] = True
    assert (logits[:, inside] == 1).all()
    assert np.isneginf(logits[:, ~inside]).all()


@settings(max_examples=60, deadline=None)
@given(
    label=hnp.arrays(
        np.uint16,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
        elements=st.integers(0, 900),
    ),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_resampled_labels_hold_no_new_value_and_take_the_pixel_under_the_centre(label, size):
    resized = resize_labels(label, size)
    height, width = label.shape[1:]
    for row, column in product(range(size[0]), range(size[1])):
        at = ((2 * row + 1) * height // (2 * size[0]), (2 * column + 1) * width // (2 * size[1]))
        np.testing.assert_array_equal(resized[:, row, column], label[:, at[0], at[1]])


@given(
    label=hnp.arrays(np.uint8, st.tuples(st.just(1), *[st.integers(1, 6)] * 2)),
    factor=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_enlarged_labels_come_back_exactly(label, factor):
    size = (label.shape[1] * factor[0], label.shape[2] * factor[1])
    np.testing.assert_array_equal(resize_labels(resize_labels(label, size), label.shape[1:]), label)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_bilinear_when_enlarged_and_averaged_when_reduced(dtype, channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (2, 6, 8, *channels)).astype(dtype)
    small = resize_images(image, (3, 2))
    # antialiased to half: the triangle filter spans two new pixels, 1 3 3 1 of the old ones
    rows = np.array([[3, 3, 1, 0, 0, 0], [0, 1, 3, 3, 1, 0], [0, 0, 0, 1, 3, 3]]) / [[7], [8], [7]]
    scale = 4  # columns: triangle of width 8 around 2 and 6
    columns = np.maximum(0, 1 - np.abs(np.arange(8)[None] + 0.5 - np.array([[2.0], [6.0]])) / scale)
    columns /= columns.sum(1, keepdims=True)
    expected = np.einsum("ri,nij...,cj->nrc...", rows, image.astype(float), columns)
    np.testing.assert_allclose(small, expected, atol=1)
    large = resize_images(image, (12, 8))
    middle = image[:, :-1].astype(float) * 0.75 + image[:, 1:] * 0.25
    np.testing.assert_allclose(large[:, 1:-1:2], middle, atol=1)
    assert (small.dtype, large.dtype) == (dtype, dtype)


def test_resampling_goes_to_the_spacing_asked_for():
    native = geometry_of("RAS", (10, 20, 3), 2, spacing=(0.5, 0.25, 3.0))
    geometry = Slicing(spacing_mm=(1.0, 1.0)).lay(native)
    assert geometry.plane == Plane((10, 20), size_hw=(5, 5))
    assert stored_spacing(geometry) == (1.0, 1.0)
    assert Slicing(spacing_mm=(0.5, 0.25)).lay(native).plane is None
    thin = Slicing(spacing_mm=(100.0, 0.3)).lay(native).plane
    assert thin.size_hw == (1, 17)


def test_the_crop_goes_round_the_label_of_all_slices_with_a_margin_in_px_or_mm():
    native = geometry_of("RAS", (10, 20, 3), 2, spacing=(0.5, 0.25, 3.0))
    label = np.zeros((3, 10, 20), np.uint8)
    label[0, 4, 9] = label[2, 5, 11] = 1
    assert Slicing(crop_margin=0).lay(native, label).plane.crop == (4, 9, 2, 3)
    assert Slicing(crop_margin=3).lay(native, label).plane.crop == (1, 6, 8, 9)
    # 1.1 mm are 2.2 pixels of 0.5 mm and 4.4 of 0.25 mm: 3 and 5
    mm = Slicing(crop_margin=1.1, crop_unit="mm").lay(native, label)
    assert mm.plane.crop == (1, 4, 8, 13)
    assert Slicing(crop_margin=99).lay(native, label).plane.crop == (0, 0, 10, 20)
    assert Slicing(crop_margin=3).lay(native).plane is None
    assert Slicing(crop_margin=3).lay(native, np.zeros_like(label)).plane is None
    assert Slicing(crop_margin=3).uncropped() == Slicing()


def test_a_smooth_image_is_nearly_itself_after_resampling_and_back():
    image = np.fromfunction(
        lambda n, i, j: 120 + 60 * np.sin(i / 7) + 50 * np.cos(j / 9), (1, 48, 64)
    )
    plane = Plane((48, 64), size_hw=(36, 40))
    stored = plane.store_images(image.astype(np.uint8))
    back = plane.restore_image({0: stored[0]})
    assert np.abs(back - image[0]).max() < 4
    assert np.abs(ndimage.shift(back, 1, mode="nearest") - image[0]).max() > 8  # it can fail


def test_settings_and_geometry_survive_json_and_defaults_are_left_out():
    assert Slicing().to_dict() == Slicing(axis=1).to_dict() == {}
    slicing = Slicing(1, (0.5, 0.75), 2.5, "mm", 256, 32, 3)
    again = Slicing.from_dict(json.loads(json.dumps(slicing.to_dict())), axis=1)
    assert again == slicing
    geometry = slicing.lay(geometry_of("PSR", (9, 8, 7), 1), np.ones((9, 7, 8)))
    assert geometry.plane is not None
    assert CaseGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    assert "plane" not in geometry_of("PSR", (9, 8, 7), 1).to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axis": 3}, "axis must be 0, 1, 2 or None, got 3"),
        ({"spacing_mm": (1.0, 0.0)}, "in-plane spacing must be mm > 0"),
        ({"crop_margin": -1}, "crop margin must be px or mm >= 0, got -1 px"),
        ({"crop_margin": 1, "crop_unit": "cm"}, "got 1 cm"),
        ({"tile_size": 8, "tile_overlap": 8}, "overlap 8, size 8"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Slicing(**values)


def test_planes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"crop \(2, 0, 2, 2\) is not within"):
        Plane((3, 4), crop=(2, 0, 2, 2))
    with pytest.raises(ValueError, match="resampled size must be >= 1"):
        Plane((3, 4), size_hw=(0, 2))
    with pytest.raises(ValueError, match=r"slices are \(4, 3\), expected \(3, 4\)"):
        Plane((3, 4), tile=(2, 0)).store_labels(np.zeros((1, 4, 3)))
    native = geometry_of("RAS", (9, 8, 7), 2)
    with pytest.raises(ValueError, match=r"the plane is of slices of \(8, 9\)"):
        CaseGeometry("a", native.shape, native.affine, native.spacing, "RAS", 2, Plane((8, 9)))
    with pytest.raises(ValueError, match="overlap 3, size 3"):
        TileGrid.of((9, 9), 3, 3)


@pytest.mark.parametrize("case", ["hippocampus_001", "hippocampus_015"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_labels_come_back_exactly_from_cropped_tiles(hippocampus, case, axis):
    image = read_volume(hippocampus / "images" / f"{case}.nii.gz")
    label = read_label(hippocampus / "labels" / f"{case}.nii.gz")
    slicing = Slicing(axis, crop_margin=2.5, crop_unit="mm", tile_size=20, tile_overlap=5)
    imgs, geometry = prepare_case(
        image,
        case=case,
        intensity=Intensity.for_modality("mr", preset="medsam"),
        slicing=slicing,
        label=label.array,
    )
    assert geometry.plane is not None
    assert geometry.num_tiles > 1
    stored = geometry.plane.store_labels(volume_to_slices(label.array, geometry))
    assert stored.shape == imgs.shape
    back = np.stack([geometry.plane.restore_label(part) for part in stored_parts(stored, geometry)])
    np.testing.assert_array_equal(slices_to_volume(back, geometry), label.array)

import numpy as np
import pytest
from scipy import ndimage

from samtune.preprocessing.prompt_schemes import make_prompts
from samtune.preprocessing.prompts import (
    centre_point,
    connected_regions,
    inner_distance,
    inner_part,
    random_points,
    tight_box,
)


def test_tight_box_is_xyxy_and_ends_one_past_the_last_pixel():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:8] = True  # rows 1..3, columns 2..7
    mask[2, 4] = False  # a hole changes nothing
    assert tight_box(mask) == (2, 1, 8, 4)


def test_one_pixel_and_the_whole_slice():
    mask = np.zeros((4, 5), bool)
    mask[3, 0] = True
    assert tight_box(mask) == (0, 3, 1, 4)
    assert tight_box(np.ones((4, 5), bool)) == (0, 0, 5, 4)


def test_no_box_around_nothing():
    assert tight_box(np.zeros((4, 5), bool)) is None


def test_one_box_a_region_around_all_its_parts_and_nan_where_it_is_not(rng):
    label = np.zeros((6, 10), np.int64)
    label[1, 1:3] = 1
    label[4:6, 8] = 3
    boxes = make_prompts(label, [[1], [2], [3], [1, 3], [2, 3]], "oracle_box", rng).boxes
    assert boxes.dtype == np.float32
    expected = [[1, 1, 3, 2], [np.nan] * 4, [8, 4, 9, 6], [1, 1, 9, 6], [8, 4, 9, 6]]
    np.testing.assert_array_equal(boxes, expected)


def test_a_slice_without_label_has_no_boxes(rng):
    boxes = make_prompts(np.zeros((3, 3), np.uint8), [(1,), (1, 2)], "oracle_box", rng).boxes
    assert boxes.shape == (2, 4)
    assert np.isnan(boxes).all()


@pytest.fixture
def mask():
    """Parts of 12, 4 (two squares of two that touch at a corner), 4 and 1 pixels."""
    mask = np.zeros((12, 14), bool)
    mask[1:4, 1:5] = True
    mask[6, 1:3] = mask[7, 3:5] = True
    mask[9:11, 9:11] = True
    mask[0, 13] = True
    return mask


def test_parts_are_connected_at_corners_and_largest_first(mask):
    parts = connected_regions(mask)
    assert [int(part.sum()) for part in parts] == [12, 4, 4, 1]
    assert tight_box(parts[1]) == (1, 6, 5, 8)  # of two equal ones the upper
    _, number = ndimage.label(mask, np.ones((3, 3)))
    assert number == len(parts)
    np.testing.assert_array_equal(np.sum(parts, 0), mask)  # each pixel once


def test_whole_largest_and_random_parts(mask, rng):
    (whole,) = connected_regions(mask, "whole")
    np.testing.assert_array_equal(whole, mask)
    assert [part.sum() for part in connected_regions(mask, "largest", number=2)] == [12, 4]
    assert len(connected_regions(mask, "largest", number=9)) == 4
    seen = {
        tight_box(connected_regions(mask, "random", number=1, generator=rng)[0]) for _ in range(60)
    }
    assert len(seen) == 4
    sizes = [p.sum() for p in connected_regions(mask, "random", number=3, generator=rng)]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(ValueError, match="need a generator"):
        connected_regions(mask, "random")


@pytest.mark.parametrize("which", ["whole", "all", "largest", "random"])
def test_an_empty_mask_has_no_parts(which, rng):
    assert connected_regions(np.zeros((4, 4), bool), which, generator=rng) == []


def test_distance_counts_the_border_as_outside():
    np.testing.assert_array_equal(
        inner_distance(np.ones((3, 5), bool)), [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]
    )


def test_inner_part_is_the_deepest_share_with_those_equally_deep():
    mask = np.zeros((7, 9), bool)
    mask[1:6, 1:8] = True  # 35 pixels: 3 of depth 3, 12 of depth 2, 20 of depth 1
    assert inner_part(mask, 0.01).sum() == 3
    assert inner_part(mask, 3 / 35).sum() == 3
    assert inner_part(mask, 4 / 35).sum() == 15
    assert inner_part(mask, 1.0).sum() == 35
    np.testing.assert_array_equal(np.argwhere(inner_part(mask, 0.05)), [[3, 3], [3, 4], [3, 5]])


def test_random_points_are_pixels_of_the_mask_each_as_likely(mask, rng):
    points = random_points(mask, 21_000, generator=rng, replace=True)
    assert points.shape == (21_000, 2)
    cols, rows = points.astype(int).T
    assert mask[rows, cols].all()
    counts = np.zeros(mask.shape)
    np.add.at(counts, (rows, cols), 1)
    # 21 pixels, 1000 expected each, standard deviation 31
    assert counts[mask].min() > 850
    assert counts[mask].max() < 1150


def test_without_replacement_no_pixel_comes_twice_and_small_masks_give_fewer(mask, rng):
    points = random_points(mask, 100, generator=rng)
    assert {tuple(point) for point in points.tolist()} == {
        (x, y) for y, x in np.argwhere(mask).tolist()
    }
    assert len(points) == 21
    assert random_points(np.zeros((3, 3), bool), 4, generator=rng, replace=True).shape == (0, 2)


def test_centre_point_is_the_deepest_pixel_and_lies_in_the_mask():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:4] = mask[5:8, 1:8] = True  # an L: the centroid is not in it
    rows, cols = np.nonzero(mask)
    assert not mask[int(rows.mean()), int(np.ceil(cols.mean()))]
    # nine pixels of depth 2: column 2 from row 2 on, row 6 to column 6; their mean is (3.1, 4.9)
    assert centre_point(mask).tolist() in ([[3.0, 6.0]], [[2.0, 5.0]])
    bar = np.zeros((5, 11), bool)
    bar[1:4, 1:10] = True  # deepest in columns 2..8 of row 2
    assert centre_point(bar).tolist() == [[5.0, 2.0]]
    assert centre_point(np.zeros((4, 4), bool)).shape == (0, 2)

import numpy as np
import torch

from samtune.preprocessing.prompts import oracle_boxes, tight_box


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


def test_one_box_a_region_around_all_its_parts_and_nan_where_it_is_not():
    label = np.zeros((6, 10), np.int64)
    label[1, 1:3] = 1
    label[4:6, 8] = 3
    boxes = oracle_boxes(label, [[1], [2], [3], [1, 3], [2, 3]])
    assert boxes.dtype == torch.float32
    expected = [[1, 1, 3, 2], [torch.nan] * 4, [8, 4, 9, 6], [1, 1, 9, 6], [8, 4, 9, 6]]
    torch.testing.assert_close(boxes, torch.tensor(expected), equal_nan=True)


def test_a_slice_without_label_has_no_boxes():
    boxes = oracle_boxes(np.zeros((3, 3), np.uint8), [(1,), (1, 2)])
    assert boxes.shape == (2, 4)
    assert boxes.isnan().all()

import numpy as np
import pytest
import torch

from samtune.preprocessing.prompt_transforms import PromptsFromLabeld
from samtune.preprocessing.slice_file import write_slice_file
from samtune.preprocessing.slice_transforms import (
    LoadSliced,
    ToClassMapd,
    ToFramed,
    ToMasksd,
    ToTargetd,
)


@pytest.fixture
def slice_file(tmp_path, rng):
    """Two slices of 6 x 8 with label values 1 and 3."""
    images = rng.integers(0, 256, (2, 6, 8)).astype(np.uint8)
    labels = np.zeros((2, 6, 8), np.uint8)
    labels[0, 1:3, 2:5] = 3
    labels[1, 4, 5] = 1
    path = tmp_path / "a.npz"
    write_slice_file(path, images, labels)
    return path, images, labels


def item_of(path, **more):
    return {"file": str(path), "position": 0, "case": "a", "index": 0, **more}


def test_load_takes_the_slice_at_its_position_and_keeps_the_rest(slice_file):
    path, images, labels = slice_file
    item = LoadSliced([1, 3])(item_of(path, position=1, index=7))
    assert item["image"].dtype == torch.uint8
    np.testing.assert_array_equal(item["image"], images[1][None])
    np.testing.assert_array_equal(item["label"], (labels[1] == 1)[None])  # value 1: channel 1
    assert item["size_hw"].tolist() == [6, 8]
    assert (item["case"], item["index"]) == ("a", 7)


@pytest.mark.parametrize(("values", "channel"), [([1, 3], 2), ([3, 1], 1), ([1, 2, 3], 3)])
def test_label_values_become_channels_in_the_order_of_the_classes(slice_file, values, channel):
    path, _, labels = slice_file
    label = LoadSliced(values)(item_of(path))["label"]
    assert label.dtype == torch.int64
    np.testing.assert_array_equal(label[0], np.where(labels[0] == 3, channel, 0))


def test_a_value_that_is_no_class_is_an_error_with_the_file(slice_file):
    path, _, _ = slice_file
    with pytest.raises(ValueError, match=r"a\.npz': label values \[3\] are not .* \[1, 2\]"):
        LoadSliced([1, 2])(item_of(path))


def test_colour_16_bit_and_unlabelled_slices(tmp_path, rng):
    colour = rng.integers(0, 256, (1, 5, 4, 3)).astype(np.uint8)
    write_slice_file(tmp_path / "colour.npz", colour, None)
    item = LoadSliced([1])(item_of(tmp_path / "colour.npz"))
    assert "label" not in item
    assert item["size_hw"].tolist() == [5, 4]
    np.testing.assert_array_equal(item["image"], colour[0].transpose(2, 0, 1))
    deep = rng.integers(0, 65_536, (1, 5, 4)).astype(np.uint16)
    write_slice_file(tmp_path / "deep.npz", deep, None)
    image = LoadSliced([1])(item_of(tmp_path / "deep.npz"))["image"]
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image, deep)


def test_boxes_follow_the_label_into_the_frame(slice_file):
    path, _, _ = slice_file
    item = LoadSliced([1, 3])(item_of(path))
    item = PromptsFromLabeld([[1], [2], [1, 2]], "oracle_box")(item)
    assert item["boxes"][0].isnan().all()  # value 1 is in the other slice
    assert item["boxes"][1:].tolist() == [[2, 1, 5, 3]] * 2
    item = ToFramed(32, "medsam")(item)  # 6 x 8 to 24 x 32: times 4
    assert item["image"].shape == (1, 32, 32)
    assert item["boxes"][1:].tolist() == [[8, 4, 20, 12]] * 2
    rows, cols = np.nonzero(item["label"][0].numpy() == 2)
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (4, 12, 8, 20)
    assert item["size_hw"].tolist() == [6, 8]  # of the slice, still


def test_transforms_leave_their_input_alone(slice_file):
    path, _, _ = slice_file
    start = LoadSliced([1, 3])(item_of(path))
    image = start["image"].clone()
    ToFramed(32, "medsam")(PromptsFromLabeld([[1]], "oracle_box")(start))
    assert "boxes" not in start
    assert torch.equal(start["image"], image)


def test_class_map_resizes_the_logits_before_it_takes_the_largest():
    # one row of four pixels, halved: channel 1 leads in one pixel of the left pair by much, channel
    # 0 in the other by little, so that the mean is of class 3; the argmax alone would be undecided
    logits = torch.zeros(3, 4, 4)
    logits[1, :, 0], logits[1, :, 1] = -1.0, 9.0
    logits[2, :, 2:] = 0.5
    item = {"pred": logits, "size_hw": np.array([2, 2])}
    pred = ToClassMapd([3, 7])(item)["pred"]
    assert isinstance(pred, np.ndarray)
    np.testing.assert_array_equal(pred, [[3, 7], [3, 7]])


def test_class_map_has_label_values_and_ignores_the_padding():
    logits = torch.zeros(3, 8, 8)
    logits[1, :4] = -1.0
    logits[2, :4, 4:] = 1.0
    logits[1, 4:] = 5.0  # below the content of a slice of 4 x 8
    pred = ToClassMapd([1, 3])({"pred": logits, "size_hw": torch.tensor([4, 8])})["pred"]
    np.testing.assert_array_equal(pred, np.repeat([[0, 3]], 4, 0).repeat(4, 1))


def test_masks_are_where_logits_are_above_zero_and_may_overlap():
    logits = torch.stack(
        [
            torch.linspace(-3.5, 3.5, 8).expand(8, 8),
            torch.ones(8, 8),
            torch.full((8, 8), -torch.inf),
        ]
    )
    pred = ToMasksd()({"pred": logits, "size_hw": [8, 8]})["pred"]
    assert pred.dtype == bool
    np.testing.assert_array_equal(pred[0], np.repeat([[False, True]], 8, 0).repeat(4, 1))
    assert pred[1].all()
    assert not pred[2].any()  # a box that was no prompt


def test_no_mask_of_a_missing_prompt_after_a_resize():
    logits = torch.full((1, 8, 8), -torch.inf)
    assert not ToMasksd()({"pred": logits, "size_hw": [13, 21]})["pred"].any()


def test_target_of_regions_that_overlap():
    label = torch.tensor([[[0, 1, 2, 3]]])
    out = ToTargetd([[1, 2, 3], [2, 3], [3]])({"label": label})["label"]
    assert out.dtype == torch.uint8
    assert out.tolist() == [[[0, 1, 1, 1]], [[0, 0, 1, 1]], [[0, 0, 0, 1]]]
    assert ToTargetd(None)({"label": label})["label"] is label
    assert ToTargetd([[1]])({"image": label}) == {"image": label}


def test_regions_are_painted_in_order_over_each_other():
    logits = torch.full((4, 4, 4), -1.0)
    logits[0] = 0.0
    logits[1, :, 1:] = 1.0  # whole
    logits[2, :, 2:] = 5.0  # core
    logits[3, :, 3] = 0.1  # enhancing: above 0, though not the largest
    item = {"pred": logits, "size_hw": np.array([4, 4])}
    pred = ToClassMapd([1, 2, 3], paint=[2, 1, 3])(item)["pred"]
    np.testing.assert_array_equal(pred, [[0, 2, 1, 3]] * 4)
    assert pred.dtype == ToClassMapd([1, 2, 3])(item)["pred"].dtype
    # an inner region outside the outer one is painted all the same
    logits[1] = -1.0
    pred = ToClassMapd([1, 2, 3], paint=[2, 1, 3])(item)["pred"]
    np.testing.assert_array_equal(pred, [[0, 0, 1, 3]] * 4)
    with pytest.raises(ValueError, match="pred has 3 foreground channels, to paint are 2"):
        ToClassMapd([1, 2], paint=[1, 2])(item)

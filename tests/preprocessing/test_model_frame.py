import numpy as np
import pytest
import torch
from PIL import Image

from samtune.preprocessing.model_frame import (
    box_to_frame,
    content_size,
    image_to_frame,
    label_to_frame,
    logits_to_slice,
)


def resized(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bilinear and antialiased, by Pillow."""
    height, width = size_hw
    picture = Image.fromarray(image.astype(np.float32))  # mode F
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        ((20, 24), (107, 128)),  # 20 * 128 / 24 = 106.67
        ((24, 20), (128, 107)),
        ((300, 512), (75, 128)),
        ((128, 128), (128, 128)),
        ((256, 3), (128, 2)),  # 1.5, half up
        ((1, 1000), (1, 128)),  # 0.13 pixels become one
        ((1, 1), (128, 128)),
    ],
)
def test_the_long_side_becomes_the_frames(size_hw, expected):
    assert content_size(size_hw, 128) == expected


@pytest.mark.parametrize("size_hw", [(20, 24), (31, 17), (200, 320), (400, 130)])
def test_medsam_image_is_resized_then_min_max_then_padded_with_zero(rng, size_hw):
    image = rng.integers(20, 230, (1, *size_hw)).astype(np.uint8)
    frame = image_to_frame(torch.from_numpy(image), 128, "medsam")
    height, width = content_size(size_hw, 128)
    content = resized(image[0], (height, width))
    expected = np.zeros((128, 128))  # below and right; 20 is far from 0 before min-max
    expected[:height, :width] = (content - content.min()) / (content.max() - content.min())
    assert frame.dtype == torch.float32
    np.testing.assert_allclose(frame[0].numpy(), expected, atol=2e-5)
    assert frame.min() == 0
    assert frame.max() == 1
    assert not frame[:, height:].any()
    assert not frame[:, :, width:].any()


def test_medsam_colour_image_has_one_range_for_all_channels(rng):
    image = np.stack([rng.uniform(low, low + 50, (16, 16)) for low in (0, 100, 200)])
    frame = image_to_frame(torch.from_numpy(image), 16, "medsam")
    np.testing.assert_allclose(frame, (image - image.min()) / np.ptp(image), atol=1e-6)


def test_sam_image_has_imagenet_mean_and_deviation_and_zero_padding():
    grey = torch.full((1, 10, 20), 140.0)
    frame = image_to_frame(grey, 40, "sam")
    assert frame.shape == (3, 40, 40)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = np.broadcast_to(((140 - mean) / std)[:, None, None], (3, 20, 40))
    np.testing.assert_allclose(frame[:, :20], expected, rtol=1e-5)
    assert not frame[:, 20:].any()  # zero after the normalisation, as SAM pads


def test_sam_colour_image_keeps_its_channels():
    image = torch.tensor([123.675, 116.28, 103.53])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(image_to_frame(image, 8, "sam"), torch.zeros(3, 8, 8))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (7, 5)])
def test_constant_image_is_zero_not_nan(size_hw):
    image = torch.full((1, *size_hw), 77, dtype=torch.uint8)
    frame = image_to_frame(image, 32, "medsam")
    assert frame.shape == (1, 32, 32)
    assert not frame.any()


def test_unknown_normalization_is_an_error():
    with pytest.raises(ValueError, match="'sam' or 'medsam', got 'imagenet'"):
        image_to_frame(torch.zeros(1, 4, 4), 8, "imagenet")  # type: ignore[arg-type]


@pytest.mark.parametrize("size_hw", [(20, 24), (33, 21), (300, 200)])
def test_label_takes_the_nearest_pixel_and_no_new_value(rng, size_hw):
    label = rng.choice([0, 1, 3, 60_000], size_hw)
    frame = label_to_frame(torch.from_numpy(label)[None], 128)
    height, width = content_size(size_hw, 128)
    rows = np.floor((np.arange(height) + 0.5) * size_hw[0] / height).astype(int)
    cols = np.floor((np.arange(width) + 0.5) * size_hw[1] / width).astype(int)
    expected = np.zeros((1, 128, 128), label.dtype)
    expected[0, :height, :width] = label[np.ix_(rows, cols)]
    assert frame.dtype == torch.int64
    np.testing.assert_array_equal(frame, expected)


def test_boxes_go_with_the_content_and_padding_boxes_stay_nan():
    boxes = torch.tensor(
        [[0.0, 0, 24, 20], [12, 10, 24, 20], [6, 5, 7, 6], [torch.nan] * 4]
    )  # x of 24, y of 20
    frame = box_to_frame(boxes, (20, 24), 128)
    expected = [[0.0, 0, 128, 107], [64, 53.5, 128, 107], [32, 26.75, 112 / 3, 32.1]]
    torch.testing.assert_close(frame[:3], torch.tensor(expected))
    assert frame[3].isnan().all()
    assert box_to_frame(boxes.view(2, 2, 4), (20, 24), 128).shape == (2, 2, 4)


@pytest.mark.parametrize("size_hw", [(60, 100), (100, 60), (90, 90), (300, 210)])
def test_logits_to_slice_inverts_the_frame_for_smooth_fields(size_hw):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    field = np.stack(
        [np.sin(3 * y / size_hw[0] + 2 * x / size_hw[1]), y / size_hw[0] - 0.5 * x / size_hw[1]]
    )
    height, width = content_size(size_hw, 128)
    logits = torch.full((2, 128, 128), 1e6)  # the padding must not leak in
    logits[:, :height, :width] = torch.from_numpy(
        np.stack([resized(channel, (height, width)) for channel in field])
    )
    back = logits_to_slice(logits, size_hw).numpy()
    assert back.shape == (2, *size_hw)
    np.testing.assert_allclose(back, field, atol=0.02)
    np.testing.assert_allclose(back[:, 5:-5, 5:-5], field[:, 5:-5, 5:-5], atol=2e-3)


def test_a_slice_of_one_pixel_goes_there_and_back():
    frame = label_to_frame(torch.tensor([[[3]]]), 16)
    assert frame.eq(3).all()
    assert logits_to_slice(frame.float(), (1, 1)).item() == 3

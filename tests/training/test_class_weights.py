import numpy as np
import pytest

from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.class_weights import class_weights
from samtune.training.task import make_task

TASK = make_task({1: "front", 3: "back"})


@pytest.fixture
def manifest(slice_labels):
    """Two cases of 4 x 6 x 2 pixels: 96 in all, 12 of class 1, 4 of class 3."""
    a, b = np.zeros((4, 6, 2), np.uint8), np.zeros((4, 6, 2), np.uint8)
    a[:3, :4, 0] = 1
    b[:2, :2, 1] = 3
    return slice_labels({"a": a, "b": b}, split="train")


def test_none_is_none(manifest):
    assert class_weights(None, manifest, TASK) is None


def test_inverse_frequency_of_the_training_split(manifest):
    expected = [96 / (3 * 80), 96 / (3 * 12), 96 / (3 * 4)]  # background, front, back
    assert class_weights("inverse_frequency", manifest, TASK) == pytest.approx(expected)


def test_inverse_frequency_of_regions_that_overlap(manifest):
    regions = {"whole": [1, 3], "back": [3]}
    task = make_task({1: "front", 3: "back"}, channels=regions, activation="sigmoid")
    _, *found = class_weights("inverse_frequency", manifest, task)
    assert found == pytest.approx([96 / (3 * 16), 96 / (3 * 4)])


def test_the_counts_are_those_of_the_files(tiny_manifest):
    labels = [
        read_slice_file(tiny_manifest.path(row))[1][row.position]
        for row in tiny_manifest.select("train")
    ]
    pixels = np.concatenate([label.ravel() for label in labels])
    expected = [pixels.size / (3 * np.count_nonzero(pixels == value)) for value in (0, 1, 3)]
    assert class_weights("inverse_frequency", tiny_manifest, TASK) == pytest.approx(expected)


def test_given_by_name_the_others_are_one(manifest):
    assert class_weights({"back": 5}, manifest, TASK) == [1, 1, 5]
    assert class_weights({"background": 0.2, "front": 2}, manifest, TASK) == [0.2, 2, 1]


def test_a_class_without_a_pixel_has_no_inverse(manifest):
    task = make_task({1: "front", 2: "middle", 3: "back"})
    with pytest.raises(ValueError, match="'middle' has no pixel in the training split of"):
        class_weights("inverse_frequency", manifest, task)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("frequency", "must be null, inverse_frequency or a mapping .*, got 'frequency'"),
        ({"fron": 2}, "no class 'fron', there are: background, front, back"),
        ({"front": 0}, "weight of 'front' must be a number above 0, got 0"),
        ({"front": "2x"}, "weight of 'front' must be a number above 0, got '2x'"),
        ({"front": float("inf")}, "must be a number above 0, got inf"),
    ],
)
def test_what_is_no_weight_is_refused(manifest, given, message):
    with pytest.raises(ValueError, match=message):
        class_weights(given, manifest, TASK)

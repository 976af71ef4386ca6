import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from samtune.preprocessing.label_map import LabelMap, LabelRule, present_values
from samtune.preprocessing.label_steps import LabelSteps

LABELS = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 3))


def removed_by_definition(label, smallest, ignore=None):
    """Every component of every value, all neighbours counted, by scipy."""
    out = label.copy()
    for value in set(np.unique(label).tolist()) - {0, ignore}:
        components, number = ndimage.label(label == value, np.ones((3,) * label.ndim))
        for index in range(1, number + 1):
            if (components == index).sum() < smallest:
                out[components == index] = 0
    return out


def test_rules_join_classes_and_name_them():
    label_map = LabelMap.parse(["1, 2=>1:left hippocampus", "7=>2 ; *=>0"])
    assert label_map.rules == (
        LabelRule((1, 2), 1, "left hippocampus"),
        LabelRule((7,), 2),
        LabelRule((), 0),
    )
    assert label_map.class_names == {1: "left hippocampus"}
    label = np.array([[0, 1, 2, 7, 9]], dtype=np.int32)
    mapped = label_map.apply(label)
    assert (mapped.tolist(), mapped.dtype) == ([[0, 1, 1, 2, 0]], np.uint8)
    assert LabelMap.from_dict(json.loads(json.dumps(label_map.to_dict()))) == label_map


def test_a_value_without_a_rule_is_an_error_and_background_needs_none():
    label_map = LabelMap.parse(["1=>1"])
    assert label_map.apply(np.array([0, 1])).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"label value 2, 5 has no rule .*'\*=>0'"):
        label_map.apply(np.array([0, 1, 2, 5]))


def test_swaps_are_not_applied_one_after_the_other_and_large_values_fit():
    assert LabelMap.parse(["1=>2;2=>1"]).apply(np.array([1, 2, 1])).tolist() == [2, 1, 2]
    big = np.array([0, 70_000, 3], dtype=np.uint32)
    mapped = LabelMap.parse(["70000=>300;3=>1"]).apply(big)
    assert (mapped.tolist(), mapped.dtype) == ([0, 300, 1], np.uint16)
    assert LabelMap.parse(["0=>4", "1=>0"]).apply(np.array([0, 1])).tolist() == [4, 0]


def test_the_ignore_label_survives_map_and_cleaning():
    steps = LabelSteps(LabelMap.parse(["1=>2;*=>0"]), 3, 2, ignore_label=255)
    label = np.zeros((3, 4, 5), dtype=np.uint8)
    label[0, 0, :3] = 1  # three voxels, kept
    label[2, 3, 4] = 1  # one, removed
    label[2, 0, 0] = 255  # one, ignored: stays
    label[1, 3, 3] = 9
    expected = np.zeros_like(label)
    expected[0, 0, :3] = 2
    expected[2, 0, 0] = 255
    cleaned = steps.on_volume(label)
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(steps.on_slices(cleaned), expected)
    assert steps.class_values(cleaned) == [2]


@settings(max_examples=60, deadline=None)
@given(label=LABELS, smallest=st.integers(0, 6), ignore=st.sampled_from([None, 2]))
def test_small_objects_go_by_value_and_26_neighbours_and_equal_ones_stay(label, smallest, ignore):
    before = label.copy()
    cleaned = LabelSteps(min_voxels=smallest, ignore_label=ignore).on_volume(label)
    np.testing.assert_array_equal(cleaned, removed_by_definition(label, smallest, ignore))
    np.testing.assert_array_equal(label, before)


@settings(max_examples=60, deadline=None)
@given(slices=LABELS, smallest=st.integers(0, 6), ignore=st.sampled_from([None, 2]))
def test_small_areas_go_slice_by_slice_with_8_neighbours(slices, smallest, ignore):
    cleaned = LabelSteps(min_pixels=smallest, ignore_label=ignore).on_slices(slices)
    for one, label in zip(cleaned, slices, strict=True):
        np.testing.assert_array_equal(one, removed_by_definition(label, smallest, ignore))


def test_diagonal_neighbours_are_one_object():
    corner = np.zeros((2, 2, 2), dtype=np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    assert LabelSteps(min_voxels=2).on_volume(corner).sum() == 2
    assert LabelSteps(min_pixels=2).on_slices(corner).sum() == 0  # one pixel in each slice
    assert LabelSteps(min_voxels=3).on_volume(corner).sum() == 0


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.uint32]),
        hnp.array_shapes(max_side=4),
        elements=st.integers(0, 100),
    )
)
def test_present_values_are_the_sorted_unique_ones(label):
    assert present_values(label) == np.unique(label).tolist()


def test_names_of_values_that_the_map_takes_away_go_with_them():
    names = {1: "liver", 2: "tumour", 3: "vessel"}
    assert LabelSteps().names(names) == names
    steps = LabelSteps(LabelMap.parse(["1,2=>1:organ", "3=>3", "*=>0"]))
    assert steps.names(names) == {1: "organ", 3: "vessel"}


def test_settings_survive_json_and_defaults_are_left_out():
    assert LabelSteps().to_dict() == {}
    steps = LabelSteps(LabelMap.parse(["1,2=>1:a", "*=>0"]), 1000, 100, 255)
    assert LabelSteps.from_dict(json.loads(json.dumps(steps.to_dict()))) == steps
    assert LabelSteps.from_dict({}) == LabelSteps()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1-2=>1"], "'1-2=>1' is not VALUE"),
        (["1,,2=>1"], "is not VALUE"),
        (["1=>1:"], "is not VALUE"),
        (["1=>1", "1,2=>2"], "1 is in more than one rule"),
        (["*=>0;*=>1"], r"\* is in more than one rule"),
        (["1=>1:a", "2=>1:b"], "1 is named 'a' and 'b'"),
        (["1=>1:a", "2=>2:a"], "a name is there twice"),
        (["1=>0:a"], "background"),
        (["1=>70000"], "70000 is above 65535"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        LabelMap.parse(texts)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="-1 voxels"):
        LabelSteps(min_voxels=-1)
    with pytest.raises(ValueError, match=r"ignore label must be in 1..65535, got 0"):
        LabelSteps(ignore_label=0)
    with pytest.raises(ValueError, match="255 is the ignore label and has a rule"):
        LabelSteps(LabelMap.parse(["255=>1"]), ignore_label=255)
    with pytest.raises(ValueError, match="label value 70000; slice files hold"):
        LabelSteps().on_volume(np.array([[[70_000]]]))

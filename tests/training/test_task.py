import json

import numpy as np
import pytest

from samtune.training.task import Task, make_task, task_of


def label(*values):
    out = np.zeros((6, 5, 3), np.uint8)
    for i, value in enumerate(values):
        out[i, 1:3, 1] = value
    return out


def test_classes_are_sorted_by_value_and_channels_follow():
    task = make_task({"3": "back", 1: "front", 7: "top"}, {"whole": "1+3+7", "rear": [3, 7]})
    assert task == Task({1: "front", 3: "back", 7: "top"}, {"whole": (1, 3, 7), "rear": (3, 7)})
    assert task.class_values == (1, 3, 7)
    assert [(r.name, r.labels, r.label) for r in task.scored()] == [
        ("front", (1,), "1"),
        ("back", (3,), "3"),
        ("top", (7,), "7"),
        ("whole", (1, 3, 7), "1+3+7"),
        ("rear", (3, 7), "3+7"),
    ]
    assert task.channel_regions() == [[1], [2], [3], [1, 2, 3], [2, 3]]


def test_a_task_survives_json():
    task = make_task({10: "a", 2: "b"}, {"both": [10, 2]})
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


@pytest.mark.parametrize("classes", [{}, {0: "background"}, {-1: "x", 1: "y"}])
def test_classes_must_be_values_above_zero(classes):
    with pytest.raises(ValueError, match="at least one label value >= 1"):
        make_task(classes)


def test_a_region_of_an_unknown_class_is_an_error():
    with pytest.raises(ValueError, match=r"'whole' has label values \[2\], the classes are \[1, 3"):
        make_task({1: "a", 3: "b"}, {"whole": "1+2"})


@pytest.mark.parametrize(
    ("regions", "repeated"), [({"rear": [3]}, "label '3'"), ({"a": "1+3"}, "name 'a'")]
)
def test_what_would_be_scored_twice_is_refused_before_any_training(regions, repeated):
    with pytest.raises(ValueError, match=f"{repeated} is listed twice"):
        make_task({1: "a", 3: "b"}, regions)


def test_auto_takes_names_and_values_of_the_slices(tiny_manifest):
    task = task_of(tiny_manifest)
    assert task == make_task({1: "front", 3: "back"}, {"whole": [1, 3]})


def test_auto_names_what_has_no_name(slice_labels):
    task = task_of(slice_labels({"a": label(2), "b": label(5)}))
    assert task == make_task({2: "class_2", 5: "class_5"}, {"whole": "2+5"})


def test_auto_of_a_single_class_has_no_region(slice_labels):
    assert task_of(slice_labels({"a": label(4)})) == make_task({4: "class_4"})


def test_given_classes_and_regions(tiny_manifest):
    assert task_of(tiny_manifest, {1: "x", 3: "y"}, None) == make_task({1: "x", 3: "y"})
    task = task_of(tiny_manifest, {1: "x", 3: "y"}, {"both": "1+3"})
    assert task.regions == {"both": (1, 3)}


def test_slices_without_labels_have_no_task(slice_labels):
    manifest = slice_labels({"a": label(1)}, labelled=False)
    with pytest.raises(ValueError, match="have no labels; run 'samtune slice' with --labels"):
        task_of(manifest)


@pytest.mark.parametrize("key", ["classes", "regions"])
def test_text_other_than_auto_is_an_error(tiny_manifest, key):
    with pytest.raises(ValueError, match=f"{key} must be 'auto' or a mapping .* got 'all'"):
        task_of(tiny_manifest, **{key: "all"})

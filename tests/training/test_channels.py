"""Overlapping regions as channels, and the task that holds them."""

import json

import pytest

from samtune.training.channels import make_channels
from samtune.training.task import Task, make_task, task_of

BRATS = {1: "necrosis", 2: "edema", 3: "enhancing"}
NESTED = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}


def test_nested_regions_leave_each_channel_one_value():
    channels = make_channels(NESTED, BRATS)
    assert [c.name for c in channels] == ["whole", "core", "enhancing"]
    assert [c.labels for c in channels] == [(1, 2, 3), (1, 3), (3,)]
    assert [c.painted for c in channels] == [2, 1, 3]


def test_order_is_taken_as_given():
    channels = make_channels({"a": "1+2", "b": "2+3"}, BRATS, [1, 3])
    assert [(c.labels, c.painted) for c in channels] == [((1, 2), 1), ((2, 3), 3)]


@pytest.mark.parametrize(
    ("regions", "order", "message"),
    [
        ({"whole": [1, 2, 3]}, "auto", r"channel 'whole' has the label values \[1, 2, 3\] to its"),
        (
            {"enhancing": [3], "whole": [1, 2, 3]},
            "auto",
            r"channel 'enhancing' has the label values \[\] .*list larger regions first",
        ),
        ({"a": [1, 4], "b": [2, 3]}, "auto", r"channel 'a' has label values \[4\], the classes"),
        ({"a": [1], "b": [2]}, "auto", r"must hold every class, missing: 3 \(enhancing\)"),
        ({}, "auto", "channels must hold every class"),
        ({"a": [1, 1], "b": [2, 3]}, "auto", "each once, got"),
        ({"a": "one"}, "auto", "expected whole numbers"),
        (NESTED, [2, 1], r"one label value of each channel \(whole: .*got \[2, 1\]"),
        (NESTED, [2, 2, 3], r"got \[2, 2, 3\]"),
        (NESTED, [1, 2, 3], r"got \[1, 2, 3\]"),  # 2 is not of the core
        (NESTED, "up", "region_order must be 'auto' or a list"),
    ],
)
def test_what_is_refused(regions, order, message):
    with pytest.raises(ValueError, match=message):
        make_channels(regions, BRATS, order)


def test_a_task_with_regions_is_sigmoid_and_knows_its_targets():
    task = make_task(
        {5: "a", 2: "b", 9: "c"}, channels={"x": [2, 9], "y": [9], "z": [5]}, activation="sigmoid"
    )
    assert task.activation == "sigmoid"
    assert task.channel_names == ["x", "y", "z"]
    assert task.target_channels == [[1, 3], [3], [2]]  # values 2, 5, 9 are channels 1, 2, 3
    assert task.paint == [2, 9, 5]


def test_a_softmax_task_is_what_it_was():
    task = make_task({1: "a", 3: "b"}, {"whole": [1, 3]})
    assert task.activation == "softmax"
    assert task.channel_labels == {"a": (1,), "b": (3,)}
    assert task.target_channels is None
    assert task.paint is None
    assert set(task.to_dict()) == {"classes", "regions"}  # older runs go on


@pytest.mark.parametrize("channels", [NESTED, {"z": [1, 2, 3], "a": [1, 3], "m": [3]}])
def test_order_of_channels_outlives_a_file_with_sorted_keys(channels):
    task = make_task(BRATS, channels=channels, activation="sigmoid")
    text = json.dumps(task.to_dict(), sort_keys=True)
    again = Task.from_dict(json.loads(text))
    assert again == task
    assert again.channel_names == list(channels)


def test_sigmoid_without_regions_is_a_channel_a_class():
    task = make_task(BRATS, activation="sigmoid")
    assert task.channel_labels == {"necrosis": (1,), "edema": (2,), "enhancing": (3,)}
    assert task.paint == [1, 2, 3]
    assert Task.from_dict(task.to_dict()) == task


def test_scored_regions_are_the_channels_by_default(tiny_manifest):
    task = task_of(tiny_manifest, channels={"all": [1, 3], "core": [3]}, activation="sigmoid")
    assert [(r.name, r.labels) for r in task.scored()] == [
        ("front", (1,)),
        ("back", (3,)),
        ("all", (1, 3)),
    ]


@pytest.mark.parametrize("options", [{"channels": NESTED}, {"region_order": [1, 2, 3]}])
def test_channels_need_sigmoid(options):
    with pytest.raises(ValueError, match="regions that may overlap: activation 'sigmoid'"):
        make_task(BRATS, **options)
    with pytest.raises(ValueError, match="must be 'softmax' or 'sigmoid', got 'relu'"):
        make_task(BRATS, activation="relu")

"""Which rows a table has, from text and from a configuration."""

import pytest

from samtune.evaluation.regions import (
    Region,
    check_regions,
    parse_labels,
    parse_regions,
    regions_from_config,
)

CLASSES = {1: "anterior", 2: "posterior"}
ROWS = [Region("anterior", (1,)), Region("posterior", (2,)), Region("whole", (1, 2))]


def test_labels_and_regions_are_read_in_the_order_given():
    assert parse_labels("2:posterior, 1:anterior") == [ROWS[1], ROWS[0]]
    assert parse_regions("whole=1+2,rest=2") == [ROWS[2], Region("rest", (2,))]
    assert [row.label for row in ROWS] == ["1", "2", "1+2"]


@pytest.mark.parametrize("values", [[1, 2], "1+2"])
def test_config_lists_classes_first_then_regions(values):
    assert regions_from_config(CLASSES, {"whole": values}) == ROWS


def test_config_without_regions_or_with_a_single_value():
    assert regions_from_config(CLASSES) == ROWS[:2]
    assert regions_from_config({3: "cyst", 4: "node"}, {}) == [
        Region("cyst", (3,)),
        Region("node", (4,)),
    ]


@pytest.mark.parametrize(
    "text", ["anterior", "1=anterior", "x:anterior", "1:", "-1:anterior", "1:a,", "0:background"]
)
def test_unreadable_labels_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_labels(text)


@pytest.mark.parametrize("text", ["whole", "whole:1+2", "whole=1+x", "=1", "whole=1+1", "whole=0"])
def test_unreadable_regions_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_regions(text)


def test_a_region_of_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match=r"'whole': label 3 is no class; classes are \[1, 2\]"):
        regions_from_config(CLASSES, {"whole": [1, 3]})


@pytest.mark.parametrize(
    ("regions", "found"),
    [
        ([Region("a", (1,)), Region("a", (2,))], "name 'a' is listed twice"),
        ([Region("a", (1,)), Region("b", (1,))], "label '1' is listed twice"),
        ([], "no class"),
    ],
)
def test_rows_that_could_not_be_told_apart_are_refused(regions, found):
    with pytest.raises(ValueError, match=found):
        check_regions(regions)


def test_a_name_of_two_lines_is_refused():
    with pytest.raises(ValueError, match="one line"):
        Region("left\nlobe", (1,))

"""Rows of one case from label arrays and from masks that overlap."""

import math

import numpy as np
import pytest

from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import (
    failed_case_rows,
    label_values,
    missing_case_rows,
    region_mask,
    score_case,
    score_case_masks,
)

REGIONS = (Region("front", (1,)), Region("back", (2,)), Region("whole", (1, 2)))


def label_pair():
    """Reference: 2x4x4 of class 1 and of class 2; the prediction swaps the two."""
    ref = np.zeros((8, 8, 8), dtype=np.uint8)
    ref[2:4, 2:6, 2:6], ref[4:6, 2:6, 2:6] = 1, 2
    pred = np.zeros_like(ref)
    pred[ref == 1], pred[ref == 2] = 2, 1
    return pred, ref


def test_swapped_classes_score_zero_each_and_one_together():
    pred, ref = label_pair()
    rows = score_case("a", pred, ref, (1, 1, 2), REGIONS, (1.0, 2.0))
    assert [(row.case, row.label, row.name, row.status) for row in rows] == [
        ("a", "1", "front", "ok"),
        ("a", "2", "back", "ok"),
        ("a", "1+2", "whole", "ok"),
    ]
    assert [row.dice for row in rows] == [0, 0, 1]
    assert rows[2].nsd == {1.0: 1.0, 2.0: 1.0}
    assert [row.volume_ref_ml for row in rows] == [0.064, 0.064, 0.128]


def test_a_class_in_neither_map_still_has_its_row():
    pred, ref = label_pair()
    rows = score_case("a", pred, ref, (1, 1, 1), (*REGIONS, Region("cyst", (9,))))
    assert rows[-1].status == "both_empty"
    assert math.isnan(rows[-1].dice)


@pytest.mark.parametrize("which", ["prediction", "reference"])
def test_a_class_that_no_region_lists_is_refused(which):
    pred, ref = label_pair()
    (pred if which == "prediction" else ref)[0, 0, 0] = 7
    with pytest.raises(ValueError, match=f"'a': the {which} has label 7.*labels are 1, 2"):
        score_case("a", pred, ref, (1, 1, 1), REGIONS)


def test_another_shape_is_refused():
    pred, ref = label_pair()
    with pytest.raises(ValueError, match=r"'a': prediction has shape \(7, 8, 8\)"):
        score_case("a", pred[1:], ref, (1, 1, 1), REGIONS)


def test_overlapping_masks_are_scored_as_they_are():
    _, ref = label_pair()
    whole = region_mask(ref, REGIONS[2])
    pairs = [(REGIONS[0], whole, ref == 1), (REGIONS[2], whole, whole)]
    rows = score_case_masks("a", pairs, (1, 1, 1))
    assert [row.dice for row in rows] == [pytest.approx(2 * 32 / (64 + 32)), 1]


def test_a_missing_prediction_is_the_worst_even_where_the_reference_is_empty():
    _, ref = label_pair()
    rows = missing_case_rows("a", ref, (1, 1, 2), (REGIONS[0], Region("cyst", (9,))))
    assert [row.status for row in rows] == ["missing_pred"] * 2
    assert [(row.dice, row.iou, row.nsd[1.0], row.hd95_mm) for row in rows] == [
        (0, 0, 0, math.inf)
    ] * 2
    assert [row.volume_ref_ml for row in rows] == [0.064, 0]
    assert all(math.isnan(row.volume_pred_ml) for row in rows)


def test_a_failed_case_knows_the_reference_volume_if_it_was_read():
    _, ref = label_pair()
    (known,) = failed_case_rows("a", ref, (1, 1, 1), REGIONS[2:])
    (unknown,) = failed_case_rows("a", None, None, REGIONS[2:])
    assert known.status == unknown.status == "failed"
    assert known.dice == unknown.dice == 0
    assert known.volume_ref_ml == 0.064
    assert math.isnan(unknown.volume_ref_ml)


def test_label_values_and_masks():
    _, ref = label_pair()
    assert label_values(ref) == [1, 2]
    assert label_values(np.zeros((2, 2), dtype=np.int16)) == []
    assert region_mask(ref, REGIONS[2]).dtype == bool

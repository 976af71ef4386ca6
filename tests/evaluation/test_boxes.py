"""Masks of regions, cut to their boxes, against plain comparisons of the whole arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.evaluation import boxes
from samtune.evaluation.boxes import count_values, foreground_box, holds_only, region_pairs
from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import score_case

REGIONS = [*(Region(str(value), (value,)) for value in range(1, 10)), Region("some", (2, 5, 9))]


def labels(seed, shape=(7, 6, 5), values=10):
    generator = np.random.default_rng(seed)
    array = generator.integers(0, values, shape) * (generator.random(shape) < 0.1)
    return array.astype(generator.choice(["uint8", "int16", "int64"]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(7, 6, 5), (1, 6, 5), (9, 8)]),
    few=st.integers(0, 20),
    order=st.sampled_from("CF"),
)
def test_region_pairs_hold_what_the_whole_masks_hold(seed, shape, few, order):
    pred, ref = (np.asarray(labels(seed + n, shape), order=order) for n in (0, 1))
    before, boxes.FEW = boxes.FEW, few  # both ways of finding the boxes
    try:
        pairs = list(region_pairs(pred, ref, REGIONS))
    finally:
        boxes.FEW = before
    assert [region for region, *_ in pairs] == REGIONS
    for region, pred_mask, ref_mask in pairs:
        whole = [np.isin(label, region.labels) for label in (pred, ref)]
        box = foreground_box(*whole)
        np.testing.assert_array_equal(pred_mask, whole[0][box])
        np.testing.assert_array_equal(ref_mask, whole[1][box])


def test_many_classes_score_as_each_alone():
    shape = (12, 11, 10)
    pred, ref = (labels(seed, shape) for seed in (3, 4))
    together = score_case("a", pred, ref, (1, 1, 2), REGIONS)
    for region, row in zip(REGIONS, together, strict=True):
        alone = [np.isin(label, region.labels).astype(np.uint8) for label in (pred, ref)]
        (expected,) = score_case("a", *alone, (1, 1, 2), [Region(region.name, (1,))])
        assert (row.dice, row.nsd, row.hd95_mm) == (expected.dice, expected.nsd, expected.hd95_mm)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_foreground_box(dtype):
    array = np.zeros((5, 6, 7), dtype)
    assert array[foreground_box(array)].size == 0
    array[1, 2, 3] = array[3, 2, 5] = 1
    assert foreground_box(array) == (slice(1, 4), slice(2, 3), slice(3, 6))
    assert foreground_box(array.transpose(2, 0, 1)) == (slice(3, 6), slice(1, 4), slice(2, 3))
    other = np.zeros_like(array)
    other[4, 5, 0] = 1
    assert foreground_box(array, other) == (slice(1, 5), slice(2, 6), slice(0, 6))


def test_holds_only_and_count_values():
    array = np.zeros((4, 5), np.int64)
    array[1, 1:4] = 7
    array[2, 2] = 100_000
    assert count_values(array) == {7: 3, 100_000: 1}
    assert holds_only(array, [7, 100_000, 3])
    assert not holds_only(array, [7])
    assert not holds_only(array, [1, 2, 100_000])
    assert holds_only(np.zeros((4, 5), np.uint8), [])
    assert holds_only(np.minimum(array, 2), [1, 2])

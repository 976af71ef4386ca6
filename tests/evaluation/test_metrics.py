"""Metrics against hand-made masks: reference cases T1 to T15, closed forms, laws, conventions."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.evaluation.metrics import check_tolerances, score_masks, worst_scores

CUBE = (slice(3, 7), slice(3, 7), slice(3, 7))


def box(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    if ranges:
        mask[ranges] = True
    return mask


def cube(*, shift=(0, 0, 0), shape=(10, 10, 10), low=3, high=7):
    return box(shape, *(slice(low + step, high + step) for step in shift))


def voxel(*index):
    return box((10, 10, 10), *(slice(i, i + 1) for i in index))


def far_voxel_pair():
    ref = box((12, 12, 30), *CUBE)
    pred = ref.copy()
    pred[3, 3, 25] = True
    return ref, pred


ISO = (1, 1, 1)
# id: reference, prediction, spacing, dice, iou, {tolerance: nsd}, hd95
SQUARE = box((10, 10), slice(3, 7), slice(3, 7))
TABLE = {
    "T1": (cube(), cube(), ISO, 1, 1, {0: 1}, 0),
    "T2": (
        cube(),
        cube(shift=(1, 0, 0)),
        ISO,
        0.75,
        0.6,
        {0: 0.663111024, 0.5: 0.663111024, 1: 1},
        1,
    ),
    "T3": (
        cube(),
        cube(shift=(1, 0, 0)),
        (3, 1, 1),
        0.75,
        0.6,
        {1: 0.839219747, 2: 0.844380716, 3: 1},
        3,
    ),
    "T4": (cube(), cube(shift=(1, 0, 0)), (1, 1, 3), 0.75, 0.6, {0: 0.595409966, 1: 1}, 1),
    "T5": (
        cube(),
        cube(low=2, high=8),
        ISO,
        0.457142857,
        0.296296296,
        {1: 0.839625776, 1.5: 0.993709556, 1.8: 1},
        1.41421356,
    ),
    "T6": (voxel(3, 3, 3), voxel(6, 3, 3), ISO, 0, 0, {1: 0, 2: 0.5, 3: 1}, 3),
    "T7": (voxel(3, 3, 3), voxel(3, 3, 3), (0.5, 1, 2), 1, 1, {0: 1}, 0),
    "T8": (cube(), box((10, 10, 10)), ISO, 0, 0, {1: 0}, math.inf),
    "T9": (box((10, 10, 10)), cube(), ISO, 0, 0, {1: 0}, math.inf),
    "T10": (
        box((10, 10, 10)),
        box((10, 10, 10)),
        ISO,
        math.nan,
        math.nan,
        {1: math.nan},
        math.nan,
    ),
    "T11": (
        np.ones((5, 5, 5), dtype=bool),
        box((5, 5, 5), slice(5), slice(5), slice(4)),
        ISO,
        0.888888889,
        0.8,
        {0.5: 0.819319038, 1: 1},
        1,
    ),
    "T12": (*far_voxel_pair(), ISO, 0.992248062, 0.984615385, {1: 0.989445655}, 0),
    "T13": (
        SQUARE,
        box((10, 10), slice(3, 7), slice(4, 8)),
        (1, 2),
        0.75,
        0.6,
        {1: 0.722497764, 2: 1},
        2,
    ),
    "T14": (
        box((10, 10), slice(4, 5), slice(4, 5)),
        box((10, 10), slice(3, 6), slice(3, 6)),
        (1, 1),
        0.2,
        0.111111111,
        {1: 0.792893219, 1.5: 1},
        1.41421356,
    ),
    "T15": (
        SQUARE[None],
        box((1, 10, 10), slice(1), slice(3, 7), slice(4, 8)),
        (5, 1, 1),
        0.75,
        0.6,
        {0: 0.781445077, 1: 1},
        1,
    ),
}


@pytest.mark.parametrize("key", TABLE)
def test_reference_table(key):
    ref, pred, spacing, dice, iou, nsd, hd95 = TABLE[key]
    scores = score_masks(pred, ref, spacing=spacing, tolerances_mm=tuple(nsd))
    assert scores.dice == pytest.approx(dice, abs=1e-9, nan_ok=True)
    assert scores.iou == pytest.approx(iou, abs=1e-9, nan_ok=True)
    assert scores.nsd == pytest.approx(nsd, abs=1e-9, nan_ok=True)
    assert scores.hd95_mm == pytest.approx(hd95, abs=1e-8, nan_ok=True)


def test_surface_dice_of_a_pixel_in_a_square_by_its_closed_form():
    # The pixel's outline is 2 sqrt 2 long, the square's 8 + 2 sqrt 2; only the square's four
    # bevelled corners, sqrt 2 / 2 each, are sqrt 2 away.
    ref, pred, spacing, *_ = TABLE["T14"]
    outline = 2 * math.sqrt(2) + 8 + 2 * math.sqrt(2)
    expected = 1 - 4 * (math.sqrt(2) / 2) / outline
    assert score_masks(pred, ref, spacing=spacing).nsd[1.0] == pytest.approx(expected, abs=1e-12)


def test_surface_dice_of_a_far_voxel_by_its_closed_form():
    # Cube of 4: 6 (n-1)^2 + 12 (n-1) sqrt 2 / 2 + sqrt 3; a lone voxel: sqrt 3.
    ref, pred, spacing, *_ = TABLE["T12"]
    area = 6 * 9 + 12 * 3 * math.sqrt(2) / 2 + math.sqrt(3)
    expected = 2 * area / (2 * area + math.sqrt(3))
    assert score_masks(pred, ref, spacing=spacing).nsd[1.0] == pytest.approx(expected, abs=1e-9)


def test_volume_is_voxels_times_spacing_in_ml():
    scores = score_masks(cube(low=2, high=8), cube(), spacing=(0.5, 1, 2.5))
    assert scores.volume_ref_ml == 64 * 1.25 / 1000
    assert scores.volume_pred_ml == 216 * 1.25 / 1000


def test_microscopic_volumes_are_not_rounded_away():
    assert score_masks(cube(), cube(), spacing=(0.004, 0.012, 0.1)).volume_ref_ml == pytest.approx(
        64 * 4.8e-9, rel=1e-9
    )


def test_pixels_have_no_volume():
    scores = score_masks(SQUARE, SQUARE, spacing=(1, 2))
    assert math.isnan(scores.volume_ref_ml)
    assert math.isnan(scores.volume_pred_ml)


@pytest.mark.parametrize(
    ("pred", "ref", "status"),
    [
        (cube(), cube(), "ok"),
        (cube(shape=(10, 10, 10), low=0, high=0), cube(), "pred_empty"),
        (cube(), cube(low=0, high=0), "ref_empty"),
        (cube(low=0, high=0), cube(low=0, high=0), "both_empty"),
    ],
)
def test_status_and_volumes_tell_which_mask_is_empty(pred, ref, status):
    scores = score_masks(pred, ref, spacing=ISO)
    assert scores.status == status
    assert scores.volume_ref_ml == ref.sum() / 1000
    assert scores.volume_pred_ml == pred.sum() / 1000


def test_worst_scores_are_zero_and_infinite_without_a_prediction_volume():
    scores = worst_scores("missing_pred", (1, 2), 0.5)
    assert (scores.status, scores.dice, scores.iou, scores.hd95_mm) == (
        "missing_pred",
        0,
        0,
        math.inf,
    )
    assert scores.nsd == {1.0: 0.0, 2.0: 0.0}
    assert scores.volume_ref_ml == 0.5
    assert math.isnan(scores.volume_pred_ml)


def test_spacing_in_the_wrong_order_or_one_gives_other_numbers():
    # The trap of the field's scripts: an ellipsoid shifted by one 5 mm slice looks perfect.
    axes = np.mgrid[:40, :40, :12]
    radius = sum(
        ((a - c) * s / r) ** 2
        for a, c, s, r in zip(axes, (20, 20, 5), (0.7, 0.7, 5), (10, 10, 20), strict=True)
    )
    ref = radius <= 1
    pred = np.roll(ref, 1, axis=2)
    right = score_masks(pred, ref, spacing=(0.7, 0.7, 5), tolerances_mm=(2,))
    assert right.hd95_mm == 5
    assert right.nsd[2.0] < 0.9
    for wrong in ((1, 1, 1), (5, 0.7, 0.7)):
        scores = score_masks(pred, ref, spacing=wrong, tolerances_mm=(2,))
        assert scores.nsd[2.0] == 1
        assert scores.hd95_mm <= 1
        assert scores.dice == right.dice


def test_spacing_of_a_float32_header_does_not_miss_an_inclusive_tolerance():
    stored = float(np.float32(0.4))
    assert 5 * stored > 2.0  # the trap is there
    ref = cube(shape=(20, 10, 10))
    pred = cube(shape=(20, 10, 10), shift=(5, 0, 0))
    assert score_masks(pred, ref, spacing=(stored,) * 3, tolerances_mm=(2,)).nsd[2.0] == 1


def test_an_exact_tie_at_95_percent_takes_the_smaller_distance():
    # 20 lone pixels on each side have equal outlines; 19 agree, one is 3 pixels off: exactly 95 %.
    ref, pred = np.zeros((2, 9, 100), dtype=bool)
    for column in range(2, 97, 5):
        ref[2, column] = pred[2, column] = True
    ref[2, 97], pred[5, 97] = True, True
    assert ref.sum() == pred.sum() == 20
    assert score_masks(pred, ref, spacing=(1, 1)).hd95_mm == 0


def test_masks_in_fortran_order_score_the_same():
    ref, pred = cube(), cube(shift=(1, 0, 2))
    assert score_masks(
        np.asfortranarray(pred), np.asfortranarray(ref), spacing=(1, 2, 3)
    ) == score_masks(pred, ref, spacing=(1, 2, 3))


def test_no_warning_leaks_and_no_filter_stays():
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        score_masks(cube(), cube(shift=(1, 0, 0)), spacing=ISO)
    assert not seen
    assert warnings.filters == before


def random_masks(seed, shape):
    generator = np.random.default_rng(seed)
    ref = generator.random(shape) < 0.3
    pred = ref ^ (generator.random(shape) < 0.2)
    ref.flat[0] = pred.flat[-1] = True  # neither is empty
    return pred, ref


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(5, 6, 7), (4, 1, 6), (6, 9)]),
    spacing=st.permutations([0.5, 1.25, 3.0]),
)
def test_laws_of_the_metrics(seed, shape, spacing):
    pred, ref = random_masks(seed, shape)
    spacing = tuple(spacing[: len(shape)])
    tolerances = (0.0, 1.0, 2.0, 1000.0)
    scores = score_masks(pred, ref, spacing=spacing, tolerances_mm=tolerances)

    assert 0 <= scores.iou <= scores.dice <= 1
    assert scores.dice == pytest.approx(2 * scores.iou / (1 + scores.iou), abs=1e-12)
    values = [scores.nsd[t] for t in tolerances]
    assert values == sorted(values)
    assert values[-1] == 1

    def same(other):
        assert other.dice == scores.dice
        assert list(other.nsd.values()) == pytest.approx(values, abs=1e-12)
        assert other.hd95_mm == pytest.approx(scores.hd95_mm, abs=1e-9)

    same(score_masks(ref, pred, spacing=spacing, tolerances_mm=tolerances))
    for order in itertools.permutations(range(len(shape))):
        same(
            score_masks(
                pred.transpose(order),
                ref.transpose(order),
                spacing=[spacing[axis] for axis in order],
                tolerances_mm=tolerances,
            )
        )
    same(
        score_masks(
            np.pad(np.flip(pred, 0), 2),
            np.pad(np.flip(ref, 0), 2),
            spacing=spacing,
            tolerances_mm=tolerances,
        )
    )
    doubled = score_masks(
        pred,
        ref,
        spacing=[2 * s for s in spacing],
        tolerances_mm=[2 * t for t in tolerances],
    )
    assert list(doubled.nsd.values()) == pytest.approx(values, abs=1e-12)
    assert doubled.hd95_mm == pytest.approx(2 * scores.hd95_mm, abs=1e-9)


@pytest.mark.parametrize(
    ("spacing", "found"),
    [((1, 1), r"\(1\.0, 1\.0\)"), ((1, 1, 0), r"0\.0"), ((1, 1, math.nan), "nan")],
)
def test_wrong_spacing_is_refused(spacing, found):
    with pytest.raises(ValueError, match=f"spacing .*{found}.*expected 3 entries"):
        score_masks(cube(), cube(), spacing=spacing)


@pytest.mark.parametrize(
    ("tolerances", "found"),
    [((), "at least one"), ((-1,), "-1"), ((math.inf,), "inf"), ((1, 1.0), "listed twice")],
)
def test_wrong_tolerances_are_refused(tolerances, found):
    with pytest.raises(ValueError, match=found):
        check_tolerances(tolerances)


def test_wrong_masks_are_refused():
    with pytest.raises(TypeError, match="pred is uint8"):
        score_masks(cube().astype(np.uint8), cube(), spacing=ISO)
    with pytest.raises(ValueError, match=r"\(10, 10, 10\).*\(9, 10, 10\)"):
        score_masks(cube(), cube()[1:], spacing=ISO)
    with pytest.raises(ValueError, match="2 or 3 axes"):
        score_masks(cube()[0, 0], cube()[0, 0], spacing=(1,))

"""Prompts by scheme: what the references' own schemes give, and empty masks."""

import numpy as np
import pytest

from samtune.preprocessing.prompt_schemes import (
    PRESETS,
    PromptScheme,
    make_prompts,
    scheme_of,
)


@pytest.fixture
def label():
    """Class 1: parts of 40 x 30, 20 x 20, 10 x 10 and 2 x 2 pixels; class 2: 8 x 8."""
    label = np.zeros((100, 120), np.uint8)
    label[10:50, 10:40] = 1
    label[60:80, 10:30] = 1
    label[60:70, 60:70] = 1
    label[90:92, 100:102] = 1
    label[20:28, 80:88] = 2
    return label


def many(label, scheme, number=300, regions=((1,),)):
    return [make_prompts(label, regions, scheme, np.random.default_rng(s)) for s in range(number)]


def real(prompts, i=0):
    return prompts.points[i][prompts.point_labels[i] >= 0]


@pytest.mark.parametrize("name", PRESETS)
def test_seed_fixes_every_prompt(label, name):
    first, again = (make_prompts(label, [[1], [2]], name, np.random.default_rng(5)) for _ in "ab")
    for field in ("boxes", "points", "point_labels", "owners", "targets"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))


@pytest.mark.parametrize("name", PRESETS)
def test_an_empty_class_holds_nothing_beside_one_that_does(label, name, rng):
    prompts = make_prompts(label, [[7], [2]], name, rng)
    shape = prompts.boxes.shape[0]
    assert prompts.points.shape[:2] == prompts.point_labels.shape
    assert prompts.points.shape[0] == prompts.targets.shape[0] == len(prompts.owners) == shape
    empty = prompts.owners == 0
    assert empty.any()
    assert not prompts.targets[empty].any()
    assert (prompts.point_labels[empty] == -1).all()
    if name == "full_box":  # a constant prompt: it knows nothing of the label
        np.testing.assert_array_equal(prompts.boxes, [[0, 0, 120, 100]] * 2)
    else:
        assert np.isnan(prompts.boxes[empty]).all()
    there = np.isfinite(prompts.boxes[~empty]).any() or (prompts.point_labels[~empty] >= 0).any()
    assert there == (name != "no_prompt")


def test_number_of_prompts_does_not_depend_on_the_label(label, rng):
    for name, number in (("oracle_box", 2), ("finetune_sam_box", 6), ("finetune_sam_point", 2)):
        for given in (label, np.zeros_like(label)):
            assert len(make_prompts(given, [[1], [2]], name, rng).boxes) == number


@pytest.mark.parametrize("name", ["sam_adapter", "oracle_box"])
def test_tight_box_without_jitter(label, name, rng):
    prompts = make_prompts(label, [[1], [1, 2]], name, rng)
    assert prompts.boxes.tolist() == [[10, 10, 102, 92], [10, 10, 102, 92]]
    assert prompts.points.shape == (2, 0, 2)
    np.testing.assert_array_equal(prompts.targets[1], label > 0)


def test_sam_lora_moves_sides_0_to_4_pixels_outward_and_has_five_points(label):
    found = many(label, "sam_lora", regions=((1, 2),))
    outward = np.stack([p.boxes[0] - (10, 10, 102, 92) for p in found]) * (-1, -1, 1, 1)
    for side in outward.T:
        assert set(side.tolist()) == {0, 1, 2, 3, 4}
    assert len({tuple(row) for row in outward.tolist()}) > 200  # each side by itself
    for p in found[:20]:
        cols, rows = real(p).astype(int).T
        assert p.point_labels.tolist() == [[1] * 5]
        assert (label[rows, cols] > 0).all()


def test_sam_lora_draws_points_with_replacement(rng):
    label = np.zeros((4, 4), np.uint8)
    label[1, 2] = 1
    assert real(make_prompts(label, [[1]], "sam_lora", rng)).tolist() == [[2, 1]] * 5


def test_medsam_moves_sides_0_to_20_pixels_of_1024(label):
    found = many(label, "medsam", 600, regions=((2,),))
    outward = np.stack([p.boxes[0] - (80, 20, 88, 28) for p in found]) * (-1, -1, 1, 1)
    steps = outward * 1024 / 120
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    for side in steps.T:
        assert set(side.round().tolist()) == set(range(21))


def test_boxes_are_clipped_to_the_image():
    label = np.zeros((20, 30), np.uint8)
    label[0:19, 1:30] = 1
    scheme = PromptScheme(box="tight", jitter_px=(5, 9))
    for prompts in many(label, scheme, 20):
        assert prompts.boxes.tolist() == [[0, 0, 30, 20]]


def test_finetune_sam_boxes_are_of_the_three_largest_parts_up_to_a_tenth_larger(label):
    found = many(label, "finetune_sam_box")
    tight = np.array([[10, 10, 40, 50], [10, 60, 30, 80], [60, 60, 70, 70]], float)
    sides = np.array([[30, 40, 30, 40], [20] * 4, [10] * 4])
    share = np.stack([(p.boxes - tight) * (-1, -1, 1, 1) / sides for p in found])
    assert share.min() >= -1e-5
    assert share.max() <= 0.1 + 1e-5
    assert (share.reshape(-1, 12).min(0) < 0.01).all()
    assert (share.reshape(-1, 12).max(0) > 0.09).all()
    np.testing.assert_allclose(share.mean((0, 1)), 0.05, atol=0.004)  # uniform
    assert found[0].targets.sum((1, 2)).tolist() == [1200, 400, 100]
    (few,) = many(label, "finetune_sam_box", 1, regions=((2,),))
    assert np.isfinite(few.boxes).all(1).tolist() == [True, False, False]


def test_finetune_sam_points_lie_deep_in_the_three_largest_parts(label):
    for prompts in many(label, "finetune_sam_point", 40):
        assert prompts.point_labels.tolist() == [[1] * 5 + [-1] * 3]
        assert np.isnan(prompts.boxes).all()
        x, y = real(prompts).T
        # 2, 2 and 1. A tenth of 40 x 30 is 120 pixels: 16 x 6 = 96 lie 13 deep, 18 x 8 = 144 lie 12
        # deep; of 20 x 20 and 10 x 10 it is 8 x 8 and 4 x 4
        assert ((x[:2] >= 21) & (x[:2] <= 28) & (y[:2] >= 21) & (y[:2] <= 38)).all()
        assert ((x[2:4] >= 16) & (x[2:4] <= 23) & (y[2:4] >= 66) & (y[2:4] <= 73)).all()
        assert ((x[4:] >= 63) & (x[4:] <= 66) & (y[4:] >= 63) & (y[4:] <= 66)).all()
        assert prompts.targets.sum() == 1200 + 400 + 100


def test_finetune_sam_hybrid_gives_each_part_its_box_and_its_points(label, rng):
    prompts = make_prompts(label, [[1]], "finetune_sam_hybrid", rng)
    assert (prompts.point_labels >= 0).sum(1).tolist() == [2, 2, 1]
    assert prompts.points.shape == (3, 8, 2)
    for i in range(3):
        x0, y0, x1, y1 = prompts.boxes[i]
        for x, y in real(prompts, i):
            assert prompts.targets[i][int(y), int(x)]
            assert x0 <= x < x1
            assert y0 <= y < y1


def test_centre_point_of_each_class(label, rng):
    prompts = make_prompts(label, [[1], [2]], "centre_point", rng)
    assert prompts.point_labels.tolist() == [[1], [1]]
    x, y = prompts.points[0, 0]
    assert (x, y) in ((24, 29), (25, 29), (24, 30), (25, 30))  # the middle of 40 x 30 pixels
    assert label[int(prompts.points[1, 0, 1]), int(prompts.points[1, 0, 0])] == 2


def test_background_points_lie_outside_and_have_label_zero(label, rng):
    scheme = PromptScheme(num_points=2, num_background=3, pad_points=7)
    prompts = make_prompts(label, [[1]], scheme, rng)
    assert prompts.point_labels.tolist() == [[1, 1, 0, 0, 0, -1, -1]]
    cols, rows = prompts.points[0, 2:5].astype(int).T
    assert (label[rows, cols] != 1).all()
    full = make_prompts(np.ones((4, 4)), [[1]], scheme, rng)  # no background
    assert full.point_labels.tolist() == [[1, 1, -1, -1, -1, -1, -1]]


def test_all_parts_are_as_many_prompts(label, rng):
    scheme = PromptScheme(box="tight", regions="all", one_per="region")
    prompts = make_prompts(label, [[1], [7], [2]], scheme, rng)
    assert prompts.owners.tolist() == [0, 0, 0, 0, 1, 2]
    assert prompts.boxes[3].tolist() == [100, 90, 102, 92]
    assert np.isnan(prompts.boxes[4]).all()


def test_which_schemes_are_an_oracles():
    blind = {name for name, scheme in PRESETS.items() if not scheme.uses_label}
    assert blind == {"no_prompt", "full_box"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": "loose"}, "box must be one of none, tight, full, got 'loose'"),
        ({"jitter_px": (4, 2)}, r"jitter_px must be \(least, most\) .*got \(4, 2\)"),
        ({"jitter_percent": (-1, 2)}, "jitter_percent must be"),
        ({"num_points": 5, "pad_points": 3}, "pad_points 3 is less than the 5 points"),
        ({"inner_fraction": 0}, r"inner_fraction must be in \(0, 1\], got 0"),
        ({"num_points": -1}, "at least 0"),
    ],
)
def test_wrong_schemes(options, message):
    with pytest.raises(ValueError, match=message):
        PromptScheme(**options)


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match="unknown prompt scheme 'boxes', expected one of: no_prom"):
        scheme_of("boxes")

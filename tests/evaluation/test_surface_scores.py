"""Surface metrics against surface-distance, MONAI and marching cubes; paths against each other."""

import itertools
import math

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics import compute_surface_dice as monai_surface_dice
from skimage.measure import marching_cubes, mesh_surface_area
from surface_distance.lookup_tables import (
    create_table_neighbour_code_to_contour_length,
    create_table_neighbour_code_to_surface_area,
)

from samtune.evaluation import nearest_surface
from samtune.evaluation.metrics import score_masks
from samtune.evaluation.surface_area import area_table
from samtune.evaluation.surface_scores import HD_PERCENT, surface_scores

STEPS = [0.5, 1.0, 1.25, 3.0]  # sums of their squares are exact, so ties are ties everywhere
TOLERANCES = (0.0, 0.5, 1.0, 2.5)
old_scipy_names = pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance")


def deepmind(pred, ref, spacing):
    """NSD by tolerance, HD95 and ASSD by google-deepmind/surface-distance."""
    found = surface_distance.compute_surface_distances(ref, pred, spacing)
    nsd = {t: surface_distance.compute_surface_dice_at_tolerance(found, t) for t in TOLERANCES}
    means = surface_distance.compute_average_surface_distance(found)
    areas = [found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()]
    assd = np.average(means, weights=areas)
    return nsd, surface_distance.compute_robust_hausdorff(found, HD_PERCENT), assd


def random_pair(seed, shape, noise):
    """Two masks with voxels: noise all over, or a blob and the same blob disturbed."""
    generator = np.random.default_rng(seed)
    if noise:
        ref, pred = generator.random((2, *shape)) < generator.uniform(
            0.02, 0.6, (2, *[1] * len(shape))
        )
    else:
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        ref = sum((axis - generator.uniform(-0.5, 0.5)) ** 2 for axis in axes) < 0.5
        pred = np.roll(ref, generator.integers(-1, 2), 0) ^ (generator.random(shape) < 0.03)
    ref.flat[generator.integers(ref.size)] = True
    pred.flat[generator.integers(ref.size)] = True
    return pred, ref


shapes = st.one_of(
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.lists(st.integers(2, 14), min_size=2, max_size=2),
)


@old_scipy_names
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=shapes,
    steps=st.tuples(*[st.sampled_from(STEPS)] * 3),
    noise=st.booleans(),
)
def test_equal_to_surface_distance(seed, shape, steps, noise):
    pred, ref = random_pair(seed, shape, noise)
    spacing = steps[: len(shape)]
    nsd, hd95, assd = deepmind(pred, ref, spacing)
    scores = surface_scores(pred, ref, spacing, TOLERANCES)
    assert scores.nsd == pytest.approx(nsd, abs=1e-9)
    assert scores.hd95 == pytest.approx(hd95, abs=1e-9)
    assert scores.assd == pytest.approx(assd, abs=1e-9)
    stopped = surface_scores(pred, ref, spacing, TOLERANCES, assd=False)
    assert stopped.nsd == pytest.approx(nsd, abs=1e-9)
    assert stopped.hd95 == pytest.approx(hd95, abs=1e-9)
    assert math.isnan(stopped.assd)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.one_of(
        st.lists(st.integers(2, 9), min_size=3, max_size=3),
        st.lists(st.integers(2, 14), min_size=2, max_size=2),
    ),
    steps=st.tuples(*[st.sampled_from(STEPS)] * 3),
    noise=st.booleans(),
)
def test_monai_definition_equals_monai(seed, shape, steps, noise):
    pred, ref = random_pair(seed, shape, noise)
    spacing = steps[: len(shape)]
    scores = surface_scores(pred, ref, spacing, TOLERANCES, definition="monai")
    pair = torch.from_numpy(pred)[None, None], torch.from_numpy(ref)[None, None]
    options = {"include_background": True, "spacing": spacing}
    for tolerance in TOLERANCES:
        expected = monai_surface_dice(*pair, [tolerance], **options)
        assert scores.nsd[tolerance] == pytest.approx(float(expected), abs=1e-6)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
    assert scores.hd95 == pytest.approx(float(hd95), rel=1e-6)  # MONAI's numbers are float32
    assd = compute_average_surface_distance(*pair, symmetric=True, **options)
    assert scores.assd == pytest.approx(float(assd), rel=1e-6)


@old_scipy_names
@pytest.mark.parametrize("shift", [(0, 30, 0), (25, 25, 25)])
def test_masks_that_do_not_meet(shift):
    ref = np.zeros((40, 60, 40), dtype=bool)
    ref[2:8, 3:9, 1:5] = True
    pred = np.roll(ref, shift, axis=(0, 1, 2))
    spacing = (1.25, 0.5, 3.0)
    nsd, hd95, assd = deepmind(pred, ref, spacing)
    scores = surface_scores(pred, ref, spacing, TOLERANCES)
    assert scores.nsd == nsd == dict.fromkeys(TOLERANCES, 0.0)
    assert scores.hd95 == pytest.approx(hd95, abs=1e-9)
    assert scores.assd == pytest.approx(assd, abs=1e-9)


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.25, 3.0), (0.7, 0.7, 5.0), (0.3, 0.9), (1.0, 1.0, 1.0)]
)
def test_tree_and_neighbours_find_the_same_distances(monkeypatch, spacing):
    pred, ref = random_pair(3, (12, 15, 8)[: len(spacing)], noise=False)
    pred[0] = False
    by_neighbours = surface_scores(pred, ref, spacing, TOLERANCES)
    near = nearest_surface.neighbours(spacing)
    none = nearest_surface.Neighbours(near.steps[:0], near.lengths[:0], near.ends[:0], near.reach)
    monkeypatch.setattr(nearest_surface, "neighbours", lambda _: none)
    by_tree = surface_scores(pred, ref, spacing, TOLERANCES)
    assert by_tree.nsd == pytest.approx(by_neighbours.nsd, abs=1e-12)
    assert by_tree.hd95 == pytest.approx(by_neighbours.hd95, abs=1e-12)
    assert by_tree.assd == pytest.approx(by_neighbours.assd, abs=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
def test_area_table_is_that_of_surface_distance(spacing):
    expected = create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(area_table(spacing), expected, atol=1e-12)
    expected = create_table_neighbour_code_to_contour_length(spacing[1:])
    np.testing.assert_allclose(area_table(spacing[1:]), expected, atol=1e-12)


def test_area_table_is_that_of_marching_cubes():
    spacing = (0.5, 1.0, 2.0)
    for code in range(1, 255):
        if code.bit_count() > 4:
            code = 255 - code
        bits = np.array([int(bit) for bit in f"{code:08b}"], dtype=float).reshape(2, 2, 2)
        mesh = marching_cubes(bits, 0.5, spacing=spacing, method="lorensen")[:2]
        assert area_table(spacing)[code] == pytest.approx(mesh_surface_area(*mesh), abs=1e-5)


@old_scipy_names
@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 1.0), (0.4, 0.8, 5.0), (0.01, 2.0, 2.0), (0.05, 4.0)]
)
def test_neighbours_are_all_that_are_near(spacing):
    near = nearest_surface.neighbours(spacing)
    assert list(near.lengths) == sorted(near.lengths)
    span = [int(near.lengths[-1] / step) + 1 for step in spacing]
    steps = np.array(list(itertools.product(*(range(-s, s + 1) for s in span))))
    lengths = np.linalg.norm(steps * spacing, axis=1)
    inside = {tuple(step) for step in steps[(lengths > 0) & (lengths < near.lengths[-1] - 1e-9)]}
    assert inside <= {tuple(step) for step in near.steps}
    assert np.abs(near.steps).max(axis=0).tolist() <= list(near.reach)


def test_average_distance_of_parallel_squares_by_hand():
    # Equal pixels 3 apart in a row: of either outline's 4 corners two are 3 away, two 2.
    ref, pred = np.zeros((2, 1, 9), dtype=bool)
    ref[0, 1] = pred[0, 4] = True
    scores = score_masks(pred, ref, spacing=(1, 1))
    assert scores.assd_mm == pytest.approx(2.5, abs=1e-12)
    # by voxels every distance is 3
    assert score_masks(pred, ref, spacing=(1, 1), definition="monai").assd_mm == 3


def test_without_spacing_lengths_are_in_pixels_and_there_is_no_volume():
    pred, ref = random_pair(1, (6, 7, 8), noise=False)
    scores, ones = (score_masks(pred, ref, spacing=s) for s in (None, (1, 1, 1)))
    assert (scores.nsd, scores.hd95_mm, scores.assd_mm) == (ones.nsd, ones.hd95_mm, ones.assd_mm)
    assert math.isnan(scores.volume_ref_ml)
    assert math.isnan(scores.volume_pred_ml)


def test_sensitivity_and_precision_by_hand():
    pred, ref = np.zeros((2, 4, 5), dtype=bool)
    ref[1, :4] = True
    pred[1, 3:] = True
    scores = score_masks(pred, ref, spacing=(1, 1))
    assert (scores.sensitivity, scores.precision) == (1 / 4, 1 / 2)
    for empty in ("pred", "ref"):
        masks = {"pred": pred, "ref": ref, empty: np.zeros_like(ref)}
        scores = score_masks(**masks, spacing=(1, 1), cldice=True)
        assert (scores.sensitivity, scores.precision, scores.cldice) == (0, 0, 0)
        assert scores.assd_mm == math.inf
    nothing = score_masks(np.zeros_like(ref), np.zeros_like(ref), spacing=(1, 1), cldice=True)
    values = (nothing.sensitivity, nothing.precision, nothing.cldice, nothing.assd_mm)
    assert all(math.isnan(value) for value in values)


@pytest.mark.parametrize("axes", [2, 3])
def test_cldice_of_lines_by_hand(axes):
    # One-voxel lines are their own centrelines: 6 of 8 voxels shared with one of 12.
    ref, pred = np.zeros((2, *(5, 5, 30)[-axes:]), dtype=bool)
    ref[(2,) * (axes - 1)][4:12] = True
    pred[(2,) * (axes - 1)][6:18] = True
    precision, sensitivity = 6 / 12, 6 / 8
    expected = 2 * precision * sensitivity / (precision + sensitivity)
    scores = score_masks(pred, ref, spacing=(1,) * axes, cldice=True)
    assert scores.cldice == pytest.approx(expected, abs=1e-12)
    assert score_masks(pred, ref, spacing=(1,) * axes).cldice is None


def test_cldice_forgives_thickness_and_not_a_gap():
    ref = np.zeros((11, 40), dtype=bool)
    ref[5, 2:38] = True
    thick, broken = np.zeros_like(ref), ref.copy()
    thick[4:7, 2:38] = True
    broken[5, 15:25] = False
    scores = {
        n: score_masks(m, ref, spacing=(1, 1), cldice=True)
        for n, m in (("thick", thick), ("broken", broken))
    }
    assert (
        scores["thick"].cldice > 0.98 > 0.9 > scores["broken"].cldice
    )  # ends stick out by a pixel
    assert scores["thick"].dice < scores["broken"].dice


def test_unknown_definition_is_refused():
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(
        ValueError, match="definition 'medpy', expected one of surface-distance, mo"
    ):
        score_masks(mask, mask, spacing=(1, 1), definition="medpy")


@old_scipy_names
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    steps=st.tuples(*[st.sampled_from(STEPS)] * 3),
    gap=st.integers(0, 30),
    axes=st.sampled_from([2, 3]),
)
def test_stopped_search_of_far_masks_is_exact(seed, steps, gap, axes):
    pred, ref = random_pair(seed, (9,) * axes, noise=seed % 2 == 0)
    pad = [(0, 0)] * (axes - 1)
    pred = np.pad(pred, [(gap + 9, 0), *pad])
    ref = np.pad(ref, [(0, gap + 9), *pad])
    spacing = steps[:axes]
    tolerances = (1.0, 40.0)  # beyond the neighbours that are tried one by one
    found = surface_distance.compute_surface_distances(ref, pred, spacing)
    scores = surface_scores(pred, ref, spacing, tolerances, assd=False)
    for tolerance in tolerances:
        nsd = surface_distance.compute_surface_dice_at_tolerance(found, tolerance)
        assert scores.nsd[tolerance] == pytest.approx(nsd, abs=1e-9)
    hd95 = surface_distance.compute_robust_hausdorff(found, HD_PERCENT)
    assert scores.hd95 == pytest.approx(hd95, abs=1e-9)


@old_scipy_names
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    steps=st.tuples(*[st.sampled_from(STEPS)] * 3),
    axes=st.sampled_from([2, 3]),
)
def test_few_far_points_are_exact(seed, steps, axes):
    generator = np.random.default_rng(seed)
    shape, spacing = (48, 40, 44)[:axes] if axes == 3 else (160, 150), steps[:axes]
    ref = np.zeros(shape, dtype=bool)
    ref[tuple(slice(2, size // 2) for size in shape)] = True
    pred = ref.copy()
    for _ in range(int(generator.integers(1, 4))):  # far islands of a voxel
        pred[tuple(generator.integers(size * 2 // 3, size) for size in shape)] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_surface, "FEW", 1)  # any number counts as few
        scores = surface_scores(pred, ref, spacing, TOLERANCES)
    nsd, hd95, assd = deepmind(pred, ref, spacing)
    assert scores.nsd == pytest.approx(nsd, abs=1e-9)
    assert scores.hd95 == pytest.approx(hd95, abs=1e-9)
    assert scores.assd == pytest.approx(assd, abs=1e-9)


@old_scipy_names
def test_a_spike_on_a_plate_needs_the_plate_around_it_alone(monkeypatch):
    ref = np.zeros((90, 90, 40), dtype=bool)
    ref[2:88, 2:88, 2:6] = True
    pred = ref.copy()
    pred[30, 20, 2:20] = True
    sizes = []
    original = nearest_surface._by_tree

    def by_tree(point, goal, grid, spacing):
        sizes.append(len(goal))
        return original(point, goal, grid, spacing)

    monkeypatch.setattr(nearest_surface, "_by_tree", by_tree)
    spacing = (1.0, 1.25, 1.0)
    scores = surface_scores(pred, ref, spacing, TOLERANCES)
    nsd, hd95, assd = deepmind(pred, ref, spacing)
    assert (scores.nsd, scores.hd95) == (pytest.approx(nsd, abs=1e-9), hd95)
    assert scores.assd == pytest.approx(assd, abs=1e-12)
    assert 0 < max(sizes) < 0.3 * 2 * 86 * 86  # of the corners of both faces

"""Outlines and slices of the report: exactly the masks, within the bytes there are."""

import io
import json
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from samtune.evaluation.report import CaseVolume
from samtune.evaluation.report.outlines import mask_loops, svg_path
from samtune.evaluation.report.pictures import case_pictures


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies within the path, even-odd: counts crossings to the left."""
    edges = []
    for part in path.split("z")[:-1]:
        x, y = map(int, re.match(r"M(\d+) (\d+)", part).groups())
        start = (x, y)
        for axis, step in re.findall(r"([hv])(-?\d+)", part):
            before = (x, y)
            x, y = (x + int(step), y) if axis == "h" else (x, y + int(step))
            edges.append((before, (x, y)))
        edges.append(((x, y), start))
    inside = np.zeros(shape, bool)
    for (x1, y1), (x2, y2) in edges:
        assert x1 == x2 or y1 == y2
        inside[min(y1, y2) : max(y1, y2), x1:] ^= x1 == x2
    return inside


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((2, 3, 4), np.int16), None, "image is int16"),
        (np.zeros((3, 4), np.uint8), None, "expected uint8 n h w"),
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8), "reference has shape"),
    ],
)
def test_wrong_arrays_are_refused(image, label, message: str):
    with pytest.raises(ValueError, match=message):
        CaseVolume(image, label, None)


@pytest.mark.parametrize("seed", range(5))
def test_outline_encloses_exactly_the_mask(seed: int):
    mask = np.random.default_rng(seed).random((9, 13)) < 0.5
    assert (filled(svg_path(mask_loops(mask)), mask.shape) == mask).all()


def test_outline_of_a_rectangle_a_hole_and_a_touching_corner():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    assert svg_path(mask_loops(mask)) == "M2 1h3v2h-3z"
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert len(mask_loops(ring)) == 2
    assert len(mask_loops(np.eye(2, dtype=bool))) == 2
    assert mask_loops(np.zeros((2, 2), bool)) == []


def test_pictures_hold_the_slices_with_something_in_them(volume):
    wide = volume(20)
    shown = case_pictures(wide, {"r0": [1], "r1": [2], "r2": [1, 2]}, budget=10**6)
    assert shown["slices"] == [0, 1, 2, 3, 4, 5]
    assert shown["total"] == 20
    assert shown["start"] == {"r0": 2, "r1": 3, "r2": 2}
    assert shown["ratio"] == pytest.approx(20 * 2 / (12 * 1), abs=1e-4)
    for index, uri in zip(shown["slices"], shown["images"], strict=True):
        picture = Image.open(io.BytesIO(b64decode(uri.partition(",")[2])))
        assert (np.asarray(picture) == wide.image[index]).all()
    outline = shown["outlines"]["r2"]
    for position, index in enumerate(shown["slices"]):
        assert (filled(outline["ref"][position], (12, 20)) == (wide.reference[index] > 0)).all()
        assert (filled(outline["pred"][position], (12, 20)) == (wide.prediction[index] > 0)).all()


def test_pictures_without_prediction_or_label(volume):
    shown = case_pictures(volume(prediction=False), {"r0": [1]}, budget=10**6)
    assert shown["outlines"]["r0"]["pred"] is None
    bare = CaseVolume(volume().image, None, None)
    assert case_pictures(bare, {"r0": [1]}, budget=10**6)["slices"] == [2]


def test_budget_is_kept_and_the_fullest_slice_too():
    label = np.zeros((40, 64, 64), np.uint8)
    label[:, 10:30, 10:30] = 1
    label[23, 5:50, 5:50] = 1
    image = np.random.default_rng(0).integers(0, 255, label.shape, np.uint8)
    big = CaseVolume(image, label, label)
    for budget in (300_000, 60_000, 15_000, 4_000):
        shown = case_pictures(big, {"r0": [1]}, budget=budget)
        assert len(json.dumps(shown)) < budget * 1.1 + 500
        assert shown["slices"][shown["start"]["r0"]] == 23
        reduced = len(shown["slices"]) < 40 or "image/jpeg" in shown["images"][0]
        assert reduced == bool(shown["note"])
        steps = set(np.diff(shown["slices"]).tolist())
        assert len(steps) <= 1
        assert all(step == 1 or f"one slice of {step}" in shown["note"] for step in steps)
    assert len(case_pictures(big, {"r0": [1]}, budget=10)["slices"]) == 1

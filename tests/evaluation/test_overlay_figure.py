"""The grid of slices as vector graphics."""

import re

import numpy as np
import pytest

from samtune.evaluation.overlay_figure import draw_overlay_figure

pytest.importorskip("matplotlib")


def rows():
    grey = np.full((20, 30), 128, np.uint8)
    label = np.zeros((20, 30), np.uint8)
    label[5:10, 5:15] = 1
    label[12:14, 3:6] = 3
    return [
        ("worst: a", grey, [("image", None), ("reference", label), ("LoRA $x$", label * 0)]),
        ("best: b", grey, [("image", None), ("reference", label)]),
    ]


def test_outlines_are_lines_and_text_is_text(tmp_path):
    files = draw_overlay_figure(rows(), tmp_path / "f", "grid", classes={1: "front"})
    assert files == [tmp_path / "f/grid.svg", tmp_path / "f/grid.pdf"]
    svg = files[0].read_text()
    for text in ("worst: a", "reference", "LoRA $x$", "front", "class 3"):
        assert f">{text}<" in svg
    # two classes in two tiles, and one line each in the legend; none where nothing is labelled
    for colour in ("#e69f00", "#009e73"):
        assert len(re.findall(f"stroke: {colour}", svg)) == 3
    assert svg.count("<image") == 5


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        draw_overlay_figure(rows(), tmp_path / name, "grid", formats=("svg", "pdf", "png"))
    for suffix in ("svg", "pdf", "png"):
        first, second = ((tmp_path / n / f"grid.{suffix}").read_bytes() for n in "ab")
        assert first == second


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        draw_overlay_figure([], tmp_path, "grid")

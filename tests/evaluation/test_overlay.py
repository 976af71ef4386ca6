"""Overlay pictures: size, orientation, outlines and colours of single pixels."""

import numpy as np
import pytest
from PIL import Image

from samtune.evaluation.overlay import COLOURS, class_colour, draw_tile, overlay_grid


def grey_slice(height=40, width=60):
    return np.full((height, width), 100, dtype=np.uint8)


def two_classes():
    label = np.zeros((40, 60), dtype=np.uint8)
    label[10:30, 10:30], label[10:30, 30:50] = 1, 2
    return label


def pixels(image):
    return np.asarray(image)


def where(image, colour):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((pixels(image) == colour).all(axis=-1))


def test_a_tile_is_enlarged_by_a_whole_factor_and_stays_upright():
    grey = grey_slice()
    grey[:5, :5] = 255  # top left
    tile = draw_tile(grey, None)
    assert tile.size == (240, 160)
    assert pixels(tile)[2, 2, 0] == 255
    assert pixels(tile)[-3, 2, 0] == pixels(tile)[2, -3, 0] == 100
    assert draw_tile(grey_slice(300, 200), None).size == (200, 300)
    assert draw_tile(grey_slice(2, 100), None).size == (600, 12)


def test_outlines_lie_inside_each_class_and_leave_its_inside_free():
    tile = draw_tile(grey_slice(), two_classes())
    rows, columns = where(tile, class_colour(1))
    assert (rows.min(), rows.max()) == (40, 119)
    assert (columns.min(), columns.max()) == (40, 119)
    rows, columns = where(tile, class_colour(2))
    assert (columns.min(), columns.max()) == (120, 199)
    assert (pixels(tile)[80, 80] == 100).all()
    assert (pixels(tile)[80, 42] == 100).all()  # the outline is two pixels wide


def test_a_class_that_fills_the_slice_has_no_outline_at_the_frame():
    tile = draw_tile(grey_slice(), np.ones((40, 60), dtype=np.int64))
    assert where(tile, class_colour(1))[0].size == 0


def test_a_class_has_one_colour_whatever_else_is_there():
    label = two_classes()
    alone = np.where(label == 2, label, 0)
    assert where(draw_tile(grey_slice(), alone), class_colour(2))[0].size > 0
    assert len(set(COLOURS)) == len(COLOURS) == 7
    assert class_colour(8) == class_colour(1)


def test_grid_holds_every_tile_title_and_legend(tmp_path):
    label = two_classes()
    rows = [
        ("case_1 slice 5", grey_slice(), [("image", None), ("reference", label), ("A", label)]),
        ("case_2 slice 9", grey_slice(80, 50), [("image", None), ("reference", None)]),
    ]
    out = overlay_grid(rows, tmp_path / "figures" / "overlay.png", classes={1: "front", 2: "back"})
    with Image.open(out) as image:
        image.load()
    assert image.mode == "RGB"
    assert image.width == 4 * 8 + 3 * 240
    assert image.height == 8 + (40 + 160 + 8) + (40 + 320 + 8) + 20 + 8
    legend = image.crop((0, image.height - 28, image.width, image.height))
    assert where(legend, class_colour(1))[0].size == where(legend, class_colour(2))[0].size == 169
    assert [path.name for path in out.parent.iterdir()] == ["overlay.png"]


def test_same_input_gives_the_same_bytes(tmp_path):
    rows = [("a", grey_slice(), [("reference", two_classes())])]
    first, second = (overlay_grid(rows, tmp_path / name) for name in ("1.png", "2.png"))
    assert first.read_bytes() == second.read_bytes()


def test_long_names_neither_widen_the_picture_nor_run_out_of_it(tmp_path):
    rows = [("row " * 99, grey_slice(), [("column " * 99, two_classes())])]
    classes = {value: "a class with a rather long name " * value for value in range(1, 8)}
    with Image.open(overlay_grid(rows, tmp_path / "a.png", classes=classes)) as image:
        assert image.width == 8 + 240 + 8
        right = pixels(image)[:, -8:]
    assert (right == right[0, 0]).all()


def test_a_title_wider_than_its_tile_takes_a_second_line(tmp_path):
    def height(title):
        rows = [("a", grey_slice(), [("image", None), (title, None)])]
        with Image.open(overlay_grid(rows, tmp_path / "a.png")) as image:
            return image.height

    assert height("untouched with the oracle box, Dice 0.81") == height("untouched") + 20
    assert height("many words " * 50) == height("untouched") + 20
    assert height("oneword" * 50) == height("") == height("untouched")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], "no rows"),
        ([("a", grey_slice(), [])], "row 'a': no columns"),
        ([("a", grey_slice().astype(float), [("b", None)])], "float64.*expected uint8"),
        ([("a", grey_slice(), [("b", two_classes()[1:])])], r"column 'b'.*\(39, 60\)"),
        ([("a", grey_slice(), [("b", two_classes() * 0.5)])], "float64"),
    ],
)
def test_wrong_rows_are_refused(rows, found, tmp_path):
    with pytest.raises(ValueError, match=found):
        overlay_grid(rows, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        overlay_grid([("a", grey_slice(), [("b", None)])], tmp_path / "a.jpg")

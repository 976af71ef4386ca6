"""A grid of grey slices with class outlines: image, reference and predictions side by side."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from samtune.atomic import write_atomically

GreySlice: TypeAlias = npt.NDArray[np.uint8]
LabelSlice: TypeAlias = npt.NDArray[np.integer[Any]]
OverlayRow: TypeAlias = tuple[str, GreySlice, Sequence[tuple[str, LabelSlice | None]]]
Colour: TypeAlias = tuple[int, int, int]

# Okabe and Ito's palette without black, in an order that is far apart on grey; class n always has
# colour n, whatever else the slice holds.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
BACKGROUND, TEXT = (24, 24, 24), (235, 235, 235)
GAP, FONT_SIZE, LINE = 8, 14, 20
MAX_ENLARGED = 640  # the long side of a thin slice stops growing here


def overlay_grid(
    rows: Sequence[OverlayRow],
    out: str | Path,
    *,
    classes: Mapping[int, str] | None = None,
    min_tile: int = 160,
) -> Path:
    """Draw the rows as a PNG, one tile a column, with a legend of the classes below.

    Args:
        rows: row title, grey slice ``H W`` uint8, and the columns: title and label slice ``H W``
            (integers, 0 is background), or None for the image alone. Drawn as they are, first
            array axis downwards.
        out: file to write, ending in ``.png``.
        classes: class value -> name for the legend; None lists the values that are drawn.
        min_tile: tiles are enlarged by a whole factor until the short side has this many pixels.

    Returns:
        ``out``.

    Raises:
        ValueError: no rows or columns, a slice that isn't 2D or of another type, a label slice of
            another shape, or ``out`` has another suffix.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: expected a file name that ends in .png")
    check_rows(rows)
    tiles = [
        [(title, draw_tile(grey, label, min_tile=min_tile)) for title, label in columns]
        for _, grey, columns in rows
    ]
    names = class_names(rows, classes)
    font = ImageFont.load_default(size=FONT_SIZE)
    lefts = _column_positions(tiles)
    width = lefts[-1]
    titles = [
        [_wrap(title, tile_right - left - GAP, font) for left, tile_right, (title, _) in columns]
        for columns in (zip(lefts, lefts[1:], row, strict=False) for row in tiles)
    ]
    heads = [LINE * (1 + max(map(len, row))) for row in titles]
    bodies = [max(tile.height for _, tile in row) + GAP for row in tiles]
    legend = _legend_lines(names, width - 2 * GAP, font)
    height = GAP + sum(heads) + sum(bodies) + len(legend) * LINE + GAP
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    top = GAP
    for index, (row_title, _, _) in enumerate(rows):
        draw.text((GAP, top), _fit(row_title, width - 2 * GAP, font), fill=TEXT, font=font)
        top += heads[index]
        for left, lines, (_, tile) in zip(lefts, titles[index], tiles[index], strict=False):
            for line, text in enumerate(lines):
                y = top + (line - len(lines)) * LINE
                draw.text((left, y), text, fill=TEXT, font=font)
            canvas.paste(tile, (left, top))
        top += bodies[index]
    _draw_legend(draw, legend, top, font)
    png = io.BytesIO()
    canvas.save(png, format="PNG")
    write_atomically(out, png.getvalue())
    return out


def class_names(rows: Sequence[OverlayRow], classes: Mapping[int, str] | None) -> dict[int, str]:
    """Class value to what the legend says: the names given, then the values that have none."""
    names = dict(classes) if classes else {}
    for value in _values(rows):
        names.setdefault(value, f"class {value}")
    return names


def class_colour(value: int) -> Colour:
    """Outline colour of a class, the same in every picture; repeats after seven classes."""
    return COLOURS[(value - 1) % len(COLOURS)]


def draw_tile(grey: GreySlice, label: LabelSlice | None, *, min_tile: int = 160) -> Image.Image:
    """One enlarged slice with class outlines, drawn inside each class's own border."""
    factor = _enlargement(grey.shape, min_tile)
    size = (grey.shape[1] * factor, grey.shape[0] * factor)  # Pillow counts width first
    image = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    if label is None:
        return image
    pixels = np.array(image)
    enlarged = label.repeat(factor, axis=0).repeat(factor, axis=1)
    for value in np.unique(enlarged[enlarged != 0]):
        outline = _outline(enlarged == value, thickness=2 if factor > 1 else 1)
        pixels[outline] = class_colour(int(value))
    return Image.fromarray(pixels)


def _outline(mask: npt.NDArray[np.bool_], thickness: int) -> npt.NDArray[np.bool_]:
    """Pixels of the mask within ``thickness`` steps of its outside; the frame counts as inside."""
    inner = mask
    for _ in range(thickness):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _enlargement(shape: tuple[int, ...], min_tile: int) -> int:
    wanted = math.ceil(min_tile / min(shape))
    return max(1, min(wanted, MAX_ENLARGED // max(shape)))


def check_rows(rows: Sequence[OverlayRow]) -> None:
    """Refuse rows that can't be drawn.

    Raises:
        ValueError: there is none, or slices are of other types or shapes.
    """
    if not rows:
        raise ValueError("overlay: no rows to draw")
    for title, grey, columns in rows:
        if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
            raise ValueError(
                f"overlay row '{title}': slice is {grey.dtype} {grey.shape}, expected uint8 H W"
            )
        if not columns:
            raise ValueError(f"overlay row '{title}': no columns to draw")
        for name, label in columns:
            if label is None:
                continue
            if label.shape != grey.shape or label.dtype.kind not in "bui":
                raise ValueError(
                    f"overlay row '{title}', column '{name}': label is {label.dtype} "
                    f"{label.shape}, expected integers {grey.shape}"
                )


def _values(rows: Sequence[OverlayRow]) -> list[int]:
    labels = [label for _, _, columns in rows for _, label in columns if label is not None]
    return sorted({int(value) for label in labels for value in np.unique(label)} - {0})


def _column_positions(tiles: Sequence[Sequence[tuple[str, Image.Image]]]) -> list[int]:
    """Left edge of each column, and of the one that would follow the last."""
    lefts = [GAP]
    for index in range(max(map(len, tiles))):
        lefts.append(lefts[-1] + GAP + max(r[index][1].width for r in tiles if index < len(r)))
    return lefts


def _fit(text: str, width: int, font: Any) -> str:
    """The text, shortened with dots where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..." if text else ""


def _wrap(text: str, width: int, font: Any) -> list[str]:
    """The text on one line, or broken between words into two of which the second is shortened."""
    first, *rest = text.split() or [""]
    while rest and font.getlength(f"{first} {rest[0]}") <= width:
        first = f"{first} {rest.pop(0)}"
    lines = [first, " ".join(rest)] if rest else [first]
    return [_fit(line, width, font) for line in lines]


def _legend_lines(
    names: Mapping[int, str], width: int, font: Any
) -> list[list[tuple[int, str, int]]]:
    """Legend entries (class, name, left edge), broken into lines of ``width`` pixels."""
    lines: list[list[tuple[int, str, int]]] = []
    left = 0
    for value, name in sorted(names.items()):
        text = _fit(name, width - LINE, font)
        needed = LINE + math.ceil(font.getlength(text)) + 2 * GAP
        if not lines or left + needed > width + 2 * GAP:
            lines.append([])
            left = 0
        lines[-1].append((value, text, left))
        left += needed
    return lines


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[Sequence[tuple[int, str, int]]],
    top: int,
    font: Any,
) -> None:
    for index, line in enumerate(lines):
        y = top + index * LINE
        for value, name, left in line:
            x = GAP + left
            draw.rectangle((x, y + 3, x + 12, y + 15), fill=class_colour(value))
            draw.text((x + LINE, y), name, fill=TEXT, font=font)

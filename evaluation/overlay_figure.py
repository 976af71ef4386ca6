"""The grid of :mod:`overlay` for a paper: outlines are lines and text is text, on white."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from samtune.evaluation.overlay import OverlayRow, check_rows, class_colour, class_names
from samtune.evaluation.plots import load_pyplot, save_figure
from samtune.evaluation.report.outlines import mask_loops

TILE = 1.9  # inches
TITLES, LEGEND = 0.4, 0.3  # inches above a row, below all


def draw_overlay_figure(
    rows: Sequence[OverlayRow],
    folder: str | Path,
    name: str,
    *,
    classes: Mapping[int, str] | None = None,
    formats: Sequence[str] = ("svg", "pdf"),
) -> list[Path]:
    """Draw the rows as vector graphics, one tile a column, with a legend of the classes below.

    Args:
        rows, classes: as :func:`samtune.evaluation.overlay.overlay_grid` takes them.
        folder: where to.
        name: of the files, without suffix.
        formats: of the files; equal input gives equal bytes.

    Returns:
        The files.

    Raises:
        ValueError: no rows or columns, or slices that don't fit.
        ImportError: matplotlib isn't installed.
    """
    check_rows(rows)
    plt = load_pyplot()
    names = class_names(rows, classes)
    num_columns = max(len(columns) for _, _, columns in rows)
    heights = [TITLES + TILE * grey.shape[0] / grey.shape[1] for _, grey, _ in rows]
    figure, axes = plt.subplots(
        len(rows),
        num_columns,
        figsize=(TILE * num_columns, sum(heights) + LEGEND),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for row_axes, (row_title, grey, columns) in zip(axes, rows, strict=True):
        for axis in row_axes:
            axis.set_axis_off()
        for number, (axis, (title, label)) in enumerate(zip(row_axes, columns, strict=False)):
            height, width = grey.shape
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
            shown = f"{row_title}\n{title}" if number == 0 else title
            axis.set_title(_plain(shown), fontsize=7, loc="left")
            for value in names if label is not None else ():
                for loop in mask_loops(np.asarray(label == value)):
                    x, y = zip(*loop, loop[0], strict=True)
                    axis.plot(x, y, color=_colour(value), linewidth=1)
    handles = [plt.Line2D([], [], color=_colour(value)) for value in names]
    if handles:
        texts = [_plain(text) for text in names.values()]
        figure.legend(handles, texts, loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    paths = save_figure(figure, Path(folder), name, formats=formats)
    plt.close(figure)
    return paths


def _colour(value: int) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in class_colour(value))


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")

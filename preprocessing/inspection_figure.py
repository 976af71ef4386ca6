"""Bars of cases, slices and pixels a class and split."""

import io
from pathlib import Path

from samtune.atomic import write_atomically
from samtune.preprocessing.inspection import NO_SPLIT, Inspection
from samtune.preprocessing.splits import SPLITS

PANELS = (("cases", "cases"), ("slices", "slices"), ("pixels", "voxels"))
COLORS = {"train": "#3b6ea5", "val": "#e0a030", "test": "#a03b5c", NO_SPLIT: "#808080"}
WIDTH_IN, HEIGHT_IN = 12.0, 4.0


def draw_inspection(found: Inspection, path: Path) -> None:
    """Draw the figure; its format is that of the name's suffix, ``.png`` or ``.svg``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: another suffix, or no labels were read.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: a figure is .png or .svg")
    values = found.label_values()
    if not values:
        raise ValueError(f"{path}: there is nothing to draw: no label value > 0 was read")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "--figure needs matplotlib: pip install 'samtune[plots]'", name="matplotlib"
        ) from error

    names = [f"{value} {found.listing.class_names.get(value, '')}".strip() for value in values]
    splits = [name for name in (*SPLITS, NO_SPLIT) if name in found.splits()]
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    for axes, (what, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        totals = found.totals(what)
        width = 0.8 / len(splits)
        for number, split in enumerate(splits):
            left = [index - 0.4 + (number + 0.5) * width for index in range(len(values))]
            heights = [totals.get(split, {}).get(value, 0) for value in values]
            label = "no split" if split == NO_SPLIT else split
            axes.bar(left, heights, width, label=label, color=COLORS[split])
        if what == "pixels":
            # classes differ by orders of magnitude; from 1, or a small difference would fill it
            axes.set_yscale("log")
            axes.set_ylim(1, 2 * max(max(counts.values()) for counts in totals.values()))
        axes.set_xticks(range(len(values)), names, rotation=30 if len(values) > 4 else 0)
        axes.set_title(f"{title} with the class" if what != "pixels" else f"{title} of the class")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle(f"{found.listing.folder.name}: labels of {found.values_of}")
    buffer = io.BytesIO()
    # no date in the file: equal data gives equal bytes
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    write_atomically(path, buffer.getvalue())

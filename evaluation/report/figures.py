"""The report's figures as files for a paper: PNG, SVG and PDF; needs matplotlib."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from samtune.atomic import whole_file
from samtune.evaluation.report.facts import CaseVolume, RunFacts
from samtune.evaluation.report.outlines import mask_loops
from samtune.evaluation.report.scores import (
    CaseScore,
    Metric,
    interval_of,
    pick_cases,
    plotted_metrics,
    region_names,
)

SUFFIXES = (".png", ".svg", ".pdf")
REFERENCE, PREDICTION = "#e69f00", "#56b4e9"  # Okabe and Ito: apart for colour-blind readers
POINT, MEAN = "#0072b2", "#d55e00"
DPI = 200


def write_figures(facts: RunFacts, folder: str | Path) -> list[Path]:
    """Write ``points_METRIC``, ``curve`` and ``cases_CLASSVALUES``, each as PNG, SVG and PDF.

    Equal facts give equal bytes with the same matplotlib. Of a run without metrics, curve or
    pictures the figures of these are left out.

    Args:
        facts: the run.
        folder: made when it is missing; files of the same names are replaced.

    Returns:
        The files.
    """
    folder = Path(folder)
    written: list[Path] = []
    for metric in plotted_metrics(facts.scores):
        figure = _points(facts.scores, metric, facts.patients)
        written += _save(figure, folder / f"points_{metric.column}")
    if facts.curve.get("epoch"):
        written += _save(_curve(facts), folder / "curve")
    if facts.load_case is not None:
        for name in region_names(facts.scores):
            drawn = _cases(facts, name)
            if drawn is not None:
                label = next(s.label for s in facts.scores if s.name == name)
                written += _save(drawn, folder / f"cases_{label}")
    return written


def _new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib as mpl

    files = []
    # neither dates nor random ids, and text that stays text in a PDF
    settings: Any = {"svg.hashsalt": "samtune", "pdf.fonttype": 42}
    with mpl.rc_context(settings):
        for suffix in SUFFIXES:
            file = stem.with_name(stem.name + suffix)
            metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
            with whole_file(file) as partial:
                figure.savefig(partial, format=suffix[1:], dpi=DPI, metadata=metadata)
            files.append(file)
    return files


def _points(scores: Sequence[CaseScore], metric: Metric, patients: Mapping[str, str]) -> Figure:
    names = region_names(scores)
    figure = _new(5.5, 0.8 + 0.7 * len(names))
    axes = figure.subplots()
    for row, name in enumerate(names):
        of_class = [s for s in scores if s.name == name]
        values = np.array([s.value(metric) for s in of_class])
        shown = np.sort(values[np.isfinite(values)])
        # a fixed pattern above and below the line keeps equal values apart
        offsets = 0.08 * (np.arange(len(shown)) % 5 - 2)
        axes.plot(shown, row + offsets, "o", color=POINT, alpha=0.6, markersize=4, linewidth=0)
        interval = interval_of(of_class, metric, patients)
        if math.isfinite(interval.low):
            axes.plot([interval.low, interval.high], [row, row], color=MEAN, linewidth=2.5)
            axes.plot([interval.mean], [row], "|", color=MEAN, markersize=14, markeredgewidth=2)
        note = [f"{np.isnan(values).sum()} undefined"] if np.isnan(values).any() else []
        note += [f"{np.isinf(values).sum()} infinite"] if np.isinf(values).any() else []
        if note:
            place = axes.get_yaxis_transform()  # across: share of the axis
            axes.text(1.0, row + 0.35, ", ".join(note), transform=place, ha="right", size=8)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set_xlabel(f"{metric.title}{unit}")
    if metric.is_distance:
        axes.set_xlim(left=0)
    else:
        axes.set_xlim(0, 1)
    return figure


def _curve(facts: RunFacts) -> Figure:
    epochs = facts.curve["epoch"]
    figure = _new(7.5, 2.8)
    left, right = figure.subplots(1, 2)
    if "train_loss" in facts.curve:
        left.plot(epochs, facts.curve["train_loss"], marker=".", color=POINT)
    left.set(xlabel="epoch", ylabel="training loss")
    styles = ("-", "--", ":", "-.")
    dice = [key for key in facts.curve if key.startswith("val_dice")]
    for number, key in enumerate(dice):
        name = key.removeprefix("val_dice").lstrip("_") or "mean"
        style = styles[number % len(styles)]
        right.plot(epochs, facts.curve[key], style, marker=".", label=_plain(name))
    right.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    if dice:
        right.legend(loc="lower right", fontsize=8)
    return figure


def _cases(facts: RunFacts, name: str) -> Figure | None:
    """The worst and best cases, each in the slice where the class is largest."""
    worst, best = pick_cases(facts.scores, name)
    picked = [(score, "worst") for score in worst] + [(score, "best") for score in best]
    tiles = []
    for score, which in picked:
        assert facts.load_case is not None
        try:
            tiles.append((score, which, facts.load_case(score.case)))
        except (ValueError, OSError):
            continue  # the page says why
    if not tiles:
        return None
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = _new(2.0 * columns, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (score, which, volume) in zip(grid, tiles, strict=False):
        _tile(axes, volume, score.class_values)
        title = f"{_plain(score.case)}\n{which}, Dice {score.values['dice']:.3f}"
        axes.set_title(title, fontsize=7)
    for axes in grid:
        axes.set_axis_off()
    figure.suptitle(f"{_plain(name)}: reference solid, prediction dashed", fontsize=9)
    return figure


def _tile(axes: Axes, volume: CaseVolume, values: Sequence[int]) -> None:
    label = volume.reference if volume.reference is not None else volume.prediction
    areas = np.zeros(len(volume.image)) if label is None else np.isin(label, values).sum((1, 2))
    index = int(areas.argmax()) if areas.any() else len(areas) // 2
    height, width = volume.image.shape[1:3]
    axes.imshow(
        volume.image[index],
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(0, width, height, 0),
        aspect=volume.pixel_mm[0] / volume.pixel_mm[1],
    )
    for mask, colour, style in (
        (volume.reference, REFERENCE, "-"),
        (volume.prediction, PREDICTION, "--"),
    ):
        if mask is not None:
            for loop in mask_loops(np.isin(mask[index], values)):
                x, y = zip(*loop, loop[0], strict=True)
                axes.plot(x, y, style, color=colour, linewidth=1)
    axes.set_axis_off()


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")

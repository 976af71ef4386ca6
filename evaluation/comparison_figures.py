"""Figures of a comparison: bars with intervals, and every case as a dot."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samtune.evaluation.comparison import Comparison
from samtune.evaluation.comparison_files import shown_name
from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.performance import Performance
from samtune.evaluation.plots import (
    load_pyplot,
    method_colour,
    method_hatch,
    method_marker,
    save_figure,
)
from samtune.evaluation.score_table import ClassKey, ScoreTable

MAX_CASE_NAMES = 40  # more cases go without names
MAX_GROUPED = 5  # more methods get a panel a class and lying bars
_WHISKERS = {"color": "black", "capsize": 2.5, "linewidth": 1}


def draw_comparison(comparison: Comparison, out: str | Path) -> list[Path]:
    """Draw ``performance`` (bars) and ``cases`` (dots), each as PNG, SVG and PDF.

    Args:
        comparison: what to draw.
        out: folder.

    Returns:
        The files.

    Raises:
        ImportError: matplotlib isn't installed.
    """
    out = Path(out)
    return [*draw_bars(comparison, out), *draw_cases(comparison, out)]


def draw_bars(comparison: Comparison, out: Path) -> list[Path]:
    """Mean of each method a class, with value and 95 % interval; metrics in [0, 1].

    A row of panels a metric. Up to five methods stand side by side within a class, more lie below
    each other in a panel a class.
    """
    plt = load_pyplot()
    metrics = _bounded(comparison)
    if not metrics:
        return []
    draw = _draw_grouped if len(comparison.tables) <= MAX_GROUPED else _draw_lying
    figure = draw(plt, comparison, metrics)
    unit = "cases" if comparison.patients is None else "patients"
    figure.suptitle(
        f"mean and 95 % bootstrap interval over {unit}, n = {len(comparison.cases)} cases",
        fontsize="medium",
    )
    paths = save_figure(figure, out, "performance")
    plt.close(figure)
    return paths


def _draw_grouped(plt: Any, comparison: Comparison, metrics: Sequence[str]) -> Any:
    methods, labels = comparison.performance, _bar_labels(comparison)
    figure, axes = plt.subplots(
        len(metrics),
        1,
        figsize=(max(4.5, 1.6 + 0.62 * len(labels) * len(methods)), 0.9 + 2.9 * len(metrics)),
        layout="constrained",
        squeeze=False,
    )
    width = 0.8 / len(methods)
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        for index, method in enumerate(methods):
            values = _bar_values(method, metric, comparison.tables[0].classes)
            places = np.arange(len(values)) - 0.4 + width * (index + 0.5)
            heights = [np.nan_to_num(mean) for mean, _, _ in values]
            axis.bar(places, heights, width * 0.94, label=_full_name(method), **_style(index))
            for place, (mean, low, high) in zip(places, values, strict=True):
                ends, top = _whisker(mean, low, high)
                axis.errorbar([place], [mean], yerr=ends, **_WHISKERS)
                axis.text(place, top + 0.015, _text(mean), ha="center", va="bottom", fontsize=7)
        axis.set(ylabel=shown_name(metric), ylim=(0, 1.12), yticks=np.arange(0, 1.01, 0.2))
        axis.set_xticks(range(len(labels)), labels)
        axis.spines[["top", "right"]].set_visible(False)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


def _draw_lying(plt: Any, comparison: Comparison, metrics: Sequence[str]) -> Any:
    methods, labels = comparison.performance, _bar_labels(comparison)
    figure, axes = plt.subplots(
        len(metrics),
        len(labels),
        figsize=(1.5 + 2.6 * len(labels), (0.8 + 0.27 * len(methods)) * len(metrics) + 0.3),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for row, metric in zip(axes, metrics, strict=True):
        for index, method in enumerate(methods):
            found = _bar_values(method, metric, comparison.tables[0].classes)
            for axis, (mean, low, high) in zip(row, found, strict=True):
                ends, top = _whisker(mean, low, high)
                axis.barh(index, np.nan_to_num(mean), 0.8, **_style(index))
                axis.errorbar([mean], [index], xerr=ends, **_WHISKERS)
                axis.text(top + 0.015, index, _text(mean), va="center", fontsize=7)
        for axis, label in zip(row, labels, strict=True):
            axis.set(xlim=(0, 1.18), xticks=np.arange(0, 1.01, 0.2), xlabel=shown_name(metric))
            axis.set_title(label, fontsize="medium", loc="left")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(methods)), [_full_name(method) for method in methods])
    axes[0, 0].invert_yaxis()  # shared: the first method is on top everywhere
    return figure


def draw_cases(comparison: Comparison, out: Path, *, metric: str | None = None) -> list[Path]:
    """Every case's value, a panel a class; cases from the lowest mean of the methods to the best.

    Args:
        comparison: what to draw.
        out: folder.
        metric: column; None: Dice, or the first metric where that isn't compared.
    """
    plt = load_pyplot()
    compared = comparison.settings.metrics or ()
    metric = metric or ("dice" if "dice" in compared else compared[0])
    tables, classes = comparison.tables, comparison.tables[0].classes
    classes = tuple(key for key in classes if all(metric in t.scores[key] for t in tables))
    longest = max(map(len, comparison.cases)) if len(comparison.cases) <= MAX_CASE_NAMES else 0
    width = min(14.0, max(5.0, 2 + 0.22 * len(comparison.cases)))
    figure, axes = plt.subplots(
        len(classes),
        1,
        figsize=(width, 1.4 + (2.2 + 0.07 * longest) * len(classes)),
        layout="constrained",
        squeeze=False,
    )
    for axis, key in zip(axes[:, 0], classes, strict=True):
        _draw_case_dots(axis, tables, key, metric)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    paths = save_figure(figure, out, "cases")
    plt.close(figure)
    return paths


def case_order(tables: Sequence[ScoreTable], key: ClassKey, metric: str) -> list[int]:
    """Cases from the lowest mean over methods (of what is finite) to the highest, NaN last."""
    values = np.stack([table.scores[key][metric] for table in tables])
    means = []
    for column in values.T:
        kept = column[np.isfinite(column)]
        means.append(float(kept.mean()) if len(kept) else math.inf)
    return sorted(range(len(means)), key=lambda index: (means[index], index))


def _bounded(comparison: Comparison) -> list[str]:
    """Metrics in [0, 1] that every method has, without IoU, which says what Dice says."""
    compared = comparison.settings.metrics or ()
    found = []
    for metric in compared:
        kind = metric_kind(metric)
        if kind is not None and kind.is_bounded:
            found.append(metric)
    return [metric for metric in found if metric != "iou"] or found


def _bar_labels(comparison: Comparison) -> list[str]:
    classes = comparison.tables[0].classes
    return [name for _, name in classes] + (["mean of classes"] if len(classes) > 1 else [])


def _bar_values(
    method: Performance, metric: str, classes: Sequence[ClassKey]
) -> list[tuple[float, float, float]]:
    """Mean and interval of each class, and of the mean of classes where there are several."""
    values = []
    for key in classes:
        found = method.classes[key].get(metric)
        nothing = (math.nan, math.nan, math.nan)
        values.append(
            (found.mean_finite, found.finite_low, found.finite_high) if found else nothing
        )
    if len(classes) > 1:
        macro = method.macro[metric]
        values.append((macro.mean, macro.low, macro.high))
    return values


def _full_name(method: Performance) -> str:
    """The name, with the prompt where one was given."""
    return method.method + (f" ({method.protocol})" if method.protocol not in ("", "none") else "")


def _style(index: int) -> dict[str, Any]:
    colours = {"color": method_colour(index), "edgecolor": "black"}
    return {**colours, "linewidth": 0.6, "hatch": method_hatch(index)}


def _whisker(mean: float, low: float, high: float) -> tuple[list[list[float]], float]:
    """Lengths below and above the mean, and where a value may be written."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [[0.0], [0.0]], float(np.nan_to_num(mean))
    # an interval of a skewed sample needn't hold its mean to the last digit
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]], max(mean, high)


def _text(mean: float) -> str:
    return "nan" if math.isnan(mean) else f"{mean:.3f}"


def _draw_case_dots(axis: Any, tables: Sequence[ScoreTable], key: ClassKey, metric: str) -> None:
    order = case_order(tables, key, metric)
    cases = [tables[0].cases[index] for index in order]
    not_drawn, lowest = 0, 1.0
    for number, table in enumerate(tables):
        values = table.scores[key][metric][order]
        shown = np.where(np.isfinite(values), values, np.nan)
        not_drawn += int(np.isnan(shown).sum())
        lowest = min(lowest, math.floor(np.nanmin(shown, initial=1.0) * 10) / 10)
        shift = 0.5 * ((number + 0.5) / len(tables) - 0.5)  # side by side: none hides another
        axis.plot(
            np.arange(len(cases)) + shift,
            shown,
            linestyle="",
            marker=method_marker(number),
            markersize=5,
            color=method_colour(number),
            markeredgecolor="black",
            markeredgewidth=0.5,
            label=table.method,
        )
    note = f" ({not_drawn} nan or inf not drawn)" if not_drawn else ""
    axis.set_title(f"{key[1]}{note}", fontsize="medium", loc="left")
    axis.set_ylabel(shown_name(metric))
    kind = metric_kind(metric)
    if kind is not None and kind.is_bounded:
        axis.set_ylim(lowest - 0.03, 1.03)
    axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    axis.set_axisbelow(True)
    if len(cases) <= MAX_CASE_NAMES:
        axis.set_xticks(range(len(cases)), cases, rotation=90, fontsize=7)
    else:
        axis.set_xlabel("cases, sorted by the mean of the methods")

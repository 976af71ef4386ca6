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
from samtune.evaluation.plots import HATCHES, MARKERS, load_pyplot, method_colour, save_figure
from samtune.evaluation.score_table import ClassKey, ScoreTable

MAX_CASE_NAMES = 40  # more cases are numbered


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
    """Mean of each method a class, with value and 95 % interval; a panel a metric in [0, 1]."""
    plt = load_pyplot()
    metrics = _bounded(comparison)
    if not metrics:
        return []
    methods = comparison.performance
    classes = comparison.tables[0].classes
    with_mean = len(classes) > 1
    labels = [name for _, name in classes] + (["mean of classes"] if with_mean else [])
    num_bars = len(labels) * len(methods)
    figure, axes = plt.subplots(
        len(metrics),
        1,
        figsize=(max(4.5, 1.6 + 0.62 * num_bars), 0.9 + 2.9 * len(metrics)),
        layout="constrained",
        squeeze=False,
    )
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        for index, method in enumerate(methods):
            _draw_method_bars(axis, index, len(methods), _bar_values(method, metric, classes))
        axis.set(ylabel=shown_name(metric), ylim=(0, 1.12), yticks=np.arange(0, 1.01, 0.2))
        axis.set_xticks(range(len(labels)), labels)
        axis.spines[["top", "right"]].set_visible(False)
    unit = "cases" if comparison.patients is None else "patients"
    axes[0, 0].set_title(
        f"mean and 95 % bootstrap interval over {unit}, n = {len(comparison.cases)} cases",
        fontsize="medium",
    )
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    paths = save_figure(figure, out, "performance")
    plt.close(figure)
    return paths


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
    width = min(14.0, max(5.0, 2 + 0.22 * len(comparison.cases)))
    figure, axes = plt.subplots(
        len(classes),
        1,
        figsize=(width, 1.4 + 2.4 * len(classes)),
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


def _bar_values(
    method: Performance, metric: str, classes: Sequence[ClassKey]
) -> tuple[str, list[tuple[float, float, float]]]:
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
    suffix = f" ({method.protocol})" if method.protocol not in ("", "none") else ""
    return method.method + suffix, values


def _draw_method_bars(
    axis: Any, index: int, num_methods: int, found: tuple[str, list[tuple[float, float, float]]]
) -> None:
    name, values = found
    width = 0.8 / num_methods
    places = np.arange(len(values)) - 0.4 + width * (index + 0.5)
    means = np.array([mean for mean, _, _ in values])
    axis.bar(
        places,
        np.nan_to_num(means),
        width * 0.94,
        label=name,
        color=method_colour(index),
        edgecolor="black",
        linewidth=0.6,
        hatch=HATCHES[index % len(HATCHES)],
    )
    for place, (mean, low, high) in zip(places, values, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            # an interval of a skewed sample needn't hold its mean to the last digit
            ends = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axis.errorbar([place], [mean], yerr=ends, color="black", capsize=2.5, linewidth=1)
        top = high if math.isfinite(high) else np.nan_to_num(mean)
        text = "nan" if math.isnan(mean) else f"{mean:.3f}"
        axis.text(place, top + 0.015, text, ha="center", va="bottom", fontsize=7)


def _draw_case_dots(axis: Any, tables: Sequence[ScoreTable], key: ClassKey, metric: str) -> None:
    order = case_order(tables, key, metric)
    cases = [tables[0].cases[index] for index in order]
    not_drawn = 0
    for number, table in enumerate(tables):
        values = table.scores[key][metric][order]
        shown = np.where(np.isfinite(values), values, np.nan)
        not_drawn += int(np.isnan(shown).sum())
        shift = 0.5 * ((number + 0.5) / len(tables) - 0.5)  # side by side: none hides another
        axis.plot(
            np.arange(len(cases)) + shift,
            shown,
            linestyle="",
            marker=MARKERS[number % len(MARKERS)],
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
        axis.set_ylim(-0.03, 1.03)
    axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    axis.set_axisbelow(True)
    if len(cases) <= MAX_CASE_NAMES:
        axis.set_xticks(range(len(cases)), cases, rotation=90, fontsize=7)
    else:
        axis.set_xlabel("cases, sorted by the mean of the methods")

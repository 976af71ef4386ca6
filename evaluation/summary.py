"""One line a class or region over all cases: what a table of results prints.

Nothing is averaged away: every mean stands beside the number of cases that it is not over.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from samtune.atomic import write_atomically
from samtune.evaluation.bootstrap import RESAMPLES
from samtune.evaluation.metric_kinds import metric_kind, row_scores
from samtune.evaluation.summary_statistics import MetricSummary, summarise_metric
from samtune.evaluation.table import Row, Unit, format_csv, format_number, nsd_column

FORMAT_VERSION = 1
STATISTICS = {
    "n": "rows, one a case; n_nan, n_inf and n_finite count the values of each metric",
    "mean": "over the cases that are not nan",
    "ci_low, ci_high": "ends of the 95 % BCa bootstrap interval of the mean (Efron 1987), "
    "percentiles below 8 cases; cases are drawn, or patients with all their cases where they are "
    "known; nan below two",
    "median, q1, q3": "quartiles by linear interpolation; infinite distances count as infinite",
    "mean_finite": "mean over the finite distances alone; says nothing without n_inf",
    "mean_capped": "mean with inf replaced by the diagonal of the case's volume; nan where "
    "that isn't known",
}


@dataclass(frozen=True)
class SummaryRow:
    """A class or region over cases; means leave out NaN, and nothing else unless the name says so.

    Attributes:
        label: class values, ``1`` or ``1+2``.
        name: region name.
        n: rows summarised, one a case.
        n_nan: rows whose Dice is NaN (in neither mask).
        n_inf: rows whose HD95 is infinite (one mask empty, missing or failed).
        n_missing_pred: rows without a prediction.
        n_failed: rows of cases that couldn't be scored.
        nsd_mean: tolerance in mm -> mean Surface Dice.
        hd95_mm_median: infinite distances count as infinite.
        hd95_mm_mean_finite: mean over the finite ones alone.
        n_hd95_finite: how many those are.
        metrics: column name -> all statistics of that metric.
        num_patients: patients that the cases are of; None where that isn't known.
        unit: of the lengths, in the names of columns; ``px`` for images without spacing.
    """

    label: str
    name: str
    n: int
    n_nan: int
    n_inf: int
    n_missing_pred: int
    n_failed: int
    dice_mean: float
    dice_median: float
    iou_mean: float
    nsd_mean: dict[float, float]
    hd95_mm_median: float
    hd95_mm_mean_finite: float
    n_hd95_finite: int
    metrics: Mapping[str, MetricSummary] = field(default_factory=dict)
    num_patients: int | None = None
    unit: Unit = "mm"

    def headline(self) -> dict[str, str | int | float]:
        """The columns that fit on a screen, in order."""
        columns = dict(vars(self))
        del columns["metrics"], columns["num_patients"], columns["unit"]
        nsd = columns.pop("nsd_mean")
        means = {f"{nsd_column(t, self.unit)}_mean": value for t, value in nsd.items()}
        last = {
            key.replace("_mm_", f"_{self.unit}_"): columns.pop(key)
            for key in list(columns)
            if "hd95" in key
        }
        return {**columns, **means, **last}

    def as_dict(self) -> dict[str, str | int | float]:
        """All columns of the summary table: the headline, then every metric's statistics."""
        columns = self.headline()
        for metric, found in self.metrics.items():
            for name, value in _statistics(metric, found).items():
                columns.setdefault(f"{metric}_{name}", value)
        return columns


def summarise(
    rows: Iterable[Row],
    *,
    patients: Mapping[str, str] | None = None,
    diagonals: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[SummaryRow]:
    """Summarise the rows by class or region, in the order in which these first appear.

    Args:
        rows: any order; the result doesn't depend on that of the cases.
        patients: case -> patient, whom the bootstrap draws; None: each case is its own.
        diagonals: case -> diagonal of its volume, which replaces ``inf`` in ``mean_capped``.
        resamples, seed: of the bootstrap.

    Raises:
        KeyError: ``patients`` lacks a case.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.name), []).append(row)
    return [
        _summarise_group(
            label,
            name,
            sorted(group, key=lambda row: row.case),
            patients,
            diagonals or {},
            {"resamples": resamples, "seed": seed},
        )
        for (label, name), group in groups.items()
    ]


def write_summary(path: str | Path, summary: Sequence[SummaryRow]) -> None:
    """Write the summary as CSV, and nested by metric as JSON of the same name, each whole.

    Raises:
        ValueError: there is nothing to write.
    """
    if not summary:
        raise ValueError(f"{path}: no rows to summarise")
    table = [row.as_dict() for row in summary]
    columns = list(dict.fromkeys(key for row in table for key in row))
    lines = [columns]
    for row in table:
        # empty: a metric that wasn't asked for in this class
        lines.append([_for_csv(row[key]) if key in row else "" for key in columns])
    path = Path(path)
    write_atomically(path, format_csv(lines).encode())
    text = json.dumps(_nested(summary), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())


def format_summary(summary: Sequence[SummaryRow]) -> str:
    """The summary as an aligned table for a terminal, three decimals."""
    if not summary:
        return ""
    table = [row.headline() for row in summary]
    columns = list(dict.fromkeys(key for row in table for key in row))
    lines = [[key.replace("hd95_mm", "hd95").replace("hd95_px", "hd95") for key in columns]]
    for row in table:
        values = [row.get(key, "-") for key in columns]
        lines.append([format(v, ".3f") if isinstance(v, float) else str(v) for v in values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def summary_for_json(summary: Sequence[SummaryRow]) -> list[dict[str, str | int | float | None]]:
    """The summary in JSON's types, which know neither: NaN becomes None, infinite ``"inf"``."""
    return [{key: _for_json(value) for key, value in row.as_dict().items()} for row in summary]


def _for_json(value: str | int | float) -> str | int | float | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else format_number(value)
    return value


def _for_csv(value: str | int | float) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


def _nested(summary: Sequence[SummaryRow]) -> dict[str, Any]:
    """The whole summary in JSON's types."""
    rows = []
    for row in summary:
        metrics = {
            metric: {key: _for_json(value) for key, value in _statistics(metric, found).items()}
            for metric, found in row.metrics.items()
        }
        counts = {"n": row.n, "n_missing_pred": row.n_missing_pred, "n_failed": row.n_failed}
        patients = {"num_patients": row.num_patients}
        rows.append({"label": row.label, "name": row.name, **counts, **patients, **metrics})
    return {"format_version": FORMAT_VERSION, "statistics": STATISTICS, "classes": rows}


def _statistics(metric: str, found: MetricSummary) -> dict[str, int | float]:
    """Statistics by their names in the table; only what can be infinite has the three means."""
    quartiles = {"median": found.median, "q1": found.q1, "q3": found.q3}
    kind = metric_kind(metric)
    if kind is not None and (kind.is_bounded or kind.is_signed):
        return {
            "n_nan": found.n_nan,
            "mean": found.mean_finite,
            "ci_low": found.finite_low,
            "ci_high": found.finite_high,
            **quartiles,
        }
    return {
        "n_nan": found.n_nan,
        "n_inf": found.n_inf,
        "n_finite": found.n_finite,
        **quartiles,
        "mean_finite": found.mean_finite,
        "mean_finite_ci_low": found.finite_low,
        "mean_finite_ci_high": found.finite_high,
        "mean_capped": found.mean_capped,
        "mean_capped_ci_low": found.capped_low,
        "mean_capped_ci_high": found.capped_high,
    }


def _summarise_group(
    label: str,
    name: str,
    rows: Sequence[Row],
    patients: Mapping[str, str] | None,
    diagonals: Mapping[str, float],
    bootstrap: Mapping[str, int],
) -> SummaryRow:
    groups = None if patients is None else [patients[row.case] for row in rows]
    caps = [diagonals.get(row.case, math.nan) for row in rows]
    scores = [row_scores(row) for row in rows]
    metrics = {
        metric: summarise_metric(
            [row.get(metric, math.nan) for row in scores],
            groups=groups,
            caps=caps,
            **bootstrap,
        )
        for metric in dict.fromkeys(metric for row in scores for metric in row)
    }
    tolerances = dict.fromkeys(t for row in rows for t in row.nsd)
    unit = rows[0].unit
    hd95 = metrics[f"hd95_{unit}"]
    return SummaryRow(
        label=label,
        name=name,
        n=len(rows),
        n_nan=sum(math.isnan(row.dice) for row in rows),
        n_inf=hd95.n_inf,
        n_missing_pred=sum(row.status == "missing_pred" for row in rows),
        n_failed=sum(row.status == "failed" for row in rows),
        dice_mean=_mean(row.dice for row in rows),
        dice_median=_median(row.dice for row in rows),
        iou_mean=_mean(row.iou for row in rows),
        nsd_mean={t: _mean(row.nsd.get(t, math.nan) for row in rows) for t in tolerances},
        hd95_mm_median=hd95.median,
        hd95_mm_mean_finite=hd95.mean_finite,
        n_hd95_finite=hd95.n_finite,
        metrics=metrics,
        num_patients=None if groups is None else len(set(groups)),
        unit=unit,
    )


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _median(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(np.median(kept)) if kept else math.nan

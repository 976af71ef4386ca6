"""A comparison as files: tables for a spreadsheet, and JSON that says what each number is."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samtune.atomic import write_atomically
from samtune.evaluation.comparison import Comparison, PairRow
from samtune.evaluation.definitions import tool_versions
from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.performance import Performance
from samtune.evaluation.score_table import ScoreTable, headline_classes
from samtune.evaluation.table import format_csv, format_number

FORMAT_VERSION = 1
COMPANION = "comparison.json"
_SHOWN = {"dice": "Dice", "iou": "IoU", "cldice": "clDice"}

DEFINITIONS = {
    "mean_difference, median_difference": "of method_b minus method_a in each "
    "case; of an error with a sign the magnitudes are compared",
    "n": "pairs of cases in the statistics; n_left_out are the others: a value is nan, most often "
    "a class in neither mask",
    "n_correct_empty_a, n_correct_empty_b": "pairs in which one method rightly left out a "
    "class that the other predicted: the right one counts as perfect (1, or distance 0); "
    "nan would drop the other's "
    "false positive",
    "no prediction": "missing and failed cases have the worst score, and infinite where their "
    "column is nan (the error of a volume)",
    "inf": "two infinite distances differ by 0; one differs by more than any finite pair, which "
    "the rank test, wins, median and ranks take as it is; mean_difference, its interval and "
    "cohens_dz are over the n_finite pairs without inf",
    "ci_low, ci_high": "95 % BCa bootstrap interval (Efron 1987) of mean_difference, pairs drawn "
    "together; percentiles below 8 units",
    "unit": "the case; with patients known, the patient, who is drawn with all cases, and whose "
    "mean difference is one observation of the test and of both effect sizes",
    "p": "two-sided Wilcoxon signed-rank test, zeros ranked and then dropped (Pratt 1959), "
    "scipy.stats.wilcoxon(zero_method='pratt'); 1 if no pair differs",
    "p_holm": "p by Holm (1979) over all num_tests tests of this comparison: pairs of methods "
    "times classes times metrics",
    "rank_biserial": "(R+ - R-) / (R+ + R-), sums of signed ranks (Kerby 2014); > 0: method_b has "
    "the higher values, which 'better' turns into which method is better",
    "cohens_dz": "mean difference divided by the standard deviation (n - 1) of the differences",
    "wins_b, ties, losses_b": "pairs in which method_b is better, equal, worse",
    "rank": "of mean_rank: in each case the methods are ranked (1 is best, ties share, inf last), "
    "ranks are averaged over cases, for 'all' then over classes",
    "rank_low, rank_high": "2.5 % and 97.5 % quantiles of the rank over resampled cases or "
    "patients",
    "share_first, share_same_rank": "of the resamples in which the method has the best mean rank, "
    "or the rank it has here",
    "rank_of_mean": "rank of the mean over cases (of the median for what can be infinite), for "
    "'all' of the mean of these ranks over classes",
    "Mean_*": "mean over classes of the mean over cases, nan left out; the CI draws whole cases "
    "or patients",
    "Median_*": "mean over classes of the median over cases, inf kept",
    "Mean_finite_*": "as Mean_*, infinite values left out; n_inf_* says how many",
    "all classes": "averages over classes are over single ones; unions such as 1+2 are left out, "
    "unless there is nothing else",
    "mean_capped": "in summary.csv: inf replaced by the diagonal of the case's volume; nan "
    "where that isn't known",
}


def write_comparison(
    comparison: Comparison, out: str | Path, *, notes: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``comparison.csv``, ``ranking.csv``, ``performance.csv``, ``summary.csv`` and JSON.

    Args:
        comparison: what to write.
        out: folder; made when it is missing.
        notes: further entries of the JSON, as which cases a picture shows.

    Returns:
        The files.
    """
    out = Path(out)
    tables = {
        "comparison.csv": [pair_columns(row) for row in comparison.pairs],
        "ranking.csv": _ranking_rows(comparison),
        "performance.csv": [performance_columns(row) for row in comparison.performance],
        "summary.csv": [row for one in comparison.performance for row in _summary_rows(one)],
    }
    for name, rows in tables.items():
        write_atomically(out / name, _csv(rows).encode())
    # last: it says that the others are there
    text = json.dumps(
        {**_companion(comparison, tables), **(notes or {})},
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    write_atomically(out / COMPANION, (text + "\n").encode())
    return [out / name for name in (*tables, COMPANION)]


def pair_columns(row: PairRow) -> dict[str, Any]:
    """Columns of ``comparison.csv``."""
    found = row.result
    better = {1: row.method_b, -1: row.method_a, 0: ""}[found.better]
    return {
        "label": row.label,
        "name": row.name,
        "metric": row.metric,
        "higher_is_better": str(row.higher_is_better).lower(),
        "method_a": row.method_a,
        "method_b": row.method_b,
        "n": found.n,
        "n_units": found.num_units,
        "n_left_out": found.n_left_out,
        "n_correct_empty_a": found.n_correct_empty_a,
        "n_correct_empty_b": found.n_correct_empty_b,
        "n_inf_a": found.n_inf_a,
        "n_inf_b": found.n_inf_b,
        "n_finite": found.n_finite,
        "mean_difference": found.mean_difference,
        "ci_low": found.low,
        "ci_high": found.high,
        "median_difference": found.median_difference,
        "p": found.p,
        "p_holm": found.p_holm,
        "rank_biserial": found.rank_biserial,
        "cohens_dz": found.cohens_dz,
        "wins_b": found.wins_b,
        "ties": found.ties,
        "losses_b": found.losses_b,
        "better": better,
    }


def performance_columns(row: Performance) -> dict[str, Any]:
    """Columns of ``performance.csv``; the first four are always there."""
    columns: dict[str, Any] = {
        "Method": row.method,
        "Mean_IoU": row.macro["iou"].mean if "iou" in row.macro else math.nan,
        "Mean_Dice": row.macro["dice"].mean if "dice" in row.macro else math.nan,
        "n": row.n,
        "Protocol": row.protocol,
        "n_missing_pred": row.n_missing_pred,
        "n_failed": row.n_failed,
    }
    for metric, found in row.macro.items():
        name, kind = shown_name(metric), metric_kind(metric)
        if kind is not None and kind.is_bounded:
            columns.setdefault(f"Mean_{name}", found.mean)
            columns[f"{name}_CI_low"], columns[f"{name}_CI_high"] = found.low, found.high
            columns[f"n_nan_{name}"] = found.n_nan
            continue
        having = [key for key in row.classes if metric in row.classes[key]]
        medians = [row.classes[key][metric].median for key in headline_classes(having)]
        medians = [median for median in medians if not math.isnan(median)]
        columns[f"Median_{name}"] = sum(medians) / len(medians) if medians else math.nan
        columns[f"Mean_finite_{name}"] = found.mean
        columns[f"n_inf_{name}"] = found.n_inf
        columns[f"n_nan_{name}"] = found.n_nan
    return columns


def shown_name(metric: str) -> str:
    """A column's name as a paper prints it: ``Dice``, ``NSD_1mm``, ``HD95_mm``."""
    if metric in _SHOWN:
        return _SHOWN[metric]
    head, underscore, tail = metric.partition("_")
    return head.upper() + underscore + tail if head in ("nsd", "hd95", "hd", "assd") else metric


def format_performance(comparison: Comparison) -> str:
    """The main columns of ``performance.csv``, aligned for a terminal, three decimals."""
    rows = [performance_columns(row) for row in comparison.performance]
    columns = [
        name
        for name in rows[0]
        if name in ("Method", "Protocol", "n") or name.startswith(("Mean_", "Median_"))
    ]
    lines = [columns]
    for row in rows:
        values = [row[name] for name in columns]
        lines.append([f"{v:.3f}" if isinstance(v, float) else str(v) or "-" for v in values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def for_json(value: Any) -> Any:
    """A value in JSON's types: NaN becomes None, an infinite one ``"inf"`` or ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else format_number(value)
    return value


def _ranking_rows(comparison: Comparison) -> list[dict[str, Any]]:
    protocols = {table.method: table.protocol for table in comparison.tables}
    rows = []
    for row in comparison.ranking:
        columns = dict(vars(row))
        head = {key: columns.pop(key) for key in ("label", "name", "metric", "method")}
        rows.append({**head, "protocol": protocols[row.method], **columns})
    return rows


def _summary_rows(row: Performance) -> list[dict[str, Any]]:
    return [
        {
            "method": row.method,
            "protocol": row.protocol,
            "label": label,
            "name": name,
            "metric": metric,
            **vars(found),
        }
        for (label, name), metrics in row.classes.items()
        for metric, found in metrics.items()
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    lines = [list(rows[0])] if rows else []
    lines += [
        [format_number(v) if isinstance(v, float) else str(v) for v in row.values()] for row in rows
    ]
    return format_csv(lines)


def _companion(comparison: Comparison, tables: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    settings = comparison.settings
    patients = comparison.patients
    return {
        "format_version": FORMAT_VERSION,
        "tables": [_about(table) for table in comparison.tables],
        "settings": {
            "metrics": list(settings.metrics or ()),
            "seed": settings.seed,
            "resamples": settings.resamples,
            "ranking_resamples": settings.ranking_resamples,
            "unit": "case" if patients is None else "patient",
        },
        "num_cases": len(comparison.cases),
        "num_patients": None if patients is None else len(set(patients)),
        "num_tests": comparison.num_tests,
        "cases": list(comparison.cases),
        "columns_not_shared": list(comparison.not_shared),
        "remarks": remarks(comparison.tables),
        "definitions": DEFINITIONS,
        "versions": tool_versions(),
        **{
            name.removesuffix(".csv"): [
                {key: for_json(value) for key, value in row.items()} for row in rows
            ]
            for name, rows in tables.items()
        },
    }


def remarks(tables: Iterable[ScoreTable]) -> list[str]:
    """What a reader of the comparison should know of the tables; empty if all is well."""
    found = []
    for table in tables:
        if not table.companion:
            found.append(f"{table.path}: no companion JSON, so its definitions aren't checked")
        elif table.companion.get("complete") is False:
            found.append(f"{table.path}: not complete, its evaluation was interrupted")
    return found


def _about(table: ScoreTable) -> dict[str, Any]:
    return {
        "method": table.method,
        "path": str(table.path),
        "protocol": table.protocol,
        "protocol_details": table.companion.get("protocol"),
        "settings": table.companion.get("settings"),
        "definitions": table.companion.get("definitions"),
    }

"""Metrics on masks and volumes, tables of them, their summary, and overlay pictures."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

# Not lazily, these three are named like their modules: importing one of those would hide it.
from samtune.evaluation.evaluate_folders import FolderReport, evaluate_folders
from samtune.evaluation.score_case import (
    failed_case_rows,
    missing_case_rows,
    score_case,
    score_case_masks,
)
from samtune.evaluation.surface_scores import Definition, SurfaceScores, surface_scores

__all__ = [
    "Comparison",
    "ComparisonSettings",
    "Definition",
    "FolderReport",
    "Interval",
    "MaskScores",
    "MetricKind",
    "MetricsCsv",
    "Region",
    "Row",
    "ScoreTable",
    "Status",
    "SummaryRow",
    "SurfaceScores",
    "compare_tables",
    "dice_score",
    "evaluate_folders",
    "failed_case_rows",
    "format_summary",
    "mean_interval",
    "metric_kind",
    "missing_case_rows",
    "overlay_grid",
    "parse_labels",
    "parse_regions",
    "read_metrics",
    "read_patients",
    "read_score_table",
    "regions_from_config",
    "score_case",
    "score_case_masks",
    "score_masks",
    "summarise",
    "surface_scores",
    "with_options",
    "worst_scores",
    "write_comparison",
    "write_summary",
]

if TYPE_CHECKING:
    from samtune.evaluation.bootstrap import Interval, mean_interval
    from samtune.evaluation.case_patients import read_patients
    from samtune.evaluation.comparison import Comparison, ComparisonSettings, compare_tables
    from samtune.evaluation.comparison_files import write_comparison
    from samtune.evaluation.dice import dice_score
    from samtune.evaluation.metric_kinds import MetricKind, metric_kind
    from samtune.evaluation.metrics import MaskScores, Status, score_masks, worst_scores
    from samtune.evaluation.metrics_csv import MetricsCsv
    from samtune.evaluation.overlay import overlay_grid
    from samtune.evaluation.regions import (
        Region,
        parse_labels,
        parse_regions,
        regions_from_config,
        with_options,
    )
    from samtune.evaluation.score_table import ScoreTable, read_score_table
    from samtune.evaluation.summary import SummaryRow, format_summary, summarise, write_summary
    from samtune.evaluation.table import Row, read_metrics

# Loaded at first use: a process that scores one case needs no pictures.
_LAZY = {
    "Comparison": "comparison",
    "ComparisonSettings": "comparison",
    "Interval": "bootstrap",
    "MaskScores": "metrics",
    "MetricKind": "metric_kinds",
    "MetricsCsv": "metrics_csv",
    "Region": "regions",
    "Row": "table",
    "ScoreTable": "score_table",
    "Status": "metrics",
    "SummaryRow": "summary",
    "compare_tables": "comparison",
    "dice_score": "dice",
    "format_summary": "summary",
    "mean_interval": "bootstrap",
    "metric_kind": "metric_kinds",
    "overlay_grid": "overlay",
    "parse_labels": "regions",
    "parse_regions": "regions",
    "read_metrics": "table",
    "read_patients": "case_patients",
    "read_score_table": "score_table",
    "regions_from_config": "regions",
    "score_masks": "metrics",
    "summarise": "summary",
    "with_options": "regions",
    "worst_scores": "metrics",
    "write_comparison": "comparison_files",
    "write_summary": "summary",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}; it has {__all__}")
    value: object = getattr(_import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Metrics on masks and volumes, tables of them, their summary, and overlay pictures."""

from samtune.evaluation.dice import dice_score
from samtune.evaluation.evaluate_folders import FolderReport, evaluate_folders
from samtune.evaluation.metrics import MaskScores, Status, score_masks
from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.overlay import overlay_grid
from samtune.evaluation.regions import (
    Region,
    parse_labels,
    parse_regions,
    regions_from_config,
    with_options,
)
from samtune.evaluation.score_case import (
    failed_case_rows,
    missing_case_rows,
    score_case,
    score_case_masks,
)
from samtune.evaluation.summary import SummaryRow, format_summary, summarise, write_summary
from samtune.evaluation.surface_scores import SurfaceScores, surface_scores
from samtune.evaluation.table import Row, read_metrics

__all__ = [
    "FolderReport",
    "MaskScores",
    "MetricsCsv",
    "Region",
    "Row",
    "Status",
    "SummaryRow",
    "SurfaceScores",
    "dice_score",
    "evaluate_folders",
    "failed_case_rows",
    "format_summary",
    "missing_case_rows",
    "overlay_grid",
    "parse_labels",
    "parse_regions",
    "read_metrics",
    "regions_from_config",
    "score_case",
    "score_case_masks",
    "score_masks",
    "summarise",
    "surface_scores",
    "with_options",
    "write_summary",
]

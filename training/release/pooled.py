"""Tables of several members as one: out-of-fold results of a cross-validation."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.atomic import write_atomically
from samtune.evaluation.summary import summarise, write_summary
from samtune.evaluation.table import Row, format_csv, read_metrics
from samtune.training.release.checks import TABLE, NotReleasableError, Scores
from samtune.training.release.files import write_json
from samtune.training.release.portable import without_paths


def write_pooled(scores: Sequence[Scores], docs: Path) -> list[dict[str, Any]]:
    """Write the rows of all tables as one, its companion and summary.

    Args:
        scores: tables of distinct cases.
        docs: folder to write them to.

    Returns:
        Classes and regions of the summary.

    Raises:
        NotReleasableError: they were made with different settings.
    """
    companion = without_paths(_companion(scores))
    header: list[str] = []
    lines: list[list[str]] = []
    rows: list[Row] = []
    for one in scores:
        with (one.folder / TABLE).open(newline="", encoding="utf-8") as file:
            first, *others = csv.reader(file)
        if header not in ([], first):
            msg = f"'{one.folder / TABLE}' has other columns than '{scores[0].folder / TABLE}'"
            raise NotReleasableError(msg)
        header = first
        lines += others
        rows += read_metrics(one.folder / TABLE)
    lines.sort(key=lambda line: line[0])  # stable: classes keep their order
    write_atomically(docs / TABLE, format_csv([header, *lines]).encode())
    write_json(docs / "metrics_test.json", companion)
    patients = companion.get("patients")
    if patients is not None:
        patients = {row.case: patients.get(row.case, f"case {row.case}") for row in rows}
    summary = summarise(rows, patients=patients, diagonals=companion.get("diagonals"))
    write_summary(docs / "metrics_test_summary.csv", summary)
    content = json.loads((docs / "metrics_test_summary.json").read_bytes())
    classes: list[dict[str, Any]] = content["classes"]
    return classes


def _companion(scores: Sequence[Scores]) -> dict[str, Any]:
    first = scores[0].companion
    for one in scores[1:]:
        for key in ("settings", "versions"):
            if one.companion.get(key) != first.get(key):
                msg = (
                    f"'{scores[0].folder / TABLE}' and '{one.folder / TABLE}' were made with "
                    f"different {key}: evaluate all runs alike"
                )
                raise NotReleasableError(msg)
    merged: dict[str, Any] = {
        key: {k: v for one in scores for k, v in (one.companion.get(key) or {}).items()}
        for key in ("diagonals", "failures", "patients")
        if any(key in one.companion for one in scores)
    }
    protocol = {
        "split": scores[0].protocol.get("split"),
        "num_cases": sum(len(one.cases) for one in scores),
        "scored_by": "out-of-fold: each case by the member that was not trained on it",
        "members": [one.protocol for one in scores],
    }
    return {**first, **merged, "protocol": protocol}

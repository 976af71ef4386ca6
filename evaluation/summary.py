"""One line a class or region over all cases: what a table of results prints.

Nothing is averaged away: every mean stands beside the number of cases that it is not over.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samtune.atomic import write_atomically
from samtune.evaluation.table import Row, format_csv, format_number, nsd_column


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

    def as_dict(self) -> dict[str, str | int | float]:
        """The columns of the summary table, in order."""
        columns = dict(vars(self))
        means = {f"{nsd_column(t)}_mean": value for t, value in columns.pop("nsd_mean").items()}
        last = {key: columns.pop(key) for key in list(columns) if "hd95" in key}
        return {**columns, **means, **last}


def summarise(rows: Iterable[Row]) -> list[SummaryRow]:
    """Summarise the rows by class or region, in the order in which these first appear."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.name), []).append(row)
    return [_summarise_group(label, name, group) for (label, name), group in groups.items()]


def write_summary(path: str | Path, summary: Sequence[SummaryRow]) -> None:
    """Write the summary as CSV, whole or not at all.

    Raises:
        ValueError: there is nothing to write.
    """
    if not summary:
        raise ValueError(f"{path}: no rows to summarise")
    lines = [list(summary[0].as_dict())]
    for row in summary:
        lines.append(
            [
                format_number(value) if isinstance(value, float) else str(value)
                for value in row.as_dict().values()
            ]
        )
    write_atomically(Path(path), format_csv(lines).encode())


def format_summary(summary: Sequence[SummaryRow]) -> str:
    """The summary as an aligned table for a terminal, three decimals."""
    if not summary:
        return ""
    lines = [[key.replace("hd95_mm", "hd95") for key in summary[0].as_dict()]]
    for row in summary:
        lines.append(
            [
                format(value, ".3f") if isinstance(value, float) else str(value)
                for value in row.as_dict().values()
            ]
        )
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


def _summarise_group(label: str, name: str, rows: Sequence[Row]) -> SummaryRow:
    hd95 = [row.hd95_mm for row in rows if not math.isnan(row.hd95_mm)]
    finite = [value for value in hd95 if math.isfinite(value)]
    return SummaryRow(
        label=label,
        name=name,
        n=len(rows),
        n_nan=sum(math.isnan(row.dice) for row in rows),
        n_inf=len(hd95) - len(finite),
        n_missing_pred=sum(row.status == "missing_pred" for row in rows),
        n_failed=sum(row.status == "failed" for row in rows),
        dice_mean=_mean(row.dice for row in rows),
        dice_median=_median(row.dice for row in rows),
        iou_mean=_mean(row.iou for row in rows),
        nsd_mean={t: _mean(row.nsd[t] for row in rows) for t in rows[0].nsd},
        hd95_mm_median=_median(hd95),
        hd95_mm_mean_finite=_mean(finite),
        n_hd95_finite=len(finite),
    )


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _median(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(np.median(kept)) if kept else math.nan

"""A metrics table as a report needs it: any of its number columns, and which cases stand out."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from samtune.evaluation.bootstrap import Interval, mean_interval
from samtune.evaluation.metric_kinds import metric_kind, metric_title

KEYS = ("case", "label", "name", "status")


@dataclass(frozen=True)
class CaseScore:
    """One line of a metrics table.

    Attributes:
        case, label, name, status: the table's key columns.
        values: number columns by name; NaN where undefined or empty, inf where infinite.
    """

    case: str
    label: str
    name: str
    status: str
    values: dict[str, float]

    @property
    def class_values(self) -> tuple[int, ...]:
        """Class values that the region is made of."""
        return tuple(int(value) for value in self.label.split("+"))

    def value(self, metric: "Metric") -> float:
        """Its value of a metric; NaN without the column."""
        return self.values.get(metric.column, math.nan)


@dataclass(frozen=True)
class Metric:
    """A column that is plotted.

    Attributes:
        column: its name.
        title: what people call it.
        unit: ``mm``, ``px`` or nothing.
        is_distance: small is good, and there is no upper end; else [0, 1] and large is good.
    """

    column: str
    title: str
    unit: str
    is_distance: bool

    def text(self, value: float) -> str:
        """A value as the report prints it: ``0.812``, ``2.24 mm``, ``infinite``, ``undefined``."""
        if math.isnan(value):
            return "undefined"
        if math.isinf(value):
            return "infinite"
        return f"{value:.2f} {self.unit}".strip() if self.is_distance else f"{value:.3f}"

    def extent(self, low: float, high: float) -> str:
        """Two finite values: ``1.77 to 2.76 mm``."""
        start = self.text(low).removesuffix(self.unit).rstrip()
        return f"{start} to {self.text(high)}"


def metric_of(column: str) -> Metric | None:
    """What a column holds; None for one that isn't plotted: a volume, or its error."""
    kind = metric_kind(column)
    if kind is None or kind.is_signed:
        return None
    title, unit = metric_title(column)
    return Metric(column, title, unit, is_distance=not kind.is_bounded)


def parse_scores(text: str, source: str | Path) -> list[CaseScore]:
    """Read the text of a metrics table, with whatever number columns it has.

    Args:
        text: header and rows.
        source: the file that error messages name.

    Raises:
        ValueError: a key column is missing, a line has another number of fields, or a label isn't
            class values joined by ``+``.
    """
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    missing = [key for key in KEYS if key not in header]
    if missing:
        found = ",".join(header) or "(none)"
        raise ValueError(f"{source}: found columns {found}; '{missing[0]}' is missing")
    scores = []
    for fields in reader:
        if len(fields) != len(header):
            raise ValueError(
                f"{source} line {reader.line_num}: {len(fields)} fields, expected {len(header)}"
            )
        row = dict(zip(header, fields, strict=True))
        if not re.fullmatch(r"\d+(\+\d+)*", row["label"]):
            raise ValueError(
                f"{source} line {reader.line_num}: label '{row['label']}', expected class values "
                "such as 1 or 1+2"
            )
        values = {
            key: value
            for key, field in row.items()
            if key not in KEYS and (value := _number(field)) is not None
        }
        scores.append(CaseScore(row["case"], row["label"], row["name"], row["status"], values))
    return scores


def _number(field: str) -> float | None:
    try:
        return float(field) if field else math.nan
    except ValueError:
        return None


def region_names(scores: Sequence[CaseScore]) -> list[str]:
    """Classes and regions in the order in which they first appear."""
    return list(dict.fromkeys(score.name for score in scores))


def plotted_metrics(scores: Sequence[CaseScore]) -> list[Metric]:
    """Metrics that have a value in some row, in the order of the columns."""
    columns = dict.fromkeys(column for score in scores for column in score.values)
    return [
        metric
        for column in columns
        if (metric := metric_of(column)) is not None
        and not all(math.isnan(score.values.get(column, math.nan)) for score in scores)
    ]


def interval_of(
    scores: Sequence[CaseScore], metric: Metric, patients: Mapping[str, str]
) -> Interval:
    """The interval of a metric's mean over the cases of one class, as the summary table has it.

    Args:
        scores: of one class; undefined and infinite values are left out.
        metric: which column.
        patients: case to patient, whom the bootstrap draws; empty: each case is its own.
    """
    known = sorted((s.case, value) for s in scores if not math.isnan(value := s.value(metric)))
    groups = tuple(patients.get(case, f"case {case}") for case, _ in known)
    return _interval(tuple(value for _, value in known), groups if patients else None)


@lru_cache(maxsize=4096)
def _interval(values: tuple[float, ...], groups: tuple[str, ...] | None) -> Interval:
    """Found once for table, plot and figure."""
    return mean_interval(values, groups=groups)


def pick_cases(
    scores: Sequence[CaseScore], name: str, *, worst: int = 5, best: int = 3
) -> tuple[list[CaseScore], list[CaseScore]]:
    """Cases of a class to look at, by Dice: the worst from the lowest up, the best from the top.

    Of equal Dice the larger HD95 is worse, then the first name. Cases where the class is in
    neither mask have no Dice and are left out. None is in both lists: with few cases the best give
    way.
    """
    rows = [s for s in scores if s.name == name and not math.isnan(s.values.get("dice", math.nan))]
    rows.sort(key=lambda s: (s.values["dice"], -_hd95(s), s.case))
    low = rows[:worst]
    return low, rows[len(low) :][::-1][:best]


def _hd95(score: CaseScore) -> float:
    value = next((v for k, v in score.values.items() if k.startswith("hd95") and v == v), 0.0)
    return value

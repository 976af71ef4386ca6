"""A metrics table read for comparison: whatever scores it holds, by class, over sorted cases."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samtune.evaluation.metric_kinds import metric_kind

Floats: TypeAlias = npt.NDArray[np.float64]
ClassKey: TypeAlias = tuple[str, str]  # label (1 or 1+2) and name

_KEYS = ("case", "label", "name", "status")


@dataclass(frozen=True)
class ScoreTable:
    """One method's scores.

    Attributes:
        path: the table.
        method: what it is called.
        cases: sorted.
        classes: in the table's order.
        scores: class -> column -> one value a case; columns without any value in a class are
            left out, other empty fields are NaN.
        statuses: class -> one status a case.
        protocol: how the model was prompted (``oracle_box``, ``none``, …); empty if not known.
        companion: the JSON beside the table; empty if there is none.
        diagonals: case -> diagonal of its volume in the unit of the distances, where known.
    """

    path: Path
    method: str
    cases: tuple[str, ...]
    classes: tuple[ClassKey, ...]
    scores: Mapping[ClassKey, Mapping[str, Floats]]
    statuses: Mapping[ClassKey, tuple[str, ...]]
    protocol: str = ""
    companion: Mapping[str, Any] = field(default_factory=dict)
    diagonals: Mapping[str, float] = field(default_factory=dict)


def read_score_table(path: str | Path, method: str) -> ScoreTable:
    """Read a table that ``samtune evaluate`` or a bundle wrote, and its companion if it is there.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a key column or a class of a case is missing, a case and class is there twice,
            or a field is no number; names the line.
    """
    path = Path(path)
    reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    header = next(reader, [])
    missing = [name for name in _KEYS if name not in header]
    if missing:
        raise ValueError(
            f"{path}: found columns {','.join(header) or '(none)'}; '{missing[0]}' is missing"
        )
    rows: dict[tuple[str, ClassKey], dict[str, str]] = {}
    for fields in reader:
        where = f"{path} line {reader.line_num}"
        if len(fields) != len(header):
            raise ValueError(f"{where}: {len(fields)} fields, expected {len(header)}")
        row = dict(zip(header, fields, strict=True))
        key_of_row = (row["case"], (row["label"], row["name"]))
        if key_of_row in rows:
            raise ValueError(f"{where}: case '{row['case']}', class '{row['name']}' is there twice")
        rows[key_of_row] = row
        _check_numbers(row, where)
    if not rows:
        raise ValueError(f"{path}: no rows to compare")
    cases = tuple(sorted({case for case, _ in rows}))
    classes = tuple(dict.fromkeys(key for _, key in rows))
    for case in cases:
        for one in classes:
            if (case, one) not in rows:
                raise ValueError(f"{path}: case '{case}' has no row of class '{one[1]}'")
    companion = _read_companion(path.with_suffix(".json"))
    return ScoreTable(
        path=path,
        method=method,
        cases=cases,
        classes=classes,
        scores={key: _columns([rows[case, key] for case in cases], header) for key in classes},
        statuses={key: tuple(rows[case, key]["status"] for case in cases) for key in classes},
        protocol=protocol_of(companion),
        companion=companion,
        diagonals=_diagonals(companion),
    )


def protocol_of(companion: Mapping[str, Any]) -> str:
    """How the masks were prompted, as the companion says: ``oracle_box``, ``none``; '' if not."""
    protocol = companion.get("protocol")
    prompt = protocol.get("prompt", "") if isinstance(protocol, dict) else protocol
    return str(prompt or "")


def _check_numbers(row: Mapping[str, str], where: str) -> None:
    for column, text in row.items():
        if metric_kind(column) is not None and text != "":
            try:
                float(text)
            except ValueError:
                raise ValueError(f"{where}: {column} is '{text}', expected a number") from None


def _columns(rows: list[dict[str, str]], header: list[str]) -> dict[str, Floats]:
    return {
        column: np.array([float(row[column]) if row[column] else math.nan for row in rows])
        for column in header
        if metric_kind(column) is not None and any(row[column] for row in rows)
    }


def _diagonals(companion: Mapping[str, Any]) -> dict[str, float]:
    named = companion.get("diagonals")
    return {case: float(v) for case, v in named.items()} if isinstance(named, dict) else {}


def _read_companion(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        companion = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}), expected the table's companion") from None
    return companion if isinstance(companion, dict) else {}


def headline_classes(classes: list[ClassKey]) -> list[ClassKey]:
    """Classes that averages are over: single ones, as a union counts its classes a second time.

    Unions where there is nothing else.
    """
    return [key for key in classes if "+" not in key[0]] or classes

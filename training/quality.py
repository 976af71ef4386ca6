"""Plausibility of a prediction without a reference: one row a case, for a look at the odd ones."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from samtune.atomic import write_atomically
from samtune.evaluation.table import format_csv

Array = npt.NDArray[Any]
QC_FILE, STATISTICS_FILE = "qc.csv", "statistics.csv"
MM3_PER_ML = 1000.0
OK, FAILED = "ok", "failed"
# of each class; the column is NAME_KEY
CLASS_KEYS = ("volume_ml", "components", "largest_share", "touches_border", "mean_confidence")
STATISTICS_COLUMNS = ("case", "label", "name", "volume_ml")


@dataclass(frozen=True)
class QualityRow:
    """What is known of a case's prediction.

    Attributes:
        case: its name.
        status: ``ok`` or ``failed``.
        file: name of the label file, or why it failed.
        classes: class name to values by ``CLASS_KEYS``; none of a failed case.
    """

    case: str
    status: str
    file: str
    classes: dict[str, dict[str, str]] = field(default_factory=dict)


def quality_row(
    case: str,
    file: str,
    label: Array,
    spacing: Sequence[float],
    classes: Mapping[int, str],
    confidence: Array | None = None,
) -> QualityRow:
    """Measure a label volume.

    Args:
        case, file: what the row is of.
        label: ``i j k`` class values.
        spacing: mm, one entry an axis.
        classes: class value to name.
        confidence: ``i j k`` probability of the decision at each voxel; ``None``: not known.
    """
    voxel_ml = float(np.prod(spacing)) / MM3_PER_ML
    rows = {}
    for value, name in classes.items():
        mask = label == value
        number = int(mask.sum())
        sizes = component_sizes(mask)
        rows[name] = {
            "volume_ml": f"{number * voxel_ml:.6g}",
            "components": str(len(sizes)),
            "largest_share": f"{sizes.max() / number:.4f}" if number else "",
            "touches_border": str(touches_border(mask)).lower(),
            "mean_confidence": ""
            if confidence is None or number == 0
            else f"{confidence[mask].mean(dtype=np.float64):.4f}",
        }
    return QualityRow(case, OK, file, rows)


def component_sizes(mask: Array) -> npt.NDArray[np.int64]:
    """Voxels of each connected component of a bool mask ``i j k``; connectivity 26."""
    if not mask.any():
        return np.zeros(0, np.int64)
    components = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    return np.bincount(components.ravel())[1:].astype(np.int64)


def touches_border(mask: Array) -> bool:
    """Whether a mask reaches an outer face of its volume; axes of one voxel have none."""
    return any(
        bool(mask.take(end, axis=axis).any())
        for axis, size in enumerate(mask.shape)
        if size > 1
        for end in (0, size - 1)
    )


class QualityTable:
    """``qc.csv``, rewritten whole as it grows; rows in order of the cases' names.

    Args:
        path: of the table.
        names: of the classes, in the order of the columns.
        keep: take over the rows that are there.

    Raises:
        ValueError: rows are to be kept of a table with other columns.
    """

    def __init__(self, path: Path, names: Sequence[str], *, keep: bool = False) -> None:
        self.path = path
        self.names = list(names)
        self.rows: dict[str, QualityRow] = {}
        if keep and path.is_file():
            self.rows = self._read()

    @property
    def columns(self) -> list[str]:
        """Of the table."""
        columns = ["case", "status", "file", "is_empty"]
        return columns + [f"{name}_{key}" for name in self.names for key in CLASS_KEYS]

    def add(self, row: QualityRow) -> None:
        """Put a row in, in the place of the case's row before, and write the table."""
        self.rows[row.case] = row
        self.write()

    def write(self) -> None:
        """Write the table."""
        lines = [self.columns, *(self._line(row) for _, row in sorted(self.rows.items()))]
        write_atomically(self.path, format_csv(lines).encode())

    def _line(self, row: QualityRow) -> list[str]:
        if row.status != OK:
            return [row.case, row.status, row.file, *[""] * (len(self.columns) - 3)]
        empty = all(float(one["volume_ml"]) == 0 for one in row.classes.values())
        values = [row.classes[name][key] for name in self.names for key in CLASS_KEYS]
        return [row.case, row.status, row.file, str(empty).lower(), *values]

    def _read(self) -> dict[str, QualityRow]:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or list(reader.fieldnames) != self.columns:
                found = ",".join(reader.fieldnames or [])
                msg = (
                    f"'{self.path}' has columns {found}, expected {','.join(self.columns)}; choose "
                    "another folder, or predict without resuming"
                )
                raise ValueError(msg)
            return {
                line["case"]: QualityRow(
                    line["case"],
                    line["status"],
                    line["file"],
                    {n: {k: line[f"{n}_{k}"] for k in CLASS_KEYS} for n in self.names}
                    if line["status"] == OK
                    else {},
                )
                for line in reader
            }


def write_statistics(path: Path, table: QualityTable, classes: Mapping[int, str]) -> None:
    """The volumes of a table as ``case,label,name,volume_ml``: a row a case and class."""
    lines: list[Sequence[str]] = [STATISTICS_COLUMNS]
    for case, row in sorted(table.rows.items()):
        if row.status == OK:
            lines += [
                (case, str(value), name, row.classes[name]["volume_ml"])
                for value, name in classes.items()
            ]
    write_atomically(path, format_csv(lines).encode())

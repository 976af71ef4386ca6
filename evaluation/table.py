"""The metrics table as text: one row a case and region, its columns, and reading it back.

Columns: ``case,label,name,status,dice,iou``, one ``nsd_Tmm`` a tolerance, ``hd95_mm,volume_ref_ml,
volume_pred_ml,volume_error_ml,assd_mm,sensitivity,precision`` and, where a region asks for it,
``cldice``. ``px`` takes the place of ``mm`` where images have no spacing. Numbers are written so
that reading gives the same float; ``nan`` and ``inf`` are words. An empty field was not asked for.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from samtune.evaluation.metrics import MaskScores, Status, check_tolerances
from samtune.evaluation.regions import Region

STATUSES: tuple[Status, ...] = get_args(Status)
_KEYS = ("case", "label", "name", "status", "dice", "iou")
_VOLUMES = ("volume_ref_ml", "volume_pred_ml")
_NSD = re.compile(r"nsd_(.+)(mm|px)")

Unit: TypeAlias = Literal["mm", "px"]


@dataclass(frozen=True)
class Row:
    """Scores of one region in one case; the fields are those of ``MaskScores`` plus the key.

    Attributes:
        case: case id.
        label: class values, ``1`` or ``1+2``.
        name: region name.
        nsd: tolerances that weren't asked for are absent.
        unit: of the lengths, those in the names of fields and in ``nsd`` included: ``px`` for an
            image without spacing.
    """

    case: str
    label: str
    name: str
    status: Status
    dice: float
    iou: float
    nsd: Mapping[float, float]
    hd95_mm: float
    volume_ref_ml: float
    volume_pred_ml: float
    assd_mm: float = math.nan
    sensitivity: float = math.nan
    precision: float = math.nan
    cldice: float | None = None
    unit: Unit = "mm"

    @classmethod
    def from_scores(
        cls, case: str, region: Region, scores: MaskScores, *, unit: Unit = "mm"
    ) -> "Row":
        """The row of ``case`` and ``region``."""
        return cls(case, region.label, region.name, **vars(scores), unit=unit)

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus reference volume, 10 significant digits."""
        return float(f"{self.volume_pred_ml - self.volume_ref_ml:.10g}")


def nsd_column(tolerance_mm: float, unit: Unit = "mm") -> str:
    """Column of Surface Dice at a tolerance: ``nsd_1mm``, ``nsd_1.5mm``, ``nsd_1px``."""
    return f"nsd_{tolerance_mm:g}{unit}"


def all_tolerances(tolerances_mm: Sequence[float], regions: Iterable[Region]) -> tuple[float, ...]:
    """Tolerances of a table: those of the regions without their own, then the others, ascending."""
    regions = list(regions)
    shared = check_tolerances(tolerances_mm)
    own = {t for region in regions for t in region.tolerances_mm or ()}
    if all(region.tolerances_mm is not None for region in regions):
        shared = ()
    return check_tolerances([*shared, *sorted(own.difference(shared))])


def column_names(
    tolerances_mm: Sequence[float], *, cldice: bool = False, unit: Unit = "mm"
) -> list[str]:
    """All columns of a table, in order."""
    return [
        *_KEYS,
        *(nsd_column(t, unit) for t in check_tolerances(tolerances_mm)),
        f"hd95_{unit}",
        *_VOLUMES,
        "volume_error_ml",
        f"assd_{unit}",
        "sensitivity",
        "precision",
        *(["cldice"] if cldice else []),
    ]


def format_rows(
    rows: Iterable[Row], tolerances_mm: Sequence[float], *, cldice: bool = False
) -> str:
    """CSV lines of the rows, without a header; the arguments are those of the columns."""
    return format_csv(
        [
            row.case,
            row.label,
            row.name,
            row.status,
            *(
                "" if value is None else format_number(value)
                for value in (
                    row.dice,
                    row.iou,
                    *(row.nsd.get(t) for t in tolerances_mm),
                    row.hd95_mm,
                    row.volume_ref_ml,
                    row.volume_pred_ml,
                    row.volume_error_ml,
                    row.assd_mm,
                    row.sensitivity,
                    row.precision,
                    *([row.cldice] if cldice else []),
                )
            ),
        ]
        for row in rows
    )


def format_csv(lines: Iterable[Sequence[str]]) -> str:
    """CSV text; fields with commas or quotes are quoted, lines end in a plain newline."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def format_number(value: float) -> str:
    """Shortest text that reads back as the same float: ``0.75``, ``nan``, ``inf``."""
    return repr(float(value))


def parse_rows(text: str, source: str | Path) -> list[Row]:
    """Read the text of a metrics table; columns that this version doesn't know are left out.

    Args:
        text: header and rows.
        source: the file that error messages name.

    Raises:
        ValueError: a column is missing, or a line has another number of fields, an unknown status
            or something that is no number; names the line.
    """
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    found = [match for match in map(_NSD.fullmatch, header) if match]
    unit: Unit = "px" if "hd95_px" in header else "mm"
    needed = (*_KEYS, f"hd95_{unit}", *_VOLUMES)
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(
            f"{source}: found columns {','.join(header) or '(none)'}; '{missing[0]}' is missing"
        )
    rows = []
    for fields in reader:
        where = f"{source} line {reader.line_num}"
        if len(fields) != len(header):
            raise ValueError(f"{where}: {len(fields)} fields, expected {len(header)}")
        rows.append(_parse_row(dict(zip(header, fields, strict=True)), found, unit, where))
    return rows


def read_metrics(path: str | Path) -> list[Row]:
    """Read a metrics table that ``MetricsCsv`` or ``samtune evaluate`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a table; names the column or line.
    """
    return parse_rows(Path(path).read_text(encoding="utf-8"), path)


def _parse_row(
    fields: Mapping[str, str], nsd_columns: Sequence[re.Match[str]], unit: Unit, where: str
) -> Row:
    status = next((known for known in STATUSES if known == fields["status"]), None)
    if status is None:
        raise ValueError(f"{where}: status '{fields['status']}', expected one of {STATUSES}")
    try:
        return Row(
            case=fields["case"],
            label=fields["label"],
            name=fields["name"],
            status=status,
            dice=float(fields["dice"]),
            iou=float(fields["iou"]),
            nsd={
                float(match[1]): float(fields[match[0]])
                for match in nsd_columns
                if fields[match[0]]
            },
            hd95_mm=float(fields[f"hd95_{unit}"]),
            volume_ref_ml=float(fields["volume_ref_ml"]),
            volume_pred_ml=float(fields["volume_pred_ml"]),
            # tables of earlier versions lack the rest
            assd_mm=float(fields.get(f"assd_{unit}", "nan")),
            sensitivity=float(fields.get("sensitivity", "nan")),
            precision=float(fields.get("precision", "nan")),
            cldice=float(fields["cldice"]) if fields.get("cldice") else None,
            unit=unit,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None

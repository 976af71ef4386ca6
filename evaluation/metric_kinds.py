"""Which columns of a metrics table are scores, which way is better, and what the best value is."""

import re
from dataclasses import dataclass, fields

from samtune.evaluation.table import Row, nsd_column


@dataclass(frozen=True)
class MetricKind:
    """How to read a column.

    Attributes:
        higher_is_better: overlaps; distances and errors are better when lower.
        perfect: value of full agreement: 1, or 0 for what is better when lower.
        is_bounded: in [0, 1]; the others can be infinite.
        is_signed: an error with a sign, of which the magnitude counts.
    """

    higher_is_better: bool
    perfect: float
    is_bounded: bool
    is_signed: bool = False

    def badness(self, value: float) -> float:
        """The value turned so that lower is better and signs don't matter."""
        if self.is_signed:
            return abs(value)
        return -value if self.higher_is_better else value


_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "Surface Dice",
    "cldice": "clDice",
    "hd": "Hausdorff distance",
    "hd95": "HD95",
    "assd": "Average symmetric surface distance",
    "asd": "Average surface distance",
    "masd": "Mean of average surface distances",
    "rve": "Relative volume error",
}
_UNIT = re.compile(r"(?P<name>.*?)(_(?P<number>[0-9][0-9.e+-]*)?(?P<unit>mm|px|ml))?")
_OVERLAP = MetricKind(higher_is_better=True, perfect=1.0, is_bounded=True)
_DISTANCE = MetricKind(higher_is_better=False, perfect=0.0, is_bounded=False)
_ERROR = MetricKind(higher_is_better=False, perfect=0.0, is_bounded=False, is_signed=True)
_KINDS = (
    (
        re.compile(r"dice|iou|cldice|sensitivity|specificity|precision|nsd_[0-9.e+-]+(mm|px)"),
        _OVERLAP,
    ),
    (re.compile(r"(hd\d*|assd|masd|asd)_(mm|px)"), _DISTANCE),
    (re.compile(r"(rel(ative)?_)?volume_error\w*|rve"), _ERROR),
)


def metric_kind(column: str) -> MetricKind | None:
    """The kind of a column; None where it is no score: a key, or an amount such as a volume."""
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(column)), None)


def metric_title(column: str) -> tuple[str, str]:
    """What people call a column, and its unit: ``HD95``, ``mm``; ``Surface Dice at 1 mm``, ````."""
    found = _UNIT.fullmatch(column)
    assert found is not None  # the unit is optional, the name may be anything
    name, unit = found["name"], found["unit"] or ""
    title = _TITLES.get(name, name.replace("_", " ").capitalize())
    return (f"{title} at {found['number']} {unit}", "") if found["number"] else (title, unit)


def row_scores(row: Row) -> dict[str, float]:
    """The scores of a row by column name, those that weren't asked for left out."""
    found: dict[str, float | None] = {}
    for field in fields(row):
        if field.name == "nsd":
            found |= {nsd_column(t, row.unit): value for t, value in row.nsd.items()}
        else:
            found[with_unit(field.name, row.unit)] = getattr(row, field.name)
    found["volume_error_ml"] = row.volume_error_ml
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and metric_kind(name) is not None
    }


def with_unit(name: str, unit: str) -> str:
    """A field's column: ``hd95_mm`` is ``hd95_px`` where lengths are in pixels."""
    return f"{name.removesuffix('_mm')}_{unit}" if name.endswith("_mm") else name

"""The text of a metrics table and reading it back."""

import math

import pytest

from samtune.evaluation.metrics import MaskScores, worst_scores
from samtune.evaluation.regions import Region
from samtune.evaluation.table import (
    Row,
    column_names,
    format_csv,
    format_rows,
    parse_rows,
    read_metrics,
)

TOLERANCES = (1.0, 1.5)
WHOLE = Region('whole, or "all"', (1, 2))
SCORES = MaskScores(
    "ok", 1 / 3, 0.2, {1.0: 2 / 3, 1.5: 1.0}, math.sqrt(2), 0.064, 0.072, 0.5, 0.25, 0.9
)
ROWS = [
    Row.from_scores("case_1", WHOLE, SCORES),
    Row.from_scores("case_2", WHOLE, worst_scores("failed", TOLERANCES)),
]


def table(rows=ROWS):
    return format_csv([column_names(TOLERANCES)]) + format_rows(rows, TOLERANCES)


def test_columns_carry_the_tolerance_in_their_name():
    assert ",".join(column_names(TOLERANCES)) == (
        "case,label,name,status,dice,iou,nsd_1mm,nsd_1.5mm,hd95_mm,volume_ref_ml,volume_pred_ml,"
        "volume_error_ml,assd_mm,sensitivity,precision"
    )


def test_rows_as_text():
    assert table().splitlines()[1:] == [
        'case_1,1+2,"whole, or ""all""",ok,0.3333333333333333,0.2,0.6666666666666666,1.0,'
        "1.4142135623730951,0.064,0.072,0.008,0.5,0.25,0.9",
        'case_2,1+2,"whole, or ""all""",failed,0.0,0.0,0.0,0.0,inf,nan,nan,nan,inf,0.0,0.0',
    ]


def test_reading_gives_the_same_numbers(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(table())
    rows = read_metrics(path)
    assert rows[0] == ROWS[0]
    assert format_rows(rows, TOLERANCES) == format_rows(ROWS, TOLERANCES)


def test_columns_of_later_versions_are_left_out():
    lines = table([ROWS[0]]).splitlines()
    text = f"{lines[0]},kappa\n{lines[1]},0.5\n"
    assert parse_rows(text, "metrics.csv") == [ROWS[0]]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("dice", "DSC", "'dice' is missing"),
        (",failed,", ",lost,", "line 3: status 'lost'"),
        (",0.2,", ",much,", "line 2: could not convert.*much"),
        (",0.064,", ",", "line 2: 14 fields, expected 15"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(old, new, found):
    with pytest.raises(ValueError, match=f"metrics.csv.*{found}"):
        parse_rows(table().replace(old, new), "metrics.csv")

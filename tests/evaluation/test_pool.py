"""Tables of different cases as one: every row once, statistics over all of them."""

import json
import math

import numpy as np
import pytest

from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.pool import pool_tables
from samtune.evaluation.regions import Region
from samtune.evaluation.score_case import score_case_masks
from samtune.evaluation.summary import summarise
from samtune.evaluation.table import read_metrics

REGIONS = [Region("a", (1,), (2.0,)), Region("both", (1, 2), cldice=True)]


def write(path, cases, seed, patients=None, finish=True, tolerances=(1.0,)):
    rng = np.random.default_rng(seed)
    notes = {"protocol": {"split": "val", "run": str(path), "num_cases": len(cases)}}
    notes |= {} if patients is None else {"patients": patients}
    table = MetricsCsv(path, regions=REGIONS, tolerances_mm=tolerances, notes=notes)
    for case in cases:
        pairs = [
            (region, rng.random((6, 5, 4)) < 0.5, rng.random((6, 5, 4)) < 0.5) for region in REGIONS
        ]
        table.add(score_case_masks(case, pairs, (1.0, 1.0, 2.0), tolerances))
    if finish:
        table.finish(notes={"diagonals": dict.fromkeys(cases[:1], 9.5)})
    return path


def test_all_rows_once_with_statistics_over_all_cases(tmp_path):
    patients = {"c": "p", "a": "p", "d": "q"}
    one = write(tmp_path / "one.csv", ["c", "a", "d"], 1, patients)
    two = write(tmp_path / "two.csv", ["b", "e"], 2)
    out = tmp_path / "oof.csv"
    summary = pool_tables({"fold_0": one, "fold_1": two}, out, run="runs/cv")
    rows = read_metrics(out)
    assert [row.case for row in rows] == [case for case in "abcde" for _ in REGIONS]
    expected = {(row.case, row.name): row for row in read_metrics(one) + read_metrics(two)}
    for row in rows:
        np.testing.assert_equal(vars(row), vars(expected[row.case, row.name]))
    header = one.read_text().partition("\n")[0]
    assert out.read_text().partition("\n")[0] == header
    companion = json.loads((tmp_path / "oof.json").read_text())
    first = json.loads((tmp_path / "one.json").read_text())
    assert companion["complete"]
    assert companion["settings"] == first["settings"]
    assert companion["folds"] == {"fold_0": ["a", "c", "d"], "fold_1": ["b", "e"]}
    assert companion["patients"] == {**patients, "b": "case b", "e": "case e"}
    assert companion["diagonals"] == {"c": 9.5, "b": 9.5}
    assert companion["protocol"] == {
        **{"split": "val", "run": "runs/cv", "num_cases": 5, "out_of_fold": True}
    }
    again = summarise(rows, patients=companion["patients"], diagonals=companion["diagonals"])
    np.testing.assert_equal([row.as_dict() for row in summary], [row.as_dict() for row in again])
    assert [row.num_patients for row in summary] == [4, 4]
    mean = np.mean([row.dice for row in rows if row.name == "a"])
    assert math.isclose(summary[0].dice_mean, mean)
    assert (tmp_path / "oof_summary.csv").is_file()


@pytest.mark.parametrize(
    ("cases", "options", "message"),
    [
        (["b"], {}, r"other\.csv: case 'b' is in another table too"),
        (
            ["c"],
            {"tolerances": (3.0,)},
            r"its tolerances_mm is \[3.0\], that of .*one\.csv \[1.0\]",
        ),
        (["c"], {"finish": False}, r"other\.csv: not finished"),
    ],
)
def test_refused(tmp_path, cases, options, message):
    tables = {
        "x": write(tmp_path / "one.csv", ["a", "b"], 1),
        "y": write(tmp_path / "other.csv", cases, 2, **options),
    }
    with pytest.raises(ValueError, match=message):
        pool_tables(tables, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_no_table(tmp_path):
    with pytest.raises(ValueError, match="no tables to pool"):
        pool_tables({}, tmp_path / "o.csv")
    with pytest.raises(FileNotFoundError):
        pool_tables({"x": tmp_path / "none.csv"}, tmp_path / "o.csv")

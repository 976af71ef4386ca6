"""What the report reads from a metrics table, and where its plots put it."""

import math

import pytest

from samtune.evaluation.report import parse_scores
from samtune.evaluation.report.plots import Axis, evenly, metric_axis
from samtune.evaluation.report.scores import interval_of, metric_of, pick_cases
from samtune.evaluation.summary import summarise
from samtune.evaluation.table import read_metrics


def test_worst_and_best_cases_by_hand(scores_of):
    dice = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.7, "e": 0.3, "f": 0.95, "g": 0.2, "h": 0.8}
    lines = [f"{case},1,x,ok,{value},0,0,1,1,1" for case, value in dice.items()]
    lines += ["i,1,x,both_empty,nan,nan,nan,nan,0,0", "a,2,y,ok,0.0,0,0,1,1,1"]
    worst, best = pick_cases(scores_of(*lines), "x")
    assert [score.case for score in worst] == ["b", "g", "e", "c", "d"]
    assert [score.case for score in best] == ["f", "a", "h"]


def test_few_cases_are_in_one_list_each_and_ties_go_by_hd95(scores_of):
    lines = ["a,1,x,ok,0.5,0,0,2,1,1", "b,1,x,ok,0.5,0,0,9,1,1", "c,1,x,pred_empty,0,0,0,inf,1,0"]
    worst, best = pick_cases(scores_of(*lines), "x", worst=2)
    assert [score.case for score in worst] == ["c", "b"]
    assert [score.case for score in best] == ["a"]


def test_columns_that_came_later_are_read_and_plotted(scores_of):
    header = "case,label,name,status,protocol,dice,hd95_px,nsd_1.5mm,assd_mm,volume_error_ml,new\n"
    scores = scores_of("a,1+3,x,ok,oracle_box,0.5,2.5,,1,-0.5,7", header=header)
    assert scores[0].class_values == (1, 3)
    values = scores[0].values
    assert math.isnan(values.pop("nsd_1.5mm"))
    assert values == {"dice": 0.5, "hd95_px": 2.5, "assd_mm": 1, "volume_error_ml": -0.5, "new": 7}
    found = [metric_of(column) for column in ("dice", "hd95_px", "nsd_1.5mm", "assd_mm")]
    assert [(m.title, m.unit, m.is_distance) for m in found] == [
        ("Dice", "", False),
        ("HD95", "px", True),
        ("Surface Dice at 1.5 mm", "", False),
        ("Average symmetric surface distance", "mm", True),
    ]
    assert found[1].extent(1.0, 2.0) == "1.00 to 2.00 px"
    assert found[0].extent(0.5, 0.75) == "0.500 to 0.750"
    for column in ("volume_error_ml", "volume_ref_ml", "new", "case"):
        assert metric_of(column) is None


def test_intervals_are_the_summarys_and_draw_patients(scores_of, tmp_path):
    dice = [0.9, 0.2, 0.8, 0.85, 0.4, 0.3, 0.95, 0.6, 0.7]
    lines = [f"c{i},1,x,ok,{v},0,0,{i},1,1" for i, v in enumerate(dice)]
    lines += ["d,1,x,pred_empty,0,0,0,inf,1,0", "e,1,x,both_empty,nan,nan,nan,nan,0,0"]
    scores = scores_of(*lines)
    table = tmp_path / "m.csv"
    header = "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml\n"
    table.write_text(header + "".join(f"{line}\n" for line in lines))
    rows, found = read_metrics(table), {}
    of = {score.case: f"p{i // 3}" for i, score in enumerate(scores)}
    for name, patients in (("patients", of), ("cases", {})):
        (summary,) = summarise(rows, patients=patients or None)
        for column in ("dice", "hd95_mm"):
            got = interval_of(scores[::-1], metric_of(column), patients)
            wanted = summary.metrics[column]
            assert (got.low, got.high) == (wanted.finite_low, wanted.finite_high)
            found[name, column] = got
    assert found["patients", "dice"] != found["cases", "dice"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label,name\n", "'status' is missing"),
        ("", r"found columns \(none\)"),
        ("case,label,name,status,dice\na,1,x,ok\n", "line 2: 4 fields, expected 5"),
        ("case,label,name,status,dice\na,one,x,ok,1\n", "line 2: label 'one'"),
    ],
)
def test_damaged_table_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=f"m.csv.*{message}"):
        parse_scores(text, "m.csv")


def test_axes_place_values():
    assert Axis(0.0, 1.0).place(0.25) == 25.0
    assert Axis(0.0, 1.0).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert metric_axis(metric_of("dice"), [0.63, 0.9, math.nan]) == Axis(0.6, 1.0)
    assert metric_axis(metric_of("dice"), [0.97]).low == 0.8
    assert metric_axis(metric_of("dice"), [0.0, 0.97]).low == 0.0
    axis = metric_axis(metric_of("hd95_mm"), [1.0, 7.3, math.inf, math.nan])
    assert axis.high == 8.0
    assert axis.place(8.0) == 88.0
    assert axis.place(math.inf) == 100.0
    assert metric_axis(metric_of("hd95_mm"), [0.0]).high == 1.0


@pytest.mark.parametrize("span", [0.013, 0.5, 1.0, 2.5, 6.0, 7.3, 9.99, 40.0, 123.0])
def test_ticks_are_few_and_round(span: float):
    axis = metric_axis(metric_of("hd95_mm"), [span])
    ticks = axis.ticks()
    assert 4 <= len(ticks) <= 8
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(axis.high)
    assert axis.high >= span
    assert f"{ticks[1]:.0e}"[0] in "125"


def test_many_cases_are_thinned_evenly_with_both_ends(scores_of):
    scores = scores_of(*(f"c{i:04d},1,x,ok,0.5,0,0,1,1,1" for i in range(1000)))
    kept = evenly(scores, 10)
    assert [s.case for s in kept] == [f"c{i:04d}" for i in range(0, 1000, 111)]
    assert evenly(scores, 1000) == scores

"""Summaries with NaN and infinite values worked out by hand."""

import json
import math

import pytest

from samtune.evaluation.metrics import MaskScores, worst_scores
from samtune.evaluation.regions import Region
from samtune.evaluation.summary import format_summary, summarise, summary_for_json, write_summary
from samtune.evaluation.table import Row

ONE, BOTH = Region("one", (1,)), Region("both", (1, 2))
NAN = math.nan


def scored(case, dice, hd95, region=ONE):
    return Row.from_scores(case, region, MaskScores("ok", dice, dice / 2, {1.0: dice}, hd95, 1, 1))


def empty(case):
    nothing = MaskScores("both_empty", NAN, NAN, {1.0: NAN}, NAN, 0, 0)
    return Row.from_scores(case, ONE, nothing)


def worst(case, status):
    return Row.from_scores(case, ONE, worst_scores(status, (1.0,)))


ROWS = [
    scored("a", 0.9, 1.0),
    empty("b"),
    scored("c", 0.6, 3.0),
    worst("d", "missing_pred"),
    worst("e", "failed"),
    worst("f", "pred_empty"),
]


def test_means_leave_out_nan_alone_and_count_everything():
    (summary,) = summarise(ROWS)
    assert (summary.label, summary.name) == ("1", "one")
    assert (summary.n, summary.n_nan, summary.n_inf) == (6, 1, 3)
    assert (summary.n_missing_pred, summary.n_failed) == (1, 1)
    assert summary.dice_mean == pytest.approx((0.9 + 0.6 + 0 + 0 + 0) / 5)
    assert summary.dice_median == 0
    assert summary.iou_mean == pytest.approx((0.45 + 0.3) / 5)
    assert summary.nsd_mean == {1.0: pytest.approx(0.3)}
    assert summary.hd95_mm_median == math.inf  # 1, 3, inf, inf, inf
    assert (summary.hd95_mm_mean_finite, summary.n_hd95_finite) == (2.0, 2)


def test_a_class_in_no_mask_has_no_mean():
    (summary,) = summarise([empty("a"), empty("b")])
    assert (summary.n, summary.n_nan, summary.n_inf, summary.n_hd95_finite) == (2, 2, 0, 0)
    assert math.isnan(summary.dice_mean)
    assert math.isnan(summary.hd95_mm_median)
    assert math.isnan(summary.hd95_mm_mean_finite)


def test_regions_stay_apart_in_the_order_of_the_rows():
    rows = [scored("a", 0.5, 1), scored("a", 0.7, 1, BOTH), scored("b", 0.7, 1)]
    assert [(row.name, row.n) for row in summarise(rows)] == [("one", 2), ("both", 1)]
    assert summarise([]) == []


def test_written_summary_and_its_columns(tmp_path):
    path = tmp_path / "metrics_summary.csv"
    write_summary(path, summarise([scored("a", 0.75, 1.0), worst("b", "failed")]))
    assert path.read_text() == (
        "label,name,n,n_nan,n_inf,n_missing_pred,n_failed,dice_mean,dice_median,iou_mean,"
        "nsd_1mm_mean,hd95_mm_median,hd95_mm_mean_finite,n_hd95_finite\n"
        "1,one,2,0,1,0,1,0.375,0.375,0.1875,0.375,inf,1.0,1\n"
    )
    with pytest.raises(ValueError, match="no rows"):
        write_summary(path, [])


def test_printed_summary_is_aligned():
    lines = format_summary(summarise([*ROWS, scored("a", 0.5, 12.5, BOTH)])).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:3] == ["1", "one", "6"]
    assert "inf" in lines[1]
    assert "12.500" in lines[2]
    assert format_summary([]) == ""


def test_json_knows_nan_as_null_and_inf_as_text():
    (summary,) = summary_for_json(summarise([empty("a"), worst("b", "failed"), empty("c")]))
    assert summary["hd95_mm_median"] == "inf"
    assert summary["hd95_mm_mean_finite"] is None
    assert json.loads(json.dumps(summary, allow_nan=False))["n_nan"] == 2

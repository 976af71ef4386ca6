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
    header, line = path.read_text().splitlines()
    assert header.startswith(
        "label,name,n,n_nan,n_inf,n_missing_pred,n_failed,dice_mean,dice_median,iou_mean,"
        "nsd_1mm_mean,hd95_mm_median,hd95_mm_mean_finite,n_hd95_finite,"
        "dice_n_nan,dice_ci_low,dice_ci_high,dice_q1,dice_q3,"
    )
    assert line.startswith("1,one,2,0,1,0,1,0.375,0.375,0.1875,0.375,inf,1.0,1,0,0.0,0.75,")
    assert len(header.split(",")) == len(set(header.split(","))) == len(line.split(","))
    with pytest.raises(ValueError, match="no rows"):
        write_summary(path, [])


def test_json_beside_it_is_nested_by_metric(tmp_path):
    rows = [scored("a", 0.75, 1.0), worst("b", "failed"), scored("c", 0.5, 1.0, BOTH)]
    write_summary(tmp_path / "s.csv", summarise(rows))
    written = json.loads((tmp_path / "s.json").read_text())
    one, both = written["classes"]
    assert (one["name"], both["name"]) == ("one", "both")
    assert one["dice"]["mean"] == 0.375
    assert one["hd95_mm"]["median"] == "inf"
    assert one["hd95_mm"]["mean_capped"] is None  # no diagonal is known
    assert (one["hd95_mm"]["n_inf"], one["n_failed"]) == (1, 1)
    assert "mean_capped" in written["statistics"]


def test_inf_in_three_ways_and_quartiles():
    """1, 3, 5 and inf: quartiles at places 0.75, 1.5 and 2.25 of 0 to 3."""
    rows = [scored(c, 0.5, h) for c, h in zip("abc", (1.0, 3.0, 5.0), strict=True)]
    rows.append(worst("d", "missing_pred"))
    hd95 = summarise(rows, diagonals={"d": 31.0})[0].metrics["hd95_mm"]
    assert (hd95.n, hd95.n_inf, hd95.n_finite) == (4, 1, 3)
    assert (hd95.q1, hd95.median, hd95.q3) == (2.5, 4.0, math.inf)
    assert hd95.mean_finite == 3.0
    assert hd95.mean_capped == 10.0
    assert hd95.capped_low <= 10.0 <= hd95.capped_high
    assert math.isnan(summarise(rows, diagonals={"a": 9.0})[0].metrics["hd95_mm"].mean_capped)
    without = summarise(rows[:3])[0].metrics["hd95_mm"]
    assert without.mean_capped == without.mean_finite  # nothing to replace


def test_order_of_the_cases_changes_nothing():
    assert summarise(ROWS, resamples=200) == summarise(ROWS[::-1], resamples=200)


def test_interval_is_by_patient_where_patients_are_known(rng):
    rows = [scored(f"c{i:02}", float(v), 1.0) for i, v in enumerate(rng.uniform(size=12))]
    copies = [scored(f"{row.case}_{k}", row.dice, 1.0) for row in rows for k in range(4)]
    patients = {row.case: row.case[:3] for row in copies}
    (alone,) = summarise(rows, resamples=300)
    (joined,) = summarise(copies, patients=patients, resamples=300)
    assert (joined.n, joined.num_patients, alone.num_patients) == (48, 12, None)
    for end in ("finite_low", "finite_high"):
        found = getattr(joined.metrics["dice"], end)
        assert found == pytest.approx(getattr(alone.metrics["dice"], end))


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

"""Comparing tables: what is refused, what depends on order, ranking and the table of a paper."""

import json
import math

import numpy as np
import pytest

from samtune.evaluation.comparison import ComparisonSettings, check_comparable, compare_tables
from samtune.evaluation.comparison_files import write_comparison
from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.performance import macro_mean, measure_performance
from samtune.evaluation.pick_cases import pick_cases
from samtune.evaluation.ranking import rank_cases, rank_methods
from samtune.evaluation.score_table import read_score_table

HEADER = "case,label,name,status,dice,iou,nsd_1mm,hd95_mm,volume_ref_ml,volume_pred_ml"
QUICK = ComparisonSettings(resamples=200, ranking_resamples=200)


def write_table(path, dices, *, hd95=None, companion=None, statuses=None):
    """``dices``: case -> one value a class; NaN is written as a class in neither mask."""
    lines = [HEADER]
    for case, values in dices.items():
        for number, dice in enumerate(values, start=1):
            status = (statuses or {}).get((case, number), "ok" if dice == dice else "both_empty")
            distance = (hd95 or {}).get((case, number), math.nan if dice != dice else 10 - 9 * dice)
            lines.append(
                f"{case},{number},class_{number},{status},{dice!r},{dice / (2 - dice)!r},"
                f"{dice!r},{distance!r},1.0,1.0"
            )
    path.write_text("\n".join(lines) + "\n")
    if companion is not None:
        path.with_suffix(".json").write_text(json.dumps(companion))
    return read_score_table(path, path.stem)


@pytest.fixture
def three(tmp_path, rng):
    """Method b is better than a throughout, c is a with noise."""
    base = rng.uniform(0.3, 0.8, size=(10, 2))
    noise = rng.normal(scale=0.05, size=(10, 2))
    tables = {}
    for name, values in (
        ("a", base),
        ("b", base + np.linspace(0.05, 0.15, 10)[:, None]),
        ("c", base + noise),
    ):
        dices = {f"case_{i}": values[i].tolist() for i in range(10)}
        tables[name] = write_table(tmp_path / f"{name}.csv", dices)
    return tables


def test_every_pair_class_and_metric_is_tested_and_corrected_together(three):
    found = compare_tables(list(three.values()), settings=QUICK)
    assert len(found.pairs) == 3 * 2 * 4 == found.num_tests
    assert {row.metric for row in found.pairs} == {"dice", "iou", "nsd_1mm", "hd95_mm"}
    smallest = min(row.result.p for row in found.pairs)
    assert min(row.result.p_holm for row in found.pairs) == pytest.approx(24 * smallest)
    (row,) = (
        r
        for r in found.pairs
        if (r.name, r.metric, r.method_a, r.method_b) == ("class_1", "dice", "a", "b")
    )
    assert row.result.mean_difference == pytest.approx(0.1)
    assert row.result.wins_b == 10
    (distance,) = (
        r
        for r in found.pairs
        if (r.name, r.metric, r.method_a, r.method_b) == ("class_1", "hd95_mm", "a", "b")
    )
    assert distance.result.mean_difference == pytest.approx(-0.9)
    assert (distance.result.better, distance.higher_is_better) == (1, False)


def test_fewer_metrics_are_fewer_tests(three):
    settings = ComparisonSettings(metrics=("dice",), resamples=200, ranking_resamples=50)
    found = compare_tables(list(three.values()), settings=settings)
    assert found.num_tests == 6
    assert "iou" in found.performance[0].macro  # a table of results shows it all the same
    with pytest.raises(ValueError, match="metric 'f1' is not in every table; they share dice, iou"):
        compare_tables(list(three.values()), settings=ComparisonSettings(metrics=("f1",)))


def test_order_of_rows_changes_not_a_byte(three, tmp_path):
    def outputs(tables, name):
        found = compare_tables(tables, settings=QUICK)
        files = write_comparison(found, tmp_path / name)
        return [path.read_bytes() for path in files if path.suffix == ".csv"]

    before = outputs(list(three.values()), "before")
    for table in three.values():
        header, *lines = table.path.read_text().splitlines()
        by_class = [line for k in (0, 1) for line in lines[k::2][::-1]]
        table.path.write_text("\n".join([header, *by_class]) + "\n")
    again = [read_score_table(table.path, table.method) for table in three.values()]
    assert outputs(again, "after") == before


def test_order_of_tables_changes_signs_alone(three):
    forth = compare_tables(list(three.values()), settings=QUICK)
    back = compare_tables(list(three.values())[::-1], settings=QUICK)
    mirrored = {(r.name, r.metric, r.method_b, r.method_a): r.result for r in back.pairs}
    for row in forth.pairs:
        other = mirrored[row.name, row.metric, row.method_a, row.method_b]
        assert (row.result.p, row.result.p_holm) == (other.p, other.p_holm)
        assert row.result.mean_difference == pytest.approx(-other.mean_difference)
        assert row.result.low == pytest.approx(-other.high)
    assert forth.ranking == back.ranking
    assert sorted(forth.performance, key=lambda p: p.method) == sorted(
        back.performance, key=lambda p: p.method
    )


def test_identical_tables_differ_in_nothing(three, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(three["a"].path.read_bytes())
    found = compare_tables([three["a"], read_score_table(copy, "copy")], settings=QUICK)
    for row in found.pairs:
        assert (row.result.p, row.result.p_holm) == (1.0, 1.0)
        assert (row.result.mean_difference, row.result.low, row.result.high) == (0, 0, 0)
    assert {(row.rank, row.mean_rank) for row in found.ranking} == {(1.5, 1.5)}


def test_other_cases_classes_names_and_definitions_are_refused(tmp_path):
    def settings(version):
        return {"settings": {"definition_version": version}}

    first = write_table(
        tmp_path / "a.csv", {"x": [0.5], "y": [0.5], "z": [0.1]}, companion=settings(1)
    )
    other = write_table(tmp_path / "b.csv", {"x": [0.5], "w": [0.5], "v": [0.2]})
    with pytest.raises(
        ValueError,
        match=r"a\.csv and .*b\.csv have other cases: the first alone has y, z; the se"
        r"cond alone has v, w",
    ):
        check_comparable([first, other])
    more = write_table(tmp_path / "c.csv", {c: [0.5, 0.6] for c in "xyz"})
    with pytest.raises(ValueError, match="other classes: the second alone has 2:class_2"):
        check_comparable([first, more])
    again = write_table(tmp_path / "d.csv", {c: [0.5] for c in "xyz"}, companion=settings(2))
    with pytest.raises(ValueError, match="have other definition_versions, 1 and 2"):
        check_comparable([first, again])
    with pytest.raises(ValueError, match="two tables are called 'a'"):
        check_comparable([first, first])
    with pytest.raises(ValueError, match=r"1 table\(s\) to compare"):
        check_comparable([first])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"found columns \(none\); 'case' is missing"),
        ("case,label,name,dice\n", "'status' is missing"),
        ("case,label,name,status,dice\n", "no rows"),
        ("case,label,name,status,dice\na,1,x,ok\n", "line 2: 4 fields, expected 5"),
        ("case,label,name,status,dice\na,1,x,ok,good\n", "line 2: dice is 'good'"),
        ("case,label,name,status,dice\na,1,x,ok,1\na,1,x,ok,1\n", "line 3: case 'a', class 'x' is"),
        ("case,label,name,status,dice\na,1,x,ok,1\nb,2,y,ok,1\n", "case 'a' has no row of class"),
    ],
)
def test_bad_table_is_refused_by_line(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_score_table(tmp_path / "t.csv", "t")


def test_empty_fields_were_not_asked_for(tmp_path):
    text = "case,label,name,status,dice,cldice\na,1,x,ok,0.5,0.25\na,2,y,ok,0.75,\n"
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(text)
    tables = [read_score_table(tmp_path / f"{name}.csv", name) for name in "ab"]
    assert set(tables[0].scores["2", "y"]) == {"dice"}
    found = compare_tables(tables, settings=QUICK)
    assert [(r.name, r.metric) for r in found.pairs] == [
        ("x", "dice"),
        ("x", "cldice"),
        ("y", "dice"),
    ]
    assert found.performance[0].macro["cldice"].mean == 0.25


def test_ranks_within_cases_by_hand():
    values = np.array([[0.9, 0.5, 0.9], [0.1, 0.2, 0.3], [np.nan, 0.2, 0.3]])
    ranks = rank_cases(values, metric_kind("dice"))
    assert ranks[:2].tolist() == [[1.5, 3, 1.5], [3, 2, 1]]
    assert np.isnan(ranks[2]).all()
    distances = np.array([[np.inf, 2.0, np.inf]])
    assert rank_cases(distances, metric_kind("hd95_mm")).tolist() == [[2.5, 1, 2.5]]


def test_ranking_is_by_mean_rank_and_stable_where_it_should_be(three):
    rows = rank_methods(list(three.values()), ["dice"], resamples=200)
    assert [row.name for row in rows[::3]] == ["class_1", "class_2", "all"]
    overall = {row.method: row for row in rows[6:]}
    assert overall["b"].rank == 1.0
    assert overall["b"].share_first > 0.95
    assert overall["b"].rank_high == 1.0
    # places of the three add up to 6 in every case
    assert sum(row.mean_rank for row in overall.values()) == pytest.approx(6)
    assert overall["b"].rank_of_mean == 1.0


def test_ranking_of_coins_is_not_stable(tmp_path, rng):
    cases = [f"c{i:02}" for i in range(20)]
    tables = [
        write_table(tmp_path / f"{name}.csv", {c: [float(rng.uniform())] for c in cases})
        for name in "ab"
    ]
    rows = rank_methods(tables, ["dice"], resamples=500)
    assert (rows[0].rank_low, rows[0].rank_high) == (1.0, 2.0)
    assert rows[0].share_same_rank < 0.995


def test_a_false_positive_ranks_below_a_class_rightly_left_out(tmp_path):
    right = write_table(tmp_path / "right.csv", {"x": [math.nan], "y": [0.5]})
    wrong = write_table(
        tmp_path / "wrong.csv",
        {"x": [0.0], "y": [0.5]},
        statuses={("x", 1): "ref_empty"},
        hd95={("x", 1): math.inf},
    )
    for row in rank_methods([wrong, right], ["dice", "hd95_mm"], resamples=20):
        assert row.mean_rank == (1.25 if row.method == "right" else 1.75)
        assert (row.n, row.n_left_out) == (2, 0)


def test_a_class_in_no_mask_is_left_out_of_the_overall_rank(tmp_path):
    dices = {"x": [0.5, math.nan], "y": [0.6, math.nan]}
    worse = write_table(tmp_path / "worse.csv", dices)
    better = write_table(tmp_path / "better.csv", {"x": [0.7, math.nan], "y": [0.8, math.nan]})
    rows = rank_methods([worse, better], ["dice"], resamples=20)
    overall = {row.method: row for row in rows if row.name == "all"}
    assert (overall["better"].rank, overall["worse"].rank) == (1.0, 2.0)
    assert overall["better"].rank_of_mean == 1.0
    assert (overall["better"].n, overall["better"].share_first) == (2, 1.0)
    nowhere = [row for row in rows if row.name == "class_2"]
    assert all(math.isnan(row.rank) and row.n == 0 for row in nowhere)


def test_macro_mean_by_hand():
    """Class means 0.5 and 0.8; the third class is in no mask."""
    values = np.array([[0.4, 0.8, np.nan], [0.6, np.nan, np.nan]])
    found = macro_mean(values, resamples=100)
    assert found.mean == pytest.approx(0.65)
    assert (found.n_nan, found.n_inf) == (3, 0)
    assert found.low <= 0.65 <= found.high
    assert math.isnan(macro_mean(np.full((3, 1), np.nan)).mean)


def test_means_over_classes_leave_out_unions(tmp_path):
    text = "case,label,name,status,dice\n" + "".join(
        f"{case},{label},{name},ok,{dice}\n"
        for case in "ab"
        for label, name, dice in ((1, "x", 0.25), (2, "y", 0.75), ("1+2", "whole", 1.0))
    )
    (tmp_path / "t.csv").write_text(text)
    found = measure_performance(read_score_table(tmp_path / "t.csv", "t"), ["dice"], resamples=50)
    assert found.macro["dice"].mean == 0.5
    assert found.classes["1+2", "whole"]["dice"].mean_finite == 1.0


def test_patients_widen_the_intervals_of_copied_cases(tmp_path, rng):
    dices = {f"p{i:02}_{k}": [float(v)] for i, v in enumerate(rng.uniform(size=10)) for k in "abc"}
    tables = [
        write_table(tmp_path / "a.csv", dices),
        write_table(tmp_path / "b.csv", {c: [min(1.0, v[0] ** 0.5)] for c, v in dices.items()}),
    ]
    alone = compare_tables(tables, settings=QUICK)
    patients = [case.split("_")[0] for case in alone.cases]
    joined = compare_tables(tables, patients=patients, settings=QUICK)
    first, second = alone.pairs[0].result, joined.pairs[0].result
    assert second.num_units == 10
    assert second.mean_difference == pytest.approx(first.mean_difference)
    assert second.high - second.low > 1.4 * (first.high - first.low)  # sqrt 3 in the limit
    assert second.p == pytest.approx(2 / 2**10)


def test_files_hold_what_was_found(three, tmp_path):
    companion = {"protocol": {"prompt": "oracle_box"}, "settings": {"definition_version": 1}}
    three["a"].path.with_suffix(".json").write_text(json.dumps(companion))
    tables = [read_score_table(three[name].path, name) for name in "ab"]
    assert (tables[0].protocol, tables[1].protocol) == ("oracle_box", "")
    found = compare_tables(tables, settings=QUICK)
    files = write_comparison(found, tmp_path / "out", notes={"grid": {"cases": {}}})
    assert {path.name for path in files} == {
        "comparison.csv",
        "ranking.csv",
        "performance.csv",
        "summary.csv",
        "comparison.json",
    }
    lines = (tmp_path / "out" / "performance.csv").read_text().splitlines()
    assert lines[0].startswith("Method,Mean_IoU,Mean_Dice,n,Protocol,")
    method, iou, dice, n, protocol, *_ = lines[1].split(",")
    assert (method, n, protocol) == ("a", "10", "oracle_box")
    values = np.stack([tables[0].scores[key]["dice"] for key in tables[0].classes])
    assert float(dice) == pytest.approx(values.mean())
    assert float(iou) == pytest.approx((values / (2 - values)).mean())
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["num_tests"] == 8
    assert written["settings"]["resamples"] == 200
    assert len(written["comparison"]) == 8
    assert written["grid"] == {"cases": {}}
    assert written["tables"][0]["protocol_details"] == {"prompt": "oracle_box"}
    assert written["remarks"] == [
        f"{tables[1].path}: no companion JSON, so its definitions aren't checked"
    ]
    columns = (tmp_path / "out" / "comparison.csv").read_text().splitlines()[0].split(",")
    for name in ("p_holm", "rank_biserial", "mean_difference", "n_correct_empty_a"):
        assert name in columns
        assert any(name in key.split(", ") for key in written["definitions"])


def test_diagonals_replace_inf_where_they_are_known(tmp_path):
    table = write_table(
        tmp_path / "a.csv",
        {"x": [0.5], "y": [0.0]},
        hd95={("x", 1): 4.0, ("y", 1): math.inf},
        companion={"diagonals": {"x": 50.0, "y": 60.0}},
    )
    found = measure_performance(table, ["hd95_mm"], resamples=50).classes["1", "class_1"]
    assert found["hd95_mm"].mean_capped == 32.0
    assert found["hd95_mm"].median == math.inf


def test_worst_median_and_best_case(tmp_path):
    dices = {"v": [0.5], "w": [0.1], "x": [0.9], "y": [math.nan], "z": [0.3]}
    a = write_table(tmp_path / "a.csv", dices)
    b = write_table(tmp_path / "b.csv", {**dices, "w": [0.9]})  # mean 0.5, as v
    # z 0.3, v 0.5, w 0.5, x 0.9: the lower middle of four is the second
    assert pick_cases([a, b]) == pick_cases([b, a]) == {"worst": "z", "median": "v", "best": "x"}
    one = write_table(tmp_path / "one.csv", {"x": [0.5], "y": [math.nan]})
    assert pick_cases([one]) == {"worst": "x"}
    none = write_table(tmp_path / "none.csv", {"x": [math.nan]})
    with pytest.raises(ValueError, match="no case has a dice"):
        pick_cases([none])

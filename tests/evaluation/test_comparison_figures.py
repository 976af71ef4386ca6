"""The figures of a comparison: that they are drawn, say the right numbers and are reproducible."""

import numpy as np
import pytest

from samtune.evaluation.comparison import ComparisonSettings, compare_tables
from samtune.evaluation.comparison_figures import case_order, draw_comparison
from samtune.evaluation.score_table import read_score_table

pytest.importorskip("matplotlib")


@pytest.fixture
def comparison(tmp_path):
    """Two methods, one class of a sole NaN case and one of infinite distances."""
    for name, shift in (("zero-shot", 0.0), ("LoRA", 0.25)):
        lines = ["case,label,name,status,dice,hd95_mm"]
        for case, dice in (("p", 0.25), ("q", 0.5), ("r", 0.75)):
            lines.append(f"{case},1,organ,ok,{dice + shift},2")
            lines.append(f"{case},2,lesion,pred_empty,0,inf")
        lines[2] = "p,2,lesion,both_empty,nan,nan"
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    tables = [read_score_table(tmp_path / f"{n}.csv", n) for n in ("zero-shot", "LoRA")]
    settings = ComparisonSettings(resamples=50, ranking_resamples=20)
    return compare_tables(tables, settings=settings)


def test_figures_hold_values_and_names_and_are_the_same_twice(comparison, tmp_path):
    files = draw_comparison(comparison, tmp_path / "one")
    assert sorted(path.name for path in files) == sorted(
        f"{name}.{suffix}" for name in ("performance", "cases") for suffix in ("png", "svg", "pdf")
    )
    svg = (tmp_path / "one" / "performance.svg").read_text()
    for text in ("0.500", "0.750", "zero-shot", "LoRA", "organ", "mean of classes", "n = 3 cases"):
        assert text in svg
    cases = (tmp_path / "one" / "cases.svg").read_text()
    assert "lesion (2 nan or inf not drawn)" in cases
    again = draw_comparison(comparison, tmp_path / "two")
    for path, other in zip(files, again, strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name


def test_cases_stand_from_worst_to_best_and_nan_last(comparison):
    first = comparison.tables[0]
    key = first.classes[0]
    assert [first.cases[i] for i in case_order(comparison.tables, key, "dice")] == ["p", "q", "r"]
    order = case_order(comparison.tables, first.classes[1], "dice")
    assert first.cases[order[-1]] == "p"
    assert np.isnan(first.scores[first.classes[1]]["dice"][order[-1]])

"""The growing table: kills, resumes, other settings, changed files."""

import json
import signal

import pytest

from samtune.evaluation.metrics import MaskScores, worst_scores
from samtune.evaluation.metrics_csv import MetricsCsv
from samtune.evaluation.regions import Region
from samtune.evaluation.table import Row, read_metrics

REGIONS = (Region("anterior", (1,)), Region("whole", (1, 2)))
INPUTS = {"a": "1", "b": "2", "c": "3"}


def rows(case, *, status="ok"):
    scores = MaskScores("ok", 1 / 3, 0.2, {1.0: 0.7}, 2.5, 1.0, 2.0, 0.5, 0.25, 0.75)
    return [
        Row.from_scores(case, region, scores if status == "ok" else worst_scores(status, (1.0,)))
        for region in REGIONS
    ]


def open_table(path, **changes):
    options = {"regions": REGIONS, "settings": {"pred": "run_1"}, "inputs": INPUTS}
    return MetricsCsv(path, **{**options, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "metrics.csv"


@pytest.fixture
def whole(tmp_path):
    """Bytes of the table that an undisturbed run gives."""
    table = open_table(tmp_path / "undisturbed.csv")
    for case in "abc":
        table.add(rows(case))
    table.finish()
    return table.path.read_bytes()


def resume(path):
    table = open_table(path)
    for case in sorted(INPUTS.keys() - table.finished):
        table.add(rows(case))
    table.finish()
    return table


def test_a_finished_case_is_in_the_file_at_once(path):
    table = open_table(path)
    assert read_metrics(path) == []
    table.add(rows("b"))
    assert read_metrics(path) == rows("b")


def test_cases_are_sorted_at_the_end_whatever_finished_first(path, whole):
    table = open_table(path)
    for case in "cab":
        table.add(rows(case))
    assert [row.case for row in table.finish()] == list("aabbcc")
    assert path.read_bytes() == whole


def test_a_kill_at_any_byte_is_made_good(path, whole):
    table = open_table(path)
    for case in "cab":
        table.add(rows(case))
    lines = path.read_bytes().splitlines(keepends=True)
    ends = {case: len(b"".join(lines[: 3 + 2 * index])) for index, case in enumerate("cab")}
    for length in range(len(lines[0]), len(b"".join(lines)) + 1):
        path.write_bytes(b"".join(lines)[:length])
        assert resume(path).finished == {case for case in "cab" if ends[case] <= length}
        assert path.read_bytes() == whole


def test_a_whole_case_is_kept_and_half_a_case_is_not(path):
    table = open_table(path)
    table.add(rows("a"))
    table.add(rows("b"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert open_table(path).finished == {"a"}
    assert read_metrics(path) == rows("a")


def test_failed_and_missing_cases_are_tried_again(path):
    table = open_table(path)
    table.add(rows("a"))
    table.add(rows("b", status="failed"), reason="b.nii.gz: truncated")
    table.add(rows("c", status="missing_pred"))
    assert json.loads(table.companion.read_text())["failures"] == {"b": "b.nii.gz: truncated"}
    table.finish()
    again = open_table(path)
    assert again.finished == {"a"}
    assert json.loads(again.companion.read_text())["failures"] == {}


def test_a_case_of_changed_or_removed_files_is_scored_again(path):
    resume(path)
    assert open_table(path, inputs={"a": "1", "b": "changed"}).finished == {"a"}


def test_without_fingerprints_every_scored_case_is_kept(path):
    table = open_table(path, inputs=None)
    table.add(rows("a"))
    assert open_table(path, inputs=None).finished == {"a"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"settings": {"pred": "run_2"}}, "its pred is run_1, now run_2"),
        ({"settings": {}}, "its pred is run_1, now None"),
        ({"tolerances_mm": (2,)}, r"its tolerances_mm is \[1.0\], now \[2.0\]"),
        ({"regions": REGIONS[::-1]}, "its regions is"),
    ],
)
def test_another_evaluation_is_never_overwritten_without_force(path, changes, found):
    table = resume(path)
    before = path.read_bytes(), table.companion.read_bytes()
    with pytest.raises(FileExistsError, match=found):
        open_table(path, **changes)
    assert (path.read_bytes(), table.companion.read_bytes()) == before
    assert open_table(path, **changes, force=True).finished == frozenset()
    assert read_metrics(path) == []


def test_a_table_without_companion_is_never_overwritten_without_force(path):
    table = resume(path)
    table.companion.unlink()
    with pytest.raises(FileExistsError, match=r"not metrics\.json.*--force"):
        open_table(path)
    assert open_table(path, force=True).finished == frozenset()


def test_foreign_files_are_refused(path):
    table = resume(path)
    path.write_text("case,dice\na,1\n")
    with pytest.raises(ValueError, match="found columns case,dice, expected case,label"):
        open_table(path)
    for text, found in (("{", "not JSON"), ("[]", "no 'settings'")):
        table.companion.write_text(text)
        with pytest.raises(ValueError, match=found):
            open_table(path)


def test_companion_says_what_the_numbers_mean(path):
    table = open_table(path, notes={"labels_from": "arguments"})
    assert json.loads(table.companion.read_text())["complete"] is False
    table.add(rows("a"))
    table.finish()
    companion = json.loads(table.companion.read_text())
    assert companion["complete"] is True
    assert companion["format_version"] == 1
    assert companion["labels_from"] == "arguments"
    assert companion["settings"] == {
        "pred": "run_1",
        "regions": {"anterior": "1", "whole": "1+2"},
        "tolerances_mm": [1.0],
        "definition": "surface-distance",
        "definition_version": 2,
    }
    assert {"spacing", "nsd", "hd95", "assd", "missing_pred", "text"} <= companion[
        "definitions"
    ].keys()
    assert {"samtune", "numpy", "scipy"} <= companion["versions"].keys()


@pytest.mark.parametrize(
    "wrong", [[], rows("a")[:1], rows("a")[::-1], [rows("a")[0], rows("b")[1]]]
)
def test_only_whole_cases_are_added(path, wrong):
    table = open_table(path)
    with pytest.raises(ValueError, match="expected one case with"):
        table.add(wrong)
    table.add(rows("a"))
    with pytest.raises(ValueError, match="case 'a' is there already"):
        table.add(rows("a"))


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        open_table(tmp_path / "metrics.json")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_loses_no_finished_case(path, whole):
    resource = pytest.importorskip("resource", reason="file size limits are Unix only")
    table = open_table(path)
    table.add(rows("a"))
    table.add(rows("b"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, hard))
    try:
        with pytest.raises(OSError, match=r"metrics\.csv"):
            table.add(rows("c"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert resume(path).finished == {"a", "b"}
    assert path.read_bytes() == whole

"""Two folders of volumes: numbers, bad files, resuming, processes."""

import json
import math
import re
import tracemalloc

import numpy as np
import pytest

from samtune.evaluation.evaluate_folders import evaluate_folders
from samtune.evaluation.regions import Region, regions_from_config
from samtune.evaluation.score_case import score_case
from samtune.evaluation.table import format_rows, read_metrics

REGIONS = regions_from_config({1: "front", 2: "back"}, {"whole": "1+2"})
CASES = [f"case_{number}" for number in range(4)]


def evaluate(folders, **changes):
    return evaluate_folders(
        folders.pred, folders.ref, folders.out, **{"regions": REGIONS, **changes}
    )


def status(report, case):
    (found,) = {row.status for row in report.rows if row.case == case}
    return found


def label(case):
    """What conftest wrote for the case, by its own rule."""
    number = int(case[-1])
    array = np.zeros((12, 10, 8), dtype=np.uint8)
    array[2 : 5 + number % 3, 2:7, 2:6] = 1
    array[5 + number % 3 : 10, 2:7, 2:6] = 2
    return array


def test_rows_are_those_of_the_arrays_in_the_files_spacing(folders):
    report = evaluate(folders, tolerances_mm=(1, 2))
    expected = [
        row
        for case in CASES
        for row in score_case(
            case, np.roll(label(case), 1, axis=0), label(case), (1, 1, 2), REGIONS, (1.0, 2.0)
        )
    ]
    assert report.rows == expected == read_metrics(folders.out)
    assert report.is_complete
    assert [(row.case, row.name) for row in report.rows[:4]] == [
        ("case_0", "front"),
        ("case_0", "back"),
        ("case_0", "whole"),
        ("case_1", "front"),
    ]
    assert report.rows[0].volume_ref_ml == 3 * 5 * 4 * 2 / 1000


def test_table_companion_and_summary_lie_side_by_side(folders):
    report = evaluate(folders)
    assert {path.name for path in folders.out.parent.iterdir()} == {
        "metrics.csv",
        "metrics.json",
        "metrics_summary.csv",
        "metrics_summary.json",
    }
    assert report.summary_out.read_text().splitlines()[0].startswith("label,name,n,n_nan,n_inf")
    assert [(row.name, row.n) for row in report.summary] == [
        ("front", 4),
        ("back", 4),
        ("whole", 4),
    ]
    companion = json.loads(report.companion.read_text())
    assert companion["complete"]
    assert companion["settings"]["pred"] == str(folders.pred.resolve())


def test_a_missing_prediction_counts_as_the_worst_and_is_reported(folders):
    (folders.pred / "case_1.nii.gz").unlink()
    report = evaluate(folders)
    assert report.missing == ["case_1"]
    assert not report.is_complete
    assert status(report, "case_1") == "missing_pred"
    assert [row.n_missing_pred for row in report.summary] == [1, 1, 1]
    assert json.loads(report.companion.read_text())["missing_predictions"] == ["case_1"]


def test_an_extra_prediction_is_reported_and_not_scored(folders):
    folders.write_pred("case_9", label("case_0"))
    report = evaluate(folders)
    assert report.extra == ["case_9"]
    assert report.is_complete
    assert {row.case for row in report.rows} == set(CASES)
    assert json.loads(report.companion.read_text())["predictions_without_reference"] == ["case_9"]


def shape_mismatch(folders):
    folders.write_pred("case_2", label("case_2")[1:])


def affine_mismatch(folders):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = 2e-3
    folders.write_pred("case_2", label("case_2"), affine)


def unlisted_label(folders):
    pred = label("case_2")
    pred[0, 0, 0] = 3
    folders.write_pred("case_2", pred)


def probabilities(folders):
    folders.write_pred("case_2", label("case_2").astype(np.float32) * 0.75)


def truncated(folders):
    path = folders.pred / "case_2.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def no_volume_at_all(folders):
    (folders.pred / "case_2.nii.gz").write_bytes(b"")


def truncated_reference(folders):
    path = folders.ref / "case_2.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (shape_mismatch, ["case_2.nii.gz", "(11, 10, 8)", "(12, 10, 8)"]),
        (affine_mismatch, ["case_2.nii.gz", "affine", "0.002", "0.001"]),
        (unlisted_label, ["case_2", "prediction has label 3", "1, 2"]),
        (probabilities, ["case_2.nii.gz", "0.75", "whole number"]),
        (truncated, ["pred/case_2.nii.gz", "not a complete NIfTI file"]),
        (no_volume_at_all, ["pred/case_2.nii.gz", "NIfTI"]),
        (truncated_reference, ["ref/case_2.nii.gz", "not a complete NIfTI file"]),
    ],
)
def test_a_bad_case_fails_alone_with_its_reason(folders, damage, found):
    good = evaluate(folders)
    damage(folders)
    report = evaluate(folders, force=True)
    assert list(report.failures) == ["case_2"]
    assert all(text in report.failures["case_2"] for text in found), report.failures
    assert "\n" not in report.failures["case_2"]
    assert json.loads(report.companion.read_text())["failures"] == report.failures
    assert not report.is_complete
    assert [row for row in report.rows if row.case != "case_2"] == [
        row for row in good.rows if row.case != "case_2"
    ]
    bad = [row for row in report.rows if row.case == "case_2"]
    assert [row.status for row in bad] == ["failed"] * 3
    assert all(row.dice == row.nsd[1.0] == 0 and row.hd95_mm == math.inf for row in bad)


def test_an_affine_within_the_tolerance_is_the_same_grid(folders):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = 5e-4
    folders.write_pred("case_2", np.roll(label("case_2"), 1, axis=0), affine)
    assert evaluate(folders).is_complete


def test_whole_numbers_stored_as_floats_are_labels(folders):
    folders.write_pred("case_2", label("case_2").astype(np.float32))
    report = evaluate(folders)
    assert {row.dice for row in report.rows if row.case == "case_2"} == {1.0}


def test_without_regions_the_labels_are_those_of_all_references(folders):
    single = label("case_0")
    single[single == 2] = 0
    folders.write_ref("case_0", single)
    report = evaluate(folders, regions=None)
    assert report.labels_found
    assert [(region.name, region.label) for region in report.regions] == [
        ("label_1", "1"),
        ("label_2", "2"),
    ]
    assert [row.status for row in report.rows if row.case == "case_0"] == ["ok", "ref_empty"]


def test_without_regions_a_label_of_a_prediction_alone_is_an_error(folders):
    unlisted_label(folders)
    assert list(evaluate(folders, regions=None).failures) == ["case_2"]


def test_references_without_any_label_need_regions(folders):
    for case in CASES:
        folders.write_ref(case, np.zeros((12, 10, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="no label in any of 4 reference files"):
        evaluate(folders, regions=None)
    assert not folders.out.exists()
    assert {row.status for row in evaluate(folders).rows} == {"ref_empty"}


def test_folders_without_volumes_or_common_names_write_nothing(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    for pred, found in ((tmp_path / "empty", r"empty: .*\.nii"), (tmp_path / "none", "none: ")):
        with pytest.raises(FileNotFoundError, match=found):
            evaluate_folders(pred, folders.ref, folders.out)
    for path in sorted(folders.pred.iterdir()):
        path.rename(path.with_name("pred_" + path.name))
    with pytest.raises(ValueError, match=r"no prediction has the name.*pred_case_0.*case_0"):
        evaluate(folders)
    assert not folders.out.parent.exists()


def test_processes_give_the_same_bytes(folders, tmp_path):
    evaluate(folders, tolerances_mm=(1, 2))
    alone = [path.read_bytes() for path in sorted(folders.out.parent.iterdir())]
    evaluate(folders, tolerances_mm=(1, 2), workers=2, force=True)
    assert [path.read_bytes() for path in sorted(folders.out.parent.iterdir())] == alone


def test_a_dask_cluster_gives_the_same_bytes(folders, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="extra 'cluster' is not installed")
    evaluate(folders)
    alone = [path.read_bytes() for path in sorted(folders.out.parent.iterdir())]
    monkeypatch.chdir(folders.ref.parent)  # folders may be given relative to here
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        evaluate_folders(
            "pred",
            "ref",
            folders.out,
            regions=REGIONS,
            scheduler="dask",
            address=cluster.scheduler_address,
            force=True,
        )
    assert [path.read_bytes() for path in sorted(folders.out.parent.iterdir())] == alone


def test_memory_is_that_of_one_case(tmp_path, write_pair):
    peaks = {}
    for number in (1, 6):
        folder = tmp_path / str(number)
        for case in range(number):
            write_pair(folder, f"c{case}", (96, 96, 48))
        tracemalloc.start()
        evaluate_folders(folder / "pred", folder / "ref", folder / "m.csv", regions=REGIONS[:1])
        peaks[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[1] > 2 * 96 * 96 * 48  # both arrays are counted
    assert peaks[6] < 1.2 * peaks[1]


def test_a_killed_run_goes_on_where_it_stopped(folders):
    evaluate(folders)
    whole = folders.out.read_bytes()
    lines = whole.splitlines(keepends=True)
    folders.out.write_bytes(b"".join([*lines[:6], lines[6][:20]]))  # case_1 lacks a row and a half
    report = evaluate(folders)
    assert report.num_kept == 1
    assert folders.out.read_bytes() == whole


def test_a_scored_case_is_kept_and_not_scored_again(folders):
    evaluate(folders)
    marked = re.sub("(case_3,1,front,ok),[^,]+", r"\1,0.125", folders.out.read_text())
    assert marked != folders.out.read_text()
    folders.out.write_text(marked)
    assert evaluate(folders).num_kept == 4
    assert folders.out.read_text() == marked


def test_a_prediction_made_anew_is_scored_anew(folders):
    evaluate(folders)
    folders.write_pred("case_3", label("case_3"))
    report = evaluate(folders)
    assert report.num_kept == 3
    assert {row.dice for row in report.rows if row.case == "case_3"} == {1.0}


def test_a_repaired_case_is_scored_at_the_next_run(folders):
    whole = format_rows(evaluate(folders).rows, (1.0,))
    truncated(folders)
    (folders.pred / "case_1.nii.gz").unlink()
    assert not evaluate(folders).is_complete
    for case in ("case_1", "case_2"):
        folders.write_pred(case, np.roll(label(case), 1, axis=0))
    report = evaluate(folders)
    assert report.is_complete
    assert report.num_kept == 2
    assert format_rows(report.rows, (1.0,)) == whole


def test_another_evaluation_in_the_same_file_is_refused(folders):
    evaluate(folders)
    before = folders.out.read_bytes()
    with pytest.raises(FileExistsError, match=r"its tolerances_mm is \[1.0\], now \[3.0\]"):
        evaluate(folders, tolerances_mm=(3,))
    with pytest.raises(FileExistsError, match="its regions is"):
        evaluate(folders, regions=[Region("whole", (1, 2))])
    with pytest.raises(FileExistsError, match="its pred is"):
        evaluate_folders(folders.ref, folders.ref, folders.out, regions=REGIONS)
    assert folders.out.read_bytes() == before
    assert evaluate(folders, tolerances_mm=(3,), force=True).num_kept == 0


def test_wrong_workers_are_refused(folders):
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        evaluate(folders, workers=0)
    with pytest.raises(ValueError, match="scheduler dask and the address of a Dask scheduler"):
        evaluate(folders, scheduler="dask")

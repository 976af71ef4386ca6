"""The finite worst distance of a case."""

import json
import math

import numpy as np
import pytest

from samtune.evaluation.diagonals import grid_diagonal
from samtune.evaluation.evaluate_folders import evaluate_folders
from samtune.evaluation.score_table import read_score_table


def test_diagonal_by_hand():
    assert grid_diagonal((3, 4), (1.0, 1.0)) == 5.0
    assert grid_diagonal((3, 4, 6), (1.0, 1.0, 2.0)) == 13.0
    assert grid_diagonal((3, 4), None) == 5.0


def test_evaluation_caps_the_infinite_distances(folders):
    """12 x 10 x 8 voxels of 1 x 1 x 2 mm, one prediction of four is empty."""
    folders.write_pred("case_1", np.zeros((12, 10, 8), np.uint8))
    report = evaluate_folders(folders.pred, folders.ref, folders.out)
    diagonal = round(math.sqrt(12**2 + 10**2 + 16**2), 6)
    assert json.loads(report.companion.read_text())["diagonals"] == {"case_1": diagonal}
    hd95 = report.summary[0].metrics["hd95_mm"]
    assert (hd95.n_inf, hd95.n_finite) == (1, 3)
    assert hd95.mean_capped == pytest.approx((3 * hd95.mean_finite + diagonal) / 4)
    assert read_score_table(folders.out, "a").diagonals == {"case_1": diagonal}


def test_an_unreadable_reference_has_no_diagonal(folders):
    (folders.ref / "case_2.nii.gz").write_bytes(b"no volume")
    report = evaluate_folders(folders.pred, folders.ref, folders.out)
    assert json.loads(report.companion.read_text())["diagonals"] == {}
    assert math.isnan(report.summary[0].metrics["hd95_mm"].mean_capped)


def test_patients_of_an_evaluation(folders):
    patients = {f"case_{i}": f"p{i // 2}" for i in range(4)}
    report = evaluate_folders(folders.pred, folders.ref, folders.out, patients=patients)
    assert {row.num_patients for row in report.summary} == {2}

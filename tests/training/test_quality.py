import csv

import numpy as np
import pytest

from samtune.training.quality import (
    FAILED,
    QualityRow,
    QualityTable,
    component_sizes,
    quality_row,
    touches_border,
    write_statistics,
)

CLASSES = {1: "front", 3: "back"}


@pytest.fixture
def label():
    """Class 1: two cubes of 8 and 1 voxels; class 3: none. Nothing at the border."""
    label = np.zeros((8, 9, 6), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[5, 5, 3] = 1
    return label


def test_a_row_holds_volume_components_border_and_confidence(label):
    confidence = np.full(label.shape, 0.2)
    confidence[label == 1] = 0.75
    confidence[5, 5, 3] = 0.3
    row = quality_row("a", "a.nii.gz", label, (1.0, 2.0, 5.0), CLASSES, confidence)
    assert row.classes["front"] == {
        "volume_ml": "0.09",  # 9 voxels of 10 mm3
        "components": "2",
        "largest_share": "0.8889",
        "touches_border": "false",
        "mean_confidence": "0.7000",  # (8 * 0.75 + 0.3) / 9
    }
    assert row.classes["back"] == {
        "volume_ml": "0",
        "components": "0",
        "largest_share": "",
        "touches_border": "false",
        "mean_confidence": "",
    }


def test_corners_connect():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert sorted(component_sizes(mask)) == [1, 2]
    assert len(component_sizes(np.zeros((2, 2, 2), bool))) == 0


def test_every_face_is_border_but_those_of_an_axis_of_one_voxel():
    for axis in range(3):
        for end in (0, -1):
            mask = np.zeros((3, 4, 5), bool)
            place = [1, 1, 1]
            place[axis] = end
            mask[tuple(place)] = True
            assert touches_border(mask)
    flat = np.zeros((3, 4, 1), bool)
    flat[1, 1, 0] = True
    assert not touches_border(flat)
    flat[0, 1, 0] = True
    assert touches_border(flat)


def test_the_table_is_sorted_kept_and_read_back(label, tmp_path):
    path = tmp_path / "qc.csv"
    table = QualityTable(path, list(CLASSES.values()))
    table.add(quality_row("b", "b.nii.gz", label, (1, 1, 1), CLASSES))
    table.add(QualityRow("a", FAILED, "no such, file"))
    table.add(quality_row("c", "c.nii.gz", np.zeros_like(label), (1, 1, 1), CLASSES))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["status"], r["is_empty"]) for r in rows] == [
        ("a", "failed", ""),
        ("b", "ok", "false"),
        ("c", "ok", "true"),
    ]
    assert rows[0]["file"] == "no such, file"
    again = QualityTable(path, list(CLASSES.values()), keep=True)
    assert again.rows == table.rows
    assert QualityTable(path, list(CLASSES.values())).rows == {}
    with pytest.raises(ValueError, match=r"qc.csv' has columns .*front_volume_ml.*, expected"):
        QualityTable(path, ["other"], keep=True)


def test_statistics_have_a_row_a_case_and_class(label, tmp_path):
    table = QualityTable(tmp_path / "qc.csv", list(CLASSES.values()))
    table.add(quality_row("b", "b.nii.gz", label, (1, 2, 5), CLASSES))
    table.add(QualityRow("a", FAILED, "x"))
    write_statistics(tmp_path / "s.csv", table, CLASSES)
    assert (tmp_path / "s.csv").read_text() == (
        "case,label,name,volume_ml\nb,1,front,0.09\nb,3,back,0\n"
    )

"""Labels of a table of run lengths through ``samtune slice``."""

import json

import numpy as np
import pytest
from PIL import Image

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file

SHAPE = (5, 7)  # rows, columns
MASKS = {name: np.zeros(SHAPE, np.uint8) for name in ("a", "b", "c")}
MASKS["a"][1:3, 2:4] = 1
MASKS["b"][4, 6] = 1  # the last pixel; c has no object


def runs_down_columns(mask):
    """``start length`` of a mask's runs, counted from 1 down the first column first."""
    flat = mask.T.ravel()
    words, start = [], None
    for number, value in enumerate([*flat, 0], start=1):
        if value and start is None:
            start = number
        if not value and start is not None:
            words += [start, number - start]
            start = None
    return " ".join(map(str, words))


@pytest.fixture
def kaggle(tmp_path, rng):
    """``train_images`` and ``train.csv``, as Kaggle lays them out."""
    root = tmp_path / "data"
    (root / "train_images").mkdir(parents=True)
    lines = ["ImageId,EncodedPixels"]
    for name, mask in MASKS.items():
        picture = rng.integers(0, 255, SHAPE, np.uint8)
        Image.fromarray(picture).save(root / f"train_images/{name}.png")
        lines.append(f"{name}.png,{runs_down_columns(mask)}")
    assert lines[1] == "a.png,12 2 17 2"  # columns 2 and 3 of 5 rows, rows 1 and 2
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return root


def run(out, *arguments):
    argv = ["slice", *map(str, arguments), "--modality", "oct", "-o", str(out)]
    return main([*argv, "--workers", "1", "-q", "--split-counts", "1", "1", "1"])


def labels(out):
    manifest = load_manifest(out)
    return {row.case: read_slice_file(manifest.path(row))[1][0] for row in manifest.slices}


def check(out, masks=MASKS):
    found = labels(out)
    assert set(found) == set(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)


def test_the_layout_is_recognised_and_sliced(kaggle, tmp_path, capsys):
    assert main(["inspect", str(kaggle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layout"] == "run_lengths"
    assert report["problems"][1:] == ["1 labels have no voxel > 0: c"]  # the first: no pixel size
    assert [label["pixels"] for label in report["labels"]] == [5]
    assert run(tmp_path / "o", kaggle) == 0
    check(tmp_path / "o")


def test_a_folder_of_images_and_a_table(kaggle, tmp_path):
    argv = (kaggle / "train_images", "--labels", kaggle / "train.csv")
    assert run(tmp_path / "o", *argv, "--dry-run") == 0
    assert not (tmp_path / "o").exists()
    assert run(tmp_path / "o", *argv) == 0
    check(tmp_path / "o")


def test_columns_classes_and_counting_are_those_of_the_rule(kaggle, tmp_path):
    (kaggle / "train.csv").unlink()
    (kaggle / "boxes.csv").write_text("ImageId,width\na.png,7\n")  # another table
    lines = ["file,pixels,class", "a,9 2,2", "a,16 2,2", "a,0 1,3", "b,34 1,1", "c,,1"]
    (kaggle / "masks.csv").write_text("\n".join(lines) + "\n")
    rule = "{run_lengths: {image: file, pixels: pixels, value: class, order: rows, first: 0}}"
    (tmp_path / "rule.yaml").write_text(rule)
    expected = {name: mask.copy() for name, mask in MASKS.items()}
    expected["a"] = np.where(MASKS["a"], 2, 0)
    expected["a"][0, 0] = 3
    assert run(tmp_path / "o", kaggle, "--label-rule", tmp_path / "rule.yaml") == 1  # which layout?
    options = ("--input-layout", "run_lengths", "--label-rule", tmp_path / "rule.yaml")
    assert run(tmp_path / "o", kaggle, *options) == 0
    check(tmp_path / "o", expected)

    described = "modality: oct, layout: run_lengths, images: train_images, labels: masks.csv"
    (tmp_path / "mine.yaml").write_text(
        f"source: {{title: t, url: u, licence: l, {described}, label_rule: {rule}}}"
    )
    argv = [str(kaggle), "--dataset", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "p")]
    assert main(["slice", *argv, "--workers", "1", "-q", "--split-counts", "1", "1", "1"]) == 0
    check(tmp_path / "p", expected)


def test_images_and_rows_without_their_counterpart_are_named(kaggle, tmp_path, capsys):
    table = kaggle / "train.csv"
    table.write_text(table.read_text().replace("b.png", "x.png"))
    assert run(tmp_path / "o", kaggle) == 1
    error = capsys.readouterr().err
    assert "train_images/b.png: no row of train.csv names it in column ImageId" in error
    assert "train.csv: x.png: no such image" in error
    assert run(tmp_path / "o", kaggle / "train_images", "--labels", table) == 1
    assert "2 of its names and the images of" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_damaged_run_fails_its_case_alone(kaggle, tmp_path):
    table = kaggle / "train.csv"
    table.write_text(table.read_text().replace("12 2 17 2", "12 2 17 99"))
    assert run(tmp_path / "o", kaggle) == 1
    reason = (tmp_path / "o/failures.csv").read_text()
    assert "train.csv:2: run 17 99 lies outside the image of 5 x 7 pixels" in reason
    assert set(labels(tmp_path / "o")) == {"b", "c"}


def test_a_missing_or_foreign_table_is_named(kaggle, tmp_path, capsys):
    images = kaggle / "train_images"
    assert run(tmp_path / "o", images, "--labels", kaggle / "no.csv") == 1
    assert "no.csv: no such file; expected a table of run lengths" in capsys.readouterr().err
    (kaggle / "no.csv").write_text("a,b\n1,2\n")
    assert run(tmp_path / "o", images, "--labels", kaggle / "no.csv") == 1
    assert "has no column ImageId, EncodedPixels; its columns are a, b" in capsys.readouterr().err

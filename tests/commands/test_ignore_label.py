"""Pixels that nobody judged: through slicing, back on the scan's grid, and in the scores."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image

from samtune.cli import main
from samtune.preprocessing.manifest import load_manifest
from samtune.preprocessing.slice_file import read_slice_file
from samtune.training.case_stream import reference_volume

IGNORED = 255
SHAPE = (12, 10, 4)


def label_volume():
    """Class 5 in the middle, class 9 as one voxel, and ignored voxels in and beside class 5."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:8, 3:8, :3] = 5
    label[10, 1, 0] = 9
    label[7:9, 4:6, 1:] = IGNORED
    return label


def kept_label():
    """After ``5=>1``, ``*=>0`` and the removal of objects of one voxel."""
    return np.select([label_volume() == IGNORED, label_volume() == 5], [IGNORED, 1], 0)


@pytest.fixture
def scans(tmp_path):
    """Two cases stored in other orientations than slices have."""
    for number, codes in enumerate(("PSR", "LAI")):
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
        image = np.arange(label_volume().size).reshape(SHAPE).astype(np.uint16)
        for folder, array in (("images", image), ("labels", label_volume())):
            (tmp_path / folder).mkdir(exist_ok=True)
            volume = nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])).as_reoriented(turn)
            nib.save(volume, tmp_path / folder / f"case_{number}.nii.gz")
    return tmp_path


def run(root, out, *options):
    argv = ["slice", str(root / "images"), "--labels", str(root / "labels"), "-o", str(out)]
    argv += ["--modality", "mr", "--ignore-label", str(IGNORED), "--split-counts", "1", "0", "1"]
    return main([*argv, "--workers", "1", "-q", *options])


RULE = ("--label-map", "5=>1:organ;*=>0", "--min-voxels", "2", "--min-pixels", "2")


@pytest.mark.parametrize(
    "options",
    [(), ("--layout", "volume"), ("--tile", "8"), ("--crop", "2px"), ("--spacing", "0.7,1.3")],
    ids=lambda options: "-".join(options) or "plain",
)
def test_it_is_in_the_slices_and_comes_back_on_the_grid(scans, tmp_path, options):
    assert run(scans, tmp_path / "o", *RULE, *options) == 0
    manifest = load_manifest(tmp_path / "o")
    assert manifest.settings["label_steps"]["ignore_label"] == IGNORED
    assert manifest.settings["class_names"] == {"1": "organ"}
    assert manifest.settings["label_values"] == [1]  # it is no class
    stored = [read_slice_file(manifest.path(row))[1] for row in manifest.slices]
    assert set(np.unique(np.concatenate([one.ravel() for one in stored]))) == {0, 1, IGNORED}
    for case in manifest.cases:
        source = nib.load(scans / f"labels/{case}.nii.gz")
        to_ras = ornt_transform(axcodes2ornt(nib.aff2axcodes(source.affine)), axcodes2ornt("RAS"))
        back = nib.Nifti1Image(reference_volume(manifest, case), source.affine)
        expected = kept_label()
        if "--crop" in options and manifest.cases[case].split == "train":
            expected = expected * _within_margin(expected == 1, 2)
        np.testing.assert_array_equal(
            np.asarray(back.as_reoriented(to_ras).dataobj), expected, case
        )


def _within_margin(mask, margin):
    """The box of a class and ``margin`` pixels round it, in the plane of axial slices."""
    box = np.zeros(mask.shape, bool)
    rows, columns, _ = (slice(at.min() - margin, at.max() + margin + 1) for at in np.nonzero(mask))
    box[rows, columns] = True
    return box


def test_evaluation_scores_nothing_there(scans, tmp_path, capsys):
    """A prediction that is wrong nowhere but on ignored voxels has Dice 1."""
    (tmp_path / "pred").mkdir()
    for path in sorted((scans / "labels").iterdir()):
        label = nib.load(path)
        array = np.asarray(label.dataobj).copy()
        at = np.argwhere(array == IGNORED)
        array[array == IGNORED] = 0
        array[tuple(at[:3].T)] = 5
        nib.save(nib.Nifti1Image(array, label.affine), tmp_path / "pred" / path.name)
    table = tmp_path / "scores.csv"
    argv = ["evaluate", "--pred", str(tmp_path / "pred"), "--ref", str(scans / "labels")]
    argv += ["-o", str(table), "-q", "--labels", "5:organ,9:spot"]

    def dice():
        with table.open(newline="") as file:
            return [float(row["dice"]) for row in csv.DictReader(file) if row["name"] == "organ"]

    assert main([*argv, "--ignore-label", str(IGNORED)]) == 0
    assert dice() == [1, 1]
    assert main([*argv, "--force"]) == 1
    assert "the reference has label 255, which is not listed" in capsys.readouterr().err


def test_pictures_of_0_and_255_are_not_a_mask_if_255_is_ignored(tmp_path):
    """A picture without any class would otherwise get one where nobody judged."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, value in (("a", 1), ("b", 0)):
        label = np.zeros((6, 7), np.uint8)
        label[1:3, 1:4] = value
        label[4, 4:] = IGNORED
        Image.fromarray(label).save(tmp_path / f"labels/{name}.png")
        Image.fromarray(label // 2).save(tmp_path / f"images/{name}.png")
    assert run(tmp_path, tmp_path / "o") == 0
    manifest = load_manifest(tmp_path / "o")
    assert {row.case: row.labels for row in manifest.slices} == {"a": {1: 6}, "b": {}}
    for row in manifest.slices:
        assert int((read_slice_file(manifest.path(row))[1] == IGNORED).sum()) == 3

    shutil.copy(tmp_path / "labels/b.png", tmp_path / "labels/a.png")  # no class is left
    assert run(tmp_path, tmp_path / "p") == 1
    assert not (tmp_path / "p").exists()


def test_a_label_rule_and_the_option_name_one_value(scans, tmp_path, capsys):
    rule = tmp_path / "rule.yaml"
    rule.write_text("{values: {5: 1, 9: 2}, ignore_label: 255}")
    argv = ["slice", str(scans / "images"), "--labels", str(scans / "labels"), "--modality", "mr"]
    argv += ["--label-rule", str(rule), "--workers", "1", "-q", "--split-counts", "1", "0", "1"]
    assert main([*argv, "-o", str(tmp_path / "o")]) == 0
    manifest = load_manifest(tmp_path / "o")
    assert manifest.settings["label_steps"] == {"ignore_label": IGNORED}
    assert manifest.settings["label_values"] == [1, 2]
    assert main([*argv, "-o", str(tmp_path / "p"), "--ignore-label", "7"]) == 1
    assert "ignore label 7: the label rule names 255; expected one" in capsys.readouterr().err

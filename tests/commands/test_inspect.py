import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samtune.cli import main
from samtune.commands.slice_input import INPUT_LAYOUTS, PLAIN
from samtune.preprocessing.layouts import LAYOUTS

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def decathlon(tmp_path):
    """Four cases, 5 x 6 x 3: class 1 in all (2 voxels in 1 slice), class 2 in the first alone."""
    names = [f"c{number}.nii.gz" for number in range(4)]
    for number, name in enumerate(names):
        image = np.full((5, 6, 3), 10 * number, np.int16)
        image[0, 0, 0] = 100
        label = np.zeros((5, 6, 3), np.uint8)
        label[1:3, 1, 1] = 1
        if number == 0:
            label[4, :, 2] = 2
        save(tmp_path / "d/imagesTr" / name, image)
        save(tmp_path / "d/labelsTr" / name, label)
    described = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back", "3": "never"},
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
    }
    (tmp_path / "d/dataset.json").write_text(json.dumps(described))
    return tmp_path / "d"


def report(capsys, *argv):
    assert main(["inspect", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_names_of_layouts_are_those_of_the_registry():
    assert set(INPUT_LAYOUTS) == set(LAYOUTS)
    assert PLAIN not in LAYOUTS


def test_counts_geometry_and_values(decathlon, capsys):
    data = report(capsys, decathlon)
    assert (data["layout"], data["cases"], data["slices"]) == ("msd", 4, 12)
    assert data["shapes"] == [{"value": [5, 6, 3], "cases": 4}]
    assert data["spacings_mm"] == [{"value": [1.0, 1.0, 4.0], "cases": 4}]
    assert data["splits"] == {"none": 4}
    assert data["labels"] == [
        {"value": 1, "name": "front", "cases": 4, "slices": 4, "pixels": 8},
        {"value": 2, "name": "back", "cases": 1, "slices": 1, "pixels": 6},
    ]
    assert data["intensity"]["minimum"] == 0
    assert data["intensity"]["maximum"] == 100
    assert (data["modality"], data["modality_from"]) == ("mr", "dataset.json")
    assert data["problems"] == ["classes in no label (all 4 cases): 3 never"]


def test_a_sample_is_said_and_headers_are_of_all(decathlon, capsys):
    data = report(capsys, decathlon, "--sample", "2")
    assert (data["sampled_cases"], data["cases"], data["slices"]) == (2, 4, 12)
    assert data["labels"][0]["cases"] == 2
    assert main(["inspect", str(decathlon), "--sample", "1"]) == 0
    out = capsys.readouterr().out
    assert "1 cases, 1 slices, 2 voxels (1 of 4 cases)" in out
    assert "5x6x3 (4)" in out
    assert report(capsys, decathlon, "--sample", "0")["sampled_cases"] == 4


def test_the_printed_command_slices_it(decathlon, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = report(capsys, decathlon)["command"].split()
    assert command[:2] == ["samtune", "slice"]
    assert main([*command[1:], "--workers", "1", "--split-counts", "2", "1", "1"]) == 0
    captured = capsys.readouterr()
    assert "12 slices of 4 cases" in captured.out
    assert captured.err == "layout msd: dataset.json lists 4 training pairs\n"


def test_problems_are_listed_and_nothing_is_raised_for_them(decathlon, capsys):
    save(decathlon / "labelsTr/c1.nii.gz", np.zeros((5, 6, 2), np.uint8))  # another shape
    save(decathlon / "labelsTr/c2.nii.gz", np.zeros((5, 6, 3), np.uint8))
    (decathlon / "imagesTr/c3.nii.gz").write_bytes(b"x")
    (decathlon / "imagesTr/extra.nii.gz").touch()
    assert main(["inspect", str(decathlon)]) == 0
    lines = capsys.readouterr().out.split("problems:\n")[1].splitlines()
    assert lines[0] == "  unpaired: imagesTr/extra.nii.gz: not listed in dataset.json"
    assert "c1: " in lines[1]
    assert "label has shape (5, 6, 2)" in lines[1]
    assert "c3: " in lines[2]
    assert "  1 labels have no voxel > 0: c2" in lines


def test_masks_and_patients_in_two_splits_are_problems(tmp_path, capsys):
    for name, split in (("p1_a", "train"), ("p1_b", "test"), ("p2_a", "val")):
        label = np.zeros((1, 4, 4), np.uint8)
        label[0, 1] = 255
        path = tmp_path / "d" / split / f"{name}.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, imgs=np.zeros((1, 4, 4, 3), np.uint8), gts=label)
    (tmp_path / "x.yaml").write_text(
        "source: {title: t, url: u, licence: l, modality: oct, patient: '(p.)_'}\n"
    )
    data = report(capsys, tmp_path / "d", "--dataset", tmp_path / "x.yaml")
    assert (data["layout"], data["patients"]) == ("sam_lora", 2)
    assert data["splits"] == {"train": 1, "val": 1, "test": 1}
    assert (data["modality"], data["modality_from"]) == ("oct", "dataset x")
    assert data["problems"] == [
        "patient 'p1' is in several (p1_a: train, p1_b: test)",
        "labels hold 0 and 255: a mask, whose class is better called 1",
    ]


def test_guessed_modalities_say_so(tmp_path, capsys):
    array = np.zeros((3, 3, 3), np.int16)
    array[0] = -1000
    save(tmp_path / "ct/a.nii.gz", array)
    data = report(capsys, tmp_path / "ct")
    assert (data["layout"], data["labelled"]) == ("folder", 0)
    assert (data["modality"], data["modality_from"][:7]) == ("ct", "a guess")
    save(tmp_path / "oct/a.nii.gz", np.zeros((3, 3, 3), np.uint8))
    assert report(capsys, tmp_path / "oct")["modality"] == "oct"


def test_colour_and_what_readers_say_is_shown(tmp_path, rng, capsys):
    path = tmp_path / "d/a.npz"
    path.parent.mkdir()
    imgs = rng.integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    np.savez(path, imgs=imgs, gts=np.ones((2, 4, 5), np.uint8))
    assert main(["inspect", str(tmp_path / "d")]) == 0
    out = capsys.readouterr().out
    assert "values a voxel  3 (1)" in out
    assert "modality        rgb (a guess: pictures in colour)" in out
    assert "label 1         no name: 1 cases, 2 slices, 40 voxels (all 1 cases)" in out


def test_the_figure_has_a_bar_for_every_count(decathlon, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "f.png"
    assert main(["inspect", str(decathlon), "--figure", str(path)]) == 0
    with Image.open(path) as image:
        assert image.size[0] > image.size[1] > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 10  # not an empty sheet
    first = path.read_bytes()
    assert main(["inspect", str(decathlon), "--figure", str(path)]) == 0
    assert path.read_bytes() == first
    capsys.readouterr()
    assert main(["inspect", str(decathlon), "--figure", str(tmp_path / "f.jpg")]) == 1
    assert "a figure is .png or .svg" in capsys.readouterr().err


def test_wrong_usage_exits_2(decathlon, capsys):
    with pytest.raises(SystemExit) as error:
        main(["inspect", str(decathlon), "--sample", "-1"])
    assert error.value.code == 2
    with pytest.raises(SystemExit) as error:
        main(["inspect", str(decathlon), "--labels", "x", "--input-layout", "msd"])
    assert error.value.code == 2

import argparse
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.commands import predict as command
from samtune.preprocessing.voxel_prompts import VoxelPrompt
from samtune.training import predict as module
from samtune.training import scan_prompts as prompted

MODEL = prompted.PromptedModel(None, {}, classes={1: "front", 3: "back"})


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of the function behind it."""
    calls = []

    def predict(*args, **kwargs):
        calls.append((args, kwargs))
        return [Path("out/a.nii.gz"), Path("out/b.nii.gz")]

    monkeypatch.setattr(module, "predict", predict)
    return calls


def test_defaults_are_those_of_the_function(asked, capsys):
    assert main(["predict", "runs/x", "a.nii.gz", "folder", "--out", "pred"]) == 0
    ((args, kwargs),) = asked
    assert args == (Path("runs/x"), [Path("a.nii.gz"), Path("folder")], Path("pred"))
    assert kwargs == {
        "adapter": "best",
        "checkpoint": None,
        "device": "auto",
        "batch_size": 4,
        "file_format": None,
        "frame": None,
        "series": None,
        "progress": None,
        "ensemble": (),
        "flips": "none",
        "postprocess": True,
        "probabilities": None,
        "statistics": False,
        "resume": False,
    }
    assert capsys.readouterr().out.split() == ["out/a.nii.gz", "out/b.nii.gz"]


def test_every_option_arrives(asked):
    options = ["--adapter", "last", "--checkpoint", "b.pth", "--device", "cuda:1"]
    options += ["--frame", "2", "--series", "T2 axial"]
    options += ["--flips", "hv", "--no-postprocess", "--probabilities", "npz", "--statistics"]
    options += ["--resume", "--ensemble", "a", "b"]
    assert main(["predict", "r", "s", "-o", "p", "--batch-size", "9", "-q", *options]) == 0
    assert asked[0][1] == {
        "adapter": "last",
        "checkpoint": Path("b.pth"),
        "device": "cuda:1",
        "batch_size": 9,
        "file_format": None,
        "frame": 2,
        "series": "T2 axial",
        "progress": False,
        "ensemble": [Path("a"), Path("b")],
        "flips": "hv",
        "postprocess": False,
        "probabilities": "npz",
        "statistics": True,
        "resume": True,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["r"], ["r", "s"], ["r", "-o", "p"]),
        ["r", "s", "-o", "p", "--adapter", "first"],
        ["r", "s", "-o", "p", "--flips", "x"],
        ["r", "s", "-o", "p", "--box", "1,2,3"],
        ["r", "s", "-o", "p", "--slice", "3"],
        ["r", "s", "-o", "p", "--box", "1,2,3,4", "--flips", "h"],
        ["r", "s", "-o", "p", "--box", "1,2,3,4", "--box", "1,2,3,4", "--point", "1,2,1"],
        ["r", "s", "-o", "p", "--box", "1,2,3,4", "--prompts", "p.json"],
        ["r", "s", "-o", "p", "--box", "1,2,3,4", "--batch-size", "4"],
        ["r", "s", "-o", "p", "--prompts", "p.json", "--batch-size", "2"],
        ["r", "s", "-o", "p", "--modality", "mr"],
        ["r", "s", "-o", "p", "--class", "1"],
        ["s", "-o", "p", "--base", "lite_medsam", "--modality", "mr"],
        ["s", "-o", "p", "--base", "lite_medsam", "--box", "1,2,3,4"],
    ],
)
def test_wrong_usage_exits_2(asked, arguments, monkeypatch):
    monkeypatch.setattr(prompted, "model_of_run", lambda *args, **kwargs: MODEL)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", *arguments])
    assert asked == []


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "scan.nii.gz", "--out", str(tmp_path / "p")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("samtune predict: ")
    assert "is not the folder of a run" in error
    assert error.count("\n") == 1


def test_scan_to_label_file(loud_run, tiny_volumes, tmp_path, capsys):
    scan = tiny_volumes / "images/case_5.nii.gz"
    arguments = ["predict", str(loud_run), str(scan), "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'case_5.nii.gz'}\n"
    label = nib.load(tmp_path / "case_5.nii.gz")
    np.testing.assert_array_equal(label.affine, nib.load(scan).affine)
    assert np.asarray(label.dataobj).any()


def test_help_names_units_and_defaults():
    parser = argparse.ArgumentParser(prog="samtune predict")
    command.add_arguments(parser)
    text = parser.format_help()
    assert "slices at a time (default: 4)" in " ".join(text.split())
    assert command.HELP


@pytest.fixture
def prompts_asked(monkeypatch):
    calls = []

    def predict_prompted(*args, **kwargs):
        calls.append((args, kwargs))
        return [Path("p/s.nii.gz")]

    monkeypatch.setattr(prompted, "predict_prompted", predict_prompted)
    monkeypatch.setattr(prompted, "model_of_run", lambda *args, **kwargs: MODEL)
    monkeypatch.setattr(
        prompted,
        "untouched_model",
        lambda *args, **kwargs: SimpleNamespace(asked=(args, kwargs), classes=None),
    )
    return calls


def test_box_and_points_of_one_slice_are_one_prompt(prompts_asked):
    options = ["--slice", "7", "--box", "1,2,3,4.5", "--point", "2,3,1", "--point", "0,0,0"]
    assert main(["predict", "r", "s", "-o", "p", *options, "--class", "back"]) == 0
    ((args, kwargs),) = prompts_asked
    prompt = VoxelPrompt(7, 3, (1, 2, 3, 4.5), ((2, 3, 1), (0, 0, 0)))
    assert args == (MODEL, [Path("s")], [prompt], Path("p"))
    assert kwargs == {"file_format": None, "overlays": True}


def test_a_volume_needs_the_slice_and_a_picture_does_not(prompts_asked, tmp_path, capsys):
    for name in ("scan.nii.gz", "photo.png"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "r", str(tmp_path / "scan.nii.gz"), "-o", "p", "--box", "1,2,3,4"])
    assert "--box and --point need --slice" in capsys.readouterr().err
    assert prompts_asked == []
    assert main(["predict", "r", str(tmp_path / "photo.png"), "-o", "p", "--point", "1,2,1"]) == 0
    assert prompts_asked[0][0][2] == [VoxelPrompt(0, 1, None, ((1, 2, 1),))]


def test_several_boxes_are_several_prompts_of_the_first_class(prompts_asked):
    options = ["--slice", "7", "--box", "1,2,3,4", "--box", "5,6,7,8"]
    assert main(["predict", "r", "s", "-o", "p", *options]) == 0
    boxes = [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert prompts_asked[0][0][2] == [VoxelPrompt(7, 1, box) for box in boxes]


def test_a_file_of_prompts_and_the_untouched_model(prompts_asked, tmp_path):
    file = tmp_path / "p.json"
    file.write_text('{"format_version": 1, "cases": {"s": [{"slice": 1, "box": [0, 0, 1, 1]}]}}')
    options = ["--base", "b.pth", "--modality", "ct", "--prompts", str(file), "--device", "cpu"]
    assert main(["predict", "s", "t", "-o", "p", *options]) == 0
    ((args, kwargs),) = prompts_asked
    assert args[0].asked == (("b.pth",), {"modality": "ct", "device": "cpu"})
    assert args[1:] == ([Path("s"), Path("t")], {"s": [VoxelPrompt(1, 1, (0, 0, 1, 1))]}, Path("p"))
    assert kwargs == {"file_format": None}


def test_what_was_written_is_printed_before_what_failed(monkeypatch, capsys):
    def predict(*args, **kwargs):
        raise module.FailedScansError({"b": "no header"}, [Path("out/a.nii.gz")], 2)

    monkeypatch.setattr(module, "predict", predict)
    assert main(["predict", "r", "a", "b", "-o", "out"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "out/a.nii.gz\n"
    assert captured.err == "samtune predict: 1 of 2 scans failed: b: no header\n"

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.commands import predict as command
from samtune.training import predict as module


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
    }
    assert capsys.readouterr().out.split() == ["out/a.nii.gz", "out/b.nii.gz"]


def test_every_option_arrives(asked):
    options = ["--adapter", "last", "--checkpoint", "b.pth", "--device", "cuda:1"]
    options += ["--frame", "2", "--series", "T2 axial"]
    assert main(["predict", "r", "s", "-o", "p", *options, "--batch-size", "9", "-q"]) == 0
    assert asked[0][1] == {
        "adapter": "last",
        "checkpoint": Path("b.pth"),
        "device": "cuda:1",
        "batch_size": 9,
        "file_format": None,
        "frame": 2,
        "series": "T2 axial",
        "progress": False,
    }


@pytest.mark.parametrize(
    "arguments", [[], ["r"], ["r", "s"], ["r", "s", "-o", "p", "--adapter", "first"]]
)
def test_wrong_usage_exits_2(asked, arguments):
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

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samtune.cli import main
from samtune.commands import slice as command
from samtune.preprocessing.manifest import load_manifest


@pytest.fixture
def folders(tmp_path):
    for index, case in enumerate("ab"):
        shape = (5 + index, 8, 4)
        label = np.zeros(shape, dtype=np.uint8)
        label[1:3, 2:5, 1:3] = 1
        for folder, array in (
            ("images", np.arange(np.prod(shape)).reshape(shape).astype(np.float32)),
            ("labels", label),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            path = tmp_path / folder / f"{case}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.5, 3.0, 1.0])), path)
    return tmp_path


@pytest.fixture
def arguments(folders):
    images, labels, out = (str(folders / name) for name in ("images", "labels", "out"))
    return ["slice", images, "--labels", labels, "--modality", "mr", "--out", out, "--workers", "1"]


def test_slicing_prints_counts_and_keeps_the_class_names(arguments, folders, capsys):
    options = ["--class-names", "1:anterior, 2:posterior", "--split-counts", "1", "0", "1"]
    assert main(arguments + options) == 0
    captured = capsys.readouterr()
    assert "8 slices of 2 cases; done 2, skipped (already complete) 0, failed 0" in captured.out
    manifest = load_manifest(folders / "out")
    assert manifest.settings["class_names"] == {"1": "anterior", "2": "posterior"}
    assert main([*arguments, *options, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_dry_run_prints_cases_shapes_axis_slices_and_split(arguments, folders, capsys):
    assert main([*arguments, "--dry-run", "--split", "1", "0", "0"]) == 0
    out = capsys.readouterr().out
    assert "a: 5x8x4 voxels of 1x1.5x3 mm, RAS, axis 2, 4 slices, train\n" in out
    assert "8 slices of 2 cases (2 train, 0 val, 0 test) would be in" in out
    assert not (folders / "out").exists()


def test_a_failed_case_is_listed_last_and_exits_1(arguments, folders, capsys):
    (folders / "images/b.nii.gz").write_bytes(b"")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "4 slices of 1 cases; done 1, skipped (already complete) 0, failed 1" in captured.out
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"failed: b: {folders / 'images/b.nii.gz'}: not a complete NIfTI file")


def test_an_input_problem_is_one_line_and_exits_1(arguments, folders, capsys):
    (folders / "labels/b.nii.gz").unlink()
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("samtune slice: ")
    assert "1 of 2 images without a label" in err
    assert err.count("\n") == 1
    assert not (folders / "out").exists()


def test_options_reach_the_function(arguments, folders, capsys):
    options = ["--axis", "0", "--layout", "volume", "--window", "50", "350", "--seed", "7"]
    arguments[arguments.index("mr")] = "ct"
    assert main([*arguments, *options, "--split", "0.5", "0", "0.5"]) == 0
    settings = load_manifest(folders / "out").settings
    assert (settings["axis"], settings["layout"], settings["modality"]) == (0, "volume", "ct")
    assert settings["intensity"]["window_width"] == 350.0
    assert settings["split"] == {"rule": "ratio", "ratio": [0.5, 0.0, 0.5], "seed": 7}
    assert main(arguments) == 1
    assert "intensity.window_width: 350.0 -> 400.0" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    csv = folders / "split.csv"
    csv.write_text("case,split\na,val\nb,test\n")
    assert main([*arguments, "--force", "--split-csv", str(csv)]) == 0
    assert load_manifest(folders / "out").cases["a"].split == "val"


@pytest.mark.parametrize(
    "extra",
    [
        ["--modality", "xray"],
        ["--axis", "3"],
        ["--class-names", "anterior"],
        ["--split", "1", "0", "0", "--split-counts", "2", "0", "0"],
    ],
)
def test_wrong_usage_exits_2(arguments, extra):
    with pytest.raises(SystemExit) as end:
        main(arguments + extra)
    assert end.value.code == 2


@pytest.mark.parametrize("text", ["1", "x:a", "0:a", "1:", "1:a,1:b", "1:a,2:a", "1:a,"])
def test_class_names_that_cannot_be_read_are_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"VALUE:NAME|there twice"):
        command.parse_class_names(text)


def test_help_gives_units_defaults_and_an_example():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    text = parser.format_help()
    for part in ("HU, ct only (default: 40 400)", "0.5-99.5 %", "example:", "--split-csv FILE"):
        assert part in text


def test_the_script_is_the_same_entry(folders):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            *(sys.executable, root / "scripts/slice_volumes.py", folders / "images"),
            *("--modality", "mr", "--out", folders / "out", "--dry-run"),
        ],
        env={**os.environ, "PYTHONPATH": str(root)},  # uninstalled checkout
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 slices of 2 cases" in done.stdout


def test_intensity_label_and_slicing_options_reach_the_manifest(arguments, folders, capsys):
    arguments[arguments.index("mr")] = "ct"
    options = ["--preset", "lung", "--bits", "16", "--axis", "coronal", "--layout", "volume"]
    options += ["--label-map", "1=>2:organ", "--label-map", "*=>0", "--min-voxels", "3"]
    options += ["--min-pixels", "2", "--ignore-label", "9", "--crop", "1.5mm", "--tile", "3"]
    options += ["--spacing", "0.5,1", "--channels", "3", "--split-counts", "2", "0", "0"]
    assert main([*arguments, *options]) == 0
    settings = load_manifest(folders / "out").settings
    assert (settings["axis"], settings["class_names"]) == (1, {"2": "organ"})
    intensity = settings["intensity"]
    assert (intensity["window_level"], intensity["window_width"]) == (-600, 1500)
    assert intensity["bits"] == 16
    assert settings["slicing"] == {
        "spacing_mm": [0.5, 1.0],
        "crop_margin": 1.5,
        "crop_unit": "mm",
        "tile_size": 3,
        "channels": 3,
    }
    assert settings["label_steps"] == {
        "map": [
            {"from": [1], "to": 2, "name": "organ"},
            {"from": "*", "to": 0, "name": None},
        ],
        "min_voxels": 3,
        "min_pixels": 2,
        "ignore_label": 9,
    }


def test_percentiles_and_scope_reach_the_manifest_and_defaults_stay_out(arguments, folders):
    assert main([*arguments, "--percentiles", "2", "98", "--scope", "slice", "--tile", "8"]) == 0
    settings = load_manifest(folders / "out").settings
    assert settings["intensity"] == {
        "modality": "mr",
        "lower_percentile": 2.0,
        "upper_percentile": 98.0,
        "window_level": None,
        "window_width": None,
        "scope": "slice",
    }
    assert settings["slicing"] == {"tile_size": 8, "tile_overlap": 1}
    assert main([*arguments, "--force"]) == 0
    assert not {"slicing", "label_steps"} & set(load_manifest(folders / "out").settings)


def test_a_dry_run_counts_tiles(arguments, folders, capsys):
    assert main([*arguments, "--dry-run", "--tile", "4", "--tile-overlap", "0"]) == 0
    out = capsys.readouterr().out
    # 5 x 8 pixels are 2 x 2 tiles, 6 x 8 too; 4 slices of each case
    assert "32 slices of 2 cases" in out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--crop", "5"], "'5' is not a margin such as 10px or 5mm"),
        (["--spacing", "1,2,3"], "'1,2,3' is not MM or MM,MM"),
        (["--spacing", "0"], "numbers > 0"),
        (["--preset", "spine"], "invalid choice: 'spine'"),
        (["--axis", "oblique"], "invalid choice: 'oblique'"),
    ],
)
def test_wrong_values_of_the_new_options_are_usage_errors(arguments, capsys, option, message):
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, *option])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--preset", "lung"], "preset lung is for modality ct, got 'mr'"),
        (["--label-map", "1=2"], "'1=2' is not VALUE"),
        (["--label-map", "7=>1"], "label value 1 has no rule"),
        (["--tile-overlap", "3"], "give --tile too"),
        (["--tile", "4", "--tile-overlap", "4"], "overlap 4, size 4"),
    ],
)
def test_options_that_contradict_are_one_line_and_exit_1(arguments, capsys, option, message):
    assert main([*arguments, *option]) == 1
    assert message in capsys.readouterr().err

"""``samtune evaluate`` as typed: exit codes, what goes to stdout and what to stderr."""

import argparse
import json

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from samtune.commands import evaluate


@pytest.fixture
def folders(tmp_path):
    label = np.zeros((8, 8, 8), dtype=np.uint8)
    label[2:4, 2:6, 2:6], label[4:6, 2:6, 2:6] = 1, 2
    for folder, shift in (("pred", 1), ("ref", 0)):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            volume = nib.Nifti1Image(np.roll(label, shift, axis=1), np.eye(4))
            nib.save(volume, tmp_path / folder / f"{case}.nii.gz")
    return tmp_path


def run(folders, *options):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    paths = ["--pred", "pred", "--ref", "ref", "--out", "metrics.csv"]
    paths[1::2] = [str(folders / name) for name in paths[1::2]]
    return evaluate.run(parser.parse_args([*paths, *options]))


def test_table_goes_to_stdout_and_remarks_to_stderr(folders, capsys):
    options = ["--labels", "1:front,2:back", "--region", "whole=1+2", "--tolerance-mm", "1"]
    assert run(folders, *options, "--tolerance-mm", "2.5", "--workers", "1") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert "nsd_1mm_mean  nsd_2.5mm_mean" in lines[0]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["1", "front", "2"],
        ["2", "back", "2"],
        ["1+2", "whole", "2"],
    ]
    assert "wrote" in printed.err
    header = (folders / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "case,label,name,status,dice,iou,nsd_1mm,nsd_2.5mm,hd95_mm,volume_ref_ml,volume_pred_ml,"
        "volume_error_ml,assd_mm,sensitivity,precision"
    )


def test_json_and_quiet(folders, capsys):
    assert run(folders, "--json", "--quiet") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert [row["name"] for row in summary] == ["label_1", "label_2"]
    assert summary[0]["dice_mean"] == pytest.approx(0.75)
    assert printed.err == ""


def test_found_labels_and_kept_cases_are_said(folders, capsys):
    run(folders)
    assert "labels found in the reference files: 1, 2" in capsys.readouterr().err
    run(folders)
    assert "2 cases kept from an earlier run" in capsys.readouterr().err


def test_a_region_alone_is_all_that_is_scored(folders, capsys):
    assert run(folders, "--region", "whole=1+2", "--region", "again=2+1") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "whole",
        "again",
    ]


def test_bad_cases_are_listed_last_even_when_quiet_and_exit_is_1(folders, capsys):
    (folders / "pred" / "a.nii.gz").rename(folders / "pred" / "z.nii.gz")
    path = folders / "pred" / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    assert run(folders, "--quiet") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "prediction without reference, not scored: z"


def test_an_extra_prediction_alone_is_no_failure(folders, capsys):
    (folders / "ref" / "a.nii.gz").unlink()
    assert run(folders) == 0
    assert "prediction without reference, not scored: a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [("--labels", "anterior", "VALUE:NAME"), ("--region", "whole", "NAME=1+2")],
)
def test_wrong_usage_exits_with_2_and_says_what_is_expected(folders, capsys, option, value, found):
    with pytest.raises(SystemExit, match="2"):
        run(folders, option, value)
    assert found in capsys.readouterr().err


def test_another_evaluation_is_overwritten_with_force_alone(folders):
    assert run(folders) == 0
    with pytest.raises(FileExistsError, match="--force"):
        run(folders, "--tolerance-mm", "2")
    assert run(folders, "--tolerance-mm", "2", "--force") == 0


def test_patients_are_asked_for_every_case_before_scoring(folders, capsys):
    table = folders / "patients.csv"
    table.write_text("case,patient\na,p\n")
    with pytest.raises(ValueError, match=r"no patient for case\(s\) b"):
        run(folders, "--patients", str(table))
    assert not (folders / "metrics.csv").exists()
    table.write_text("case,patient\na,p\nb,p\n")
    assert run(folders, "--patients", str(table)) == 0
    written = json.loads((folders / "metrics_summary.json").read_text())
    assert [row["num_patients"] for row in written["classes"]] == [1, 1]


def test_cases_of_a_split_alone(tiny_slices, tiny_volumes, tmp_path, capsys):
    from samtune.preprocessing.manifest import load_manifest

    cases = {record.case for record in load_manifest(tiny_slices).select("test")}
    (tmp_path / "pred").mkdir()
    for case in cases:
        name = f"{case}.nii.gz"
        (tmp_path / "pred" / name).write_bytes((tiny_volumes / "labels" / name).read_bytes())
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    options = ["--pred", str(tmp_path / "pred"), "--ref", str(tiny_volumes / "labels")]
    options += ["--out", str(tmp_path / "metrics.csv")]
    assert evaluate.run(parser.parse_args(options)) == 1  # the others have no prediction
    options[-1] = str(tmp_path / "split.csv")
    options += ["--slices", str(tiny_slices), "--split", "test"]
    assert evaluate.run(parser.parse_args(options)) == 0
    rows = (tmp_path / "split.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == cases
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'none'"):
        evaluate.run(parser.parse_args([*options, "--split", "none"]))


def test_patients_are_those_of_the_slices(folders, tiny_slices):
    manifest = json.loads((tiny_slices / "manifest.json").read_text())
    cases = sorted(c for c, record in manifest["cases"].items() if record["split"] == "test")
    for name in cases:
        manifest["cases"][name]["patient"] = "p"
        for folder in ("pred", "ref"):
            (folders / folder / f"{name}.nii.gz").write_bytes(
                (folders / folder / "a.nii.gz").read_bytes()
            )
    (folders / "slices").mkdir()
    (folders / "slices/manifest.json").write_text(json.dumps(manifest))
    assert run(folders, "--slices", str(folders / "slices")) == 0
    written = json.loads((folders / "metrics_summary.json").read_text())
    assert [row["num_patients"] for row in written["classes"]] == [1, 1]
    table = folders / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{name},{name}\n" for name in cases))
    options = ["--slices", str(folders / "slices"), "--patients", str(table), "--force"]
    assert run(folders, *options) == 0  # what is named is stronger
    written = json.loads((folders / "metrics_summary.json").read_text())
    assert [row["num_patients"] for row in written["classes"]] == [len(cases)] * 2


def test_a_picture_takes_the_pixel_size_of_its_reference(tmp_path):
    """A PNG, which has none, beside a TIFF of half millimetres."""
    label = np.zeros((10, 12), np.uint8)
    label[3:7, 3:7] = 1
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.roll(label, 2, axis=0)).save(tmp_path / "pred/a.png")
    tifffile.imwrite(
        tmp_path / "ref/a.tif", label, imagej=True, resolution=(2, 2), metadata={"unit": "mm"}
    )
    assert run(tmp_path) == 0
    header, row = (tmp_path / "metrics.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert found["status"] == "ok"
    assert float(found["hd95_mm"]) == pytest.approx(1)
    Image.fromarray(label[:-1]).save(tmp_path / "pred/a.png")
    assert run(tmp_path, "--force") == 1  # of another shape


def test_a_case_without_reference_is_named(folders):
    from samtune.evaluation.evaluate_folders import evaluate_folders

    with pytest.raises(ValueError, match=r"ref: no reference for the case\(s\) z"):
        evaluate_folders(folders / "pred", folders / "ref", folders / "m.csv", cases=["a", "z"])


def test_options_of_the_metrics_reach_the_table(folders):
    options = ["--labels", "1:front,2:back", "--cldice", "back", "--definition", "monai"]
    assert run(folders, *options, "--unit", "px", "--class-tolerance-mm", "back=1", "-q") == 0
    settings = json.loads((folders / "metrics.json").read_text())["settings"]
    assert settings["definition"] == "monai"
    assert settings["cldice"] == ["back"]
    assert settings["tolerances_px_by_region"] == {"back": [1.0]}
    header = (folders / "metrics.csv").read_text().splitlines()[0]
    assert "nsd_1px,hd95_px" in header
    assert header.endswith(",cldice")


@pytest.mark.parametrize("text", ["back", "back=", "=2", "back=a"])
def test_a_wrong_class_tolerance_is_a_usage_error(folders, text, capsys):
    with pytest.raises(SystemExit) as error:
        run(folders, "--class-tolerance-mm", text)
    assert error.value.code == 2
    assert "--class-tolerance-mm" in capsys.readouterr().err

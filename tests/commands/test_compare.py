"""``samtune compare`` as typed: what is written, printed and refused."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from samtune.commands import compare
from samtune.preprocessing.manifest import load_manifest


def write_table(path, values, protocol=None, patients=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["case,label,name,status,dice,iou,hd95_mm"]
    lines += [f"{case},1,organ,ok,{v},{v / (2 - v)},{1 - v}" for case, v in values.items()]
    path.write_text("\n".join(lines) + "\n")
    if protocol is not None or patients is not None:
        companion = {"protocol": {"prompt": protocol}, "patients": patients}
        path.with_suffix(".json").write_text(json.dumps(companion))
    return path


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    values = {f"case_{i}": float(v) for i, v in enumerate(rng.uniform(0.2, 0.7, size=8))}
    better = {case: value + 0.05 + 0.1 * value for case, value in values.items()}
    return [
        write_table(tmp_path / "zero_shot" / "metrics_test.csv", values, "oracle_box"),
        write_table(tmp_path / "lora" / "metrics_test.csv", better, "none"),
    ]


def run(*options, figures=False):
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    quick = ["--resamples", "200", "--figures" if figures else "--no-figures"]
    return compare.run(parser.parse_args([*map(str, options), *quick]))


def test_tables_names_and_protocols(tables, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*tables, "--out", out) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:3]] == ["zero_shot", "lora"]
    assert "organ: lora - zero_shot = +0." in printed.out
    assert "n 8" in printed.out
    assert "wrote" in printed.err
    lines = (out / "performance.csv").read_text().splitlines()
    assert lines[0].startswith("Method,Mean_IoU,Mean_Dice,n,Protocol,")
    assert [line.split(",")[4] for line in lines[1:]] == ["oracle_box", "none"]
    ranked = (out / "ranking.csv").read_text().splitlines()
    assert ranked[1].startswith("1,organ,dice,lora,none,1.0,1.0,")


def test_names_metric_patients_and_json(tables, tmp_path, capsys):
    patients = tmp_path / "patients.csv"
    patients.write_text("case,patient\n" + "".join(f"case_{i},p{i // 2}\n" for i in range(8)))
    options = ["--names", "before", "after", "--metric", "dice", "--patients", patients]
    assert run(*tables, "--out", tmp_path / "out", *options, "--json", "-q") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err == ""
    assert found["settings"]["unit"] == "patient"
    (row,) = found["comparison"]
    assert (row["method_a"], row["method_b"]) == ("before", "after")
    assert (row["n"], row["n_units"], row["p"]) == (8, 4, 2 / 2**4)


def test_patients_are_those_of_the_tables_companions(tables, tmp_path, capsys):
    values = {f"case_{i}": 0.5 + i / 100 for i in range(8)}
    named = {f"case_{i}": f"p{i // 2}" for i in range(8)}
    other = {case: f"other name of {patient}" for case, patient in named.items()}
    ours = [
        write_table(tmp_path / "a.csv", values, patients=named),
        write_table(tmp_path / "b.csv", {c: v + 0.1 for c, v in values.items()}, patients=other),
    ]
    assert run(*ours, "--out", tmp_path / "1", "--metric", "dice") == 0
    assert f"4 patients, as {tmp_path / 'a.json'} names them" in capsys.readouterr().err
    found = json.loads((tmp_path / "1/comparison.json").read_text())
    assert (found["settings"]["unit"], found["num_patients"]) == ("patient", 4)
    assert found["comparison"][0]["n_units"] == 4
    # one table is enough; --patients is stronger than what the tables say
    assert run(tables[0], ours[1], "--out", tmp_path / "2", "-q") == 0
    assert json.loads((tmp_path / "2/comparison.json").read_text())["num_patients"] == 4
    alone = tmp_path / "alone.csv"
    alone.write_text("case,patient\n" + "".join(f"{case},{case}\n" for case in values))
    assert run(*ours, "--out", tmp_path / "3", "--patients", alone, "-q") == 0
    assert json.loads((tmp_path / "3/comparison.json").read_text())["num_patients"] == 8
    assert run(*tables, "--out", tmp_path / "4", "-q") == 0
    assert json.loads((tmp_path / "4/comparison.json").read_text())["settings"]["unit"] == "case"

    wrong = {**other, "case_1": "somebody else"}
    third = write_table(tmp_path / "c.csv", values, patients=wrong)
    with pytest.raises(ValueError, match=r"c.csv: its JSON joins cases to other patients than .*a"):
        run(*ours, third, "--out", tmp_path / "5")
    write_table(third, values, patients={case: "p" for case in values if case != "case_7"})
    with pytest.raises(ValueError, match=r"c.csv: no patient for case\(s\) case_7"):
        run(*ours, third, "--out", tmp_path / "5")
    assert not (tmp_path / "5").exists()


def test_a_comparison_is_overwritten_with_force_alone(tables, tmp_path):
    options = [*tables, "--out", tmp_path / "out", "-q"]
    assert run(*options) == 0
    with pytest.raises(FileExistsError, match="--force"):
        run(*options)
    assert run(*options, "--force") == 0


def test_other_cases_are_listed_and_nothing_is_written(tables, tmp_path):
    third = write_table(tmp_path / "other.csv", {"case_0": 0.5, "extra": 0.5})
    with pytest.raises(ValueError, match=r"the first alone has case_1, .*case_7; the second alone"):
        run(*tables, third, "--names", "a", "b", "c", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_do_not_fit_are_refused(tables, tmp_path):
    with pytest.raises(ValueError, match="1 names for 2 tables"):
        run(*tables, "--out", tmp_path / "out", "--names", "a")
    assert compare.method_names([tmp_path / "a.csv", tmp_path / "b.csv"], None) == ["a", "b"]
    same = [tmp_path / "x" / "r" / "m.csv", tmp_path / "y" / "r" / "m.csv"]
    assert compare.method_names(same, None) == [str(path.with_suffix("")) for path in same]


def test_without_matplotlib_the_numbers_are_written_all_the_same(
    tables, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    options = [*map(str, tables), "--out", str(tmp_path / "out"), "--resamples", "50"]
    assert compare.run(parser.parse_args(options)) == 0
    assert 'no figures: figures need matplotlib: pip install "samtune[plots]"' in (
        capsys.readouterr().err
    )
    assert (tmp_path / "out" / "comparison.json").is_file()


@pytest.fixture
def predictions(tiny_slices, tiny_volumes, tmp_path):
    """Tables of the test cases, and the references themselves as predictions."""
    cases = sorted({record.case for record in load_manifest(tiny_slices).select("test")})
    tables = [
        write_table(tmp_path / f"{name}.csv", dict(zip(cases, values, strict=True)))
        for name, values in (("zero-shot", (0.25, 0.5)), ("LoRA", (0.75, 0.875)))
    ]
    preds = [f"{name}={tiny_volumes / 'labels'}" for name in ("LoRA", "zero-shot")]
    return tables, preds, cases


def test_grid_of_cases(predictions, tiny_slices, tmp_path):
    tables, preds, cases = predictions
    options = [*tables, "--out", tmp_path / "out", "--slices", tiny_slices, "-q"]
    assert run(*options, "--pred", preds[0], "--pred", preds[1], figures=True) == 0
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.width > 4 * 240  # image, reference and two methods
    svg = (tmp_path / "out" / "grid.svg").read_text()
    assert "zero-shot (Dice 0.25)" in svg  # text is text
    assert svg.count("<image") == 2 * 4  # two cases
    assert (tmp_path / "out" / "grid.pdf").read_bytes().startswith(b"%PDF")
    grid = json.loads((tmp_path / "out" / "comparison.json").read_text())["grid"]
    assert grid["cases"] == {"worst": cases[0], "best": cases[1]}
    assert "lower middle" in grid["rule"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pred", "LoRA=x"], "both --slices and --pred"),
        (["--slices", "SLICES"], "both --slices and --pred"),
        (["--slices", "SLICES", "--pred", "sam=x"], "expected a NAME of zero-shot, LoRA"),
    ],
)
def test_a_grid_needs_slices_and_known_methods(predictions, tiny_slices, tmp_path, options, said):
    tables, _, _ = predictions
    options = [tiny_slices if option == "SLICES" else option for option in options]
    with pytest.raises(ValueError, match=said):
        run(*tables, "--out", tmp_path / "out", *options)


def test_pred_needs_a_name(tables, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*tables, "--out", tmp_path / "out", "--pred", "folder")
    assert "'folder', expected NAME=DIR" in capsys.readouterr().err

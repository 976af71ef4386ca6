"""Where the patient of a case comes from."""

import json

import pytest

from samtune.evaluation.case_patients import patients_of, read_patients


@pytest.mark.parametrize("separator", [",", "\t"])
def test_table(tmp_path, separator):
    path = tmp_path / "patients.csv"
    lines = (("age", "case", "patient"), ("7", "a_1", "a"), ("8", "a_2", "a"), ("9", "b", "b"))
    path.write_text("\n".join(map(separator.join, lines)) + "\n")
    patients = read_patients(path)
    assert patients == {"a_1": "a", "a_2": "a", "b": "b"}
    assert patients_of(["b", "a_2"], patients, path) == ("b", "a")
    with pytest.raises(ValueError, match=r"patients.csv: no patient for case\(s\) c, d"):
        patients_of(["c", "b", "d"], patients, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,subject\na,b\n", "found columns case,subject, expected case,patient"),
        ("case,patient\na,b\na,c\n", "case 'a' has patients b and c"),
        ("case,patient\na,\n", "line 2: a case and its patient"),
    ],
)
def test_bad_table(tmp_path, text, said):
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_patients(path)


def test_manifest_and_its_folder(tmp_path):
    cases = {"a": {"patient": "p"}, "b": {"patient": "p"}, "c": {"patient": None}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"cases": cases}))
    patients = read_patients(path)
    assert patients == read_patients(tmp_path)
    assert patients["a"] == patients["b"] == "p"
    assert patients["c"] not in ("p", "")
    path.write_text(json.dumps({"cases": {"a": {}}}))
    with pytest.raises(ValueError, match="its cases name no patient"):
        read_patients(path)

import pytest

from samtune.preprocessing.patients import PatientRule

CASES = ["Image_01L", "Image_01R", "Image_02L"]


@pytest.mark.parametrize("regex", ["_([0-9]+)[LR]$", "^(?:Image)_(?P<patient>[0-9]+)([LR])$"])
def test_the_group_is_the_patient(regex):
    assert PatientRule(regex).of(CASES) == dict(zip(CASES, ["01", "01", "02"], strict=True))


def test_a_table_gives_the_patients(tmp_path):
    path = tmp_path / "patients.csv"
    table = "\ufeffcase,age,patient\nImage_01L,5,x\nImage_01R,5,x\nImage_02L,6, y \n"
    path.write_text(table, encoding="utf-8")
    rule = PatientRule(csv=path)
    assert rule.of(CASES) == {"Image_01L": "x", "Image_01R": "x", "Image_02L": "y"}
    assert list(rule.to_dict()) == ["sha256"]


def test_cases_without_a_patient_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"'\^\(\.\+\)L\$' gives none for 1 of 3 cases: Image_01R"):
        PatientRule("^(.+)L$").of(CASES)
    path = tmp_path / "patients.csv"
    path.write_text("case,patient\nImage_01L,x\nImage_01R,\n")
    with pytest.raises(ValueError, match=r"none for 2 of 3 cases: Image_01R, Image_02L"):
        PatientRule(csv=path).of(CASES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,person\na,x\n", "columns are case,person; expected case,patient"),
        ("case,patient\na,x\na,y\n", "line 3: case 'a' has two patients, 'x' and 'y'"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        PatientRule(csv=path).of(["a"])


def test_unusable_rules_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        PatientRule(csv=tmp_path / "none.csv").of(["a"])
    for arguments, message in [
        ((None, None), "one of the two"),
        (("(a)", tmp_path), "one of the two"),
        (("a(", None), "is no regular expression"),
        (("a+", None), "has no group"),
    ]:
        with pytest.raises(ValueError, match=message):
            PatientRule(*arguments)

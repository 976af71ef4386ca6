import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.preprocessing.case_ids import safe_case_id, safe_case_ids


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("hippocampus_001", "hippocampus_001"),
        ("Müller 3.1-b", "Müller 3.1-b"),  # good as it is
        ("../x", "_x"),
        ("/etc/passwd", "_etc_passwd"),
        ("..\\..\\x", "_.._x"),
        ("C:\\scans\\1", "C__scans_1"),
        (".hidden", "hidden"),
        ("a. .", "a"),
        ("NUL", "NUL_"),
        ("com1.nii", "com1.nii_"),
        ("a\nb\x00", "a_b_"),
    ],
)
def test_ids_become_names_of_files(text, safe):
    assert safe_case_id(text) == safe


@pytest.mark.parametrize("text", ["", " ", "..", ". ."])
def test_an_id_of_which_nothing_is_left_is_refused(text):
    with pytest.raises(ValueError, match="nothing of it can be the name of a file"):
        safe_case_id(text)


def test_a_long_id_is_refused():
    with pytest.raises(ValueError, match="181 bytes, expected at most 180"):
        safe_case_id("x" * 181)


@given(st.text(max_size=60))
def test_no_id_names_another_folder(text):
    try:
        name = safe_case_id(text)
    except ValueError:
        return
    assert not set(name) & set("/\\:\x00")
    assert not name.startswith(".")
    assert safe_case_id(name) == name


def test_two_ids_of_one_name_are_refused():
    assert safe_case_ids(["a", "b/c"]) == {"a": "a", "b/c": "b_c"}
    with pytest.raises(ValueError, match="cases 'b/c' and 'b_c' would both be written as 'b_c'"):
        safe_case_ids(["b/c", "b_c"])

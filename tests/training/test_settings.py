import pytest

from samtune.training.settings import flag


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), ("false", False), ("True", True), ("off", False)],
)
def test_text_of_a_command_line_is_understood(value, expected):
    assert flag("amp", value) is expected


@pytest.mark.parametrize("value", [1, None, "maybe", "0"])
def test_anything_else_is_refused_with_its_name(value):
    with pytest.raises(ValueError, match="amp must be true or false, got "):
        flag("amp", value)

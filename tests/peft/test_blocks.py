"""Block specifications: what they select, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.peft.blocks import select_blocks


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("last:0", []),
        ("last:2", [3, 4]),
        ("last:5", [0, 1, 2, 3, 4]),
        ("0,4", [0, 4]),
        (" 3 , 1", [1, 3]),
        ("2", [2]),
        ([4, 0], [0, 4]),
        ((1,), [1]),
        ([], []),
    ],
)
def test_selected(spec, expected):
    assert select_blocks(spec, 5) == expected


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("last:6", "last:6"),
        ("last:-1", "last:-1"),
        ("last:", "last:"),
        ("last", "last"),
        ("first:2", "first:2"),
        ("", "''"),
        ("1,,2", "1,,2"),
        ("1-3", "1-3"),
        ("²", "²"),
        ("0,5", "[0, 5]"),
        ([0, 5], "[0, 5]"),
        ([-1], "[-1]"),
        ([1, 1], "[1, 1]"),
        ("1,1", "[1, 1]"),
        ([True], "[True]"),
        ([1.0], "[1.0]"),
        (3, "3"),
    ],
)
def test_refused_with_what_was_given_and_what_there_is(spec, named):
    with pytest.raises(ValueError, match=rf"blocks '?{re.escape(named.strip(chr(39)))}") as info:
        select_blocks(spec, 5)
    assert "expected 'all', 'last:N' or indices from 0 to 4" in str(info.value)


@given(st.integers(0, 40), st.data())
def test_last_n_is_a_suffix_of_all(num_blocks, data):
    n = data.draw(st.integers(0, num_blocks))
    every = select_blocks("all", num_blocks)
    assert every == list(range(num_blocks))
    assert select_blocks(f"last:{n}", num_blocks) == every[num_blocks - n :]


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.integers(31, 40))
def test_list_and_its_text_select_the_same_ascending_indices(indices, num_blocks):
    chosen = select_blocks(indices, num_blocks)
    assert chosen == sorted(indices)
    assert select_blocks(",".join(map(str, indices)), num_blocks) == chosen


@given(st.text(max_size=6) | st.lists(st.integers(-3, 9), max_size=4), st.integers(1, 6))
def test_any_input_gives_valid_indices_or_a_clear_error(spec, num_blocks):
    message = None
    try:
        chosen = select_blocks(spec, num_blocks)
    except ValueError as error:
        message = str(error)
    if message is None:
        assert chosen == sorted(set(chosen))
        assert all(0 <= index < num_blocks for index in chosen)
    else:
        assert message.startswith("blocks ")
        assert f"0 to {num_blocks - 1}" in message

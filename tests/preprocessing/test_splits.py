import pytest

from samtune.preprocessing.splits import read_split_csv, split_cases

NAMES = [f"case_{number:02d}" for number in range(20)]


def sizes(split):
    return [list(split.values()).count(name) for name in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("number", "ratio", "expected"),
    [
        (20, (0.7, 0.1, 0.2), [14, 2, 4]),
        (20, (70, 10, 20), [14, 2, 4]),
        (10, (1, 0, 0), [10, 0, 0]),
        (3, (0.7, 0.1, 0.2), [1, 1, 1]),  # rounded 2, 0, 1; each share > 0 gets a case
        (2, (0.7, 0.1, 0.2), [1, 0, 1]),  # exact 1.4, 0.2, 0.4: a tie, to the smaller
        (1, (0.7, 0.1, 0.2), [1, 0, 0]),
        (7, (0.5, 0.25, 0.25), [3, 2, 2]),  # exact 3.5, 1.75, 1.75
    ],
)
def test_ratios_give_whole_cases(number, ratio, expected):
    split = split_cases(NAMES[:number], ratio=ratio)
    assert sizes(split) == expected
    assert list(split) == NAMES[:number]


def test_counts_are_taken_exactly():
    assert sizes(split_cases(NAMES, counts=(12, 2, 6))) == [12, 2, 6]
    with pytest.raises(ValueError, match=r"counts \(12, 2, 5\) .* is the number of cases, 20"):
        split_cases(NAMES, counts=(12, 2, 5))
    with pytest.raises(ValueError, match="3 numbers >= 0"):
        split_cases(NAMES, counts=(22, -2, 0))


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    split = split_cases(NAMES, seed=3)
    assert split_cases(NAMES[::-1], seed=3) == split
    assert split_cases(NAMES, seed=4) != split
    # the same on every machine and version: sha256("0:a") < sha256("0:c") < sha256("0:b")
    assert split_cases("abc", counts=(1, 1, 1)) == {"a": "train", "b": "test", "c": "val"}


@pytest.mark.parametrize("ratio", [(0.5, 0.5), (0, 0, 0), (1, -1, 1), (float("nan"), 1, 1)])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="must be 3 shares >= 0"):
        split_cases(NAMES, ratio=ratio)


def test_a_case_listed_twice_is_refused():
    with pytest.raises(ValueError, match="case 'a' is listed more than once"):
        split_cases(["a", "b", "a"])


def test_a_csv_is_read_with_byte_order_mark_and_further_columns(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("\ufeffcase,age,split\nb,3,test\na,4, train\n", encoding="utf-8")
    assert read_split_csv(path, ["a", "b"]) == {"a": "train", "b": "test"}
    assert read_split_csv(path) == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\na,train\n", "columns are name,split; expected case,split"),
        ("", "columns are ; expected case,split"),
        ("case,split\na,training\n", "line 2: case 'a' has split 'training'"),
        ("case,split\na\n", "line 2: case 'a' has split ''"),
        ("case,split\na,val\na,val\n", "line 3: case 'a' is there twice"),
        ("case,split\na,val\nx,val\n", "not among the images: x; not in the file: b"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path, text, message):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_split_csv(path, ["a", "b"])
    assert str(path) in str(error.value)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"s\.csv: no such file"):
        read_split_csv(tmp_path / "s.csv")


def test_a_long_list_of_other_cases_is_cut(tmp_path):
    table = tmp_path / "split.csv"
    table.write_text("case,split\nc00,train\n")
    cases = [f"c{number:02d}" for number in range(30)]
    with pytest.raises(ValueError, match=r"not in the file: c01, c02, .*, c08 and 21 more$"):
        read_split_csv(table, cases)

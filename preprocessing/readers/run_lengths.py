"""Labels from a CSV file of run lengths, Kaggle's way by default."""

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from samtune.preprocessing.readers.grid import Array, Grid, Volume, with_values
from samtune.preprocessing.readers.label_rule import LabelRule, RunLengths

SUFFIX = ".csv"
Rows = dict[str, list[tuple[int, str, str]]]
FIELD_LIMIT = 2**27  # characters; the runs of a large mask are one field


def read_run_lengths(path: Path, like: Grid, rule: LabelRule) -> Volume:
    """Label of one image from the rows of a CSV file that name it.

    Args:
        path: the CSV file, UTF-8, with a header line.
        like: grid of the image, of one slice; its file name, with or without suffix, is looked up
            in the image column.
        rule: ``run_lengths`` names the columns; ``overlap`` says whether objects may overlap.

    Returns:
        ``i j 1`` on the image's grid.

    Raises:
        ValueError: a column is missing, no row names the image, or a run is damaged, outside the
            image or on another class.
    """
    if like.shape[2] != 1:
        raise ValueError(f"{path}: run lengths are of 2D images; {like.path} has {like.shape}")
    rows = _rows_of(path, like, rule.run_lengths)
    label = np.zeros(like.shape[:2], np.uint32)
    for line, value, text in rows:
        mask = decode_runs(text, (like.shape[0], like.shape[1]), rule.run_lengths, f"{path}:{line}")
        overlap = int((mask & (label > 0) & (label != value)).sum())
        if overlap and rule.overlap == "error":
            raise ValueError(
                f"{path}:{line}: class {value} overlaps an earlier class in {overlap} pixels; "
                "expected none, or a rule with overlap: later"
            )
        label[mask] = value
    small = label.astype(np.min_scalar_type(int(label.max())))
    return with_values(like, small[:, :, np.newaxis])


def decode_runs(text: str, shape: tuple[int, int], runs: RunLengths, where: str) -> Array:
    """``start length start length ...`` as a bool mask ``rows columns``.

    Args:
        text: runs; empty or ``-1`` is an empty mask.
        shape: rows, columns.
        runs: order and number of the first pixel.
        where: file and line, for messages.

    Raises:
        ValueError: an odd count, no whole numbers, or a run outside the image.
    """
    mask = np.zeros(shape[0] * shape[1], bool)
    text = text.strip()
    if text not in ("", "-1"):
        try:
            numbers = [int(word) for word in text.split()]
        except ValueError as error:
            raise ValueError(f"{where}: run lengths are not whole numbers ({error})") from error
        if len(numbers) % 2:
            raise ValueError(f"{where}: {len(numbers)} numbers; expected pairs of start and length")
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            begin = start - runs.first
            if begin < 0 or length < 1 or begin + length > mask.size:
                raise ValueError(
                    f"{where}: run {start} {length} lies outside the image of {shape[0]} x "
                    f"{shape[1]} pixels"
                )
            mask[begin : begin + length] = True
    return mask.reshape(shape, order="F" if runs.order == "columns" else "C")


def is_run_lengths(path: Path) -> bool:
    """Whether this is a table by its name."""
    return path.name.lower().endswith(SUFFIX)


def has_columns(path: Path, runs: RunLengths) -> bool:
    """Whether a table has the columns of run lengths; its rows are not read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = csv.DictReader(file).fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return not _missing(columns, runs)


def named_images(path: Path, runs: RunLengths) -> list[str]:
    """Names in the image column, each once, in order.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a table with these columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a table of run lengths")
    return list(_table(path, runs))


def _rows_of(path: Path, like: Grid, runs: RunLengths) -> list[tuple[int, int, str]]:
    """Line, class and runs of the rows that name the image."""
    table = _table(path, runs)
    names = dict.fromkeys((like.path.name, like.path.stem))
    found: list[tuple[int, int, str]] = []
    for line, value, text in (row for name in names for row in table.get(name, ())):
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{path}:{line}: class {value!r}; expected a whole number >= 1")
        found.append((line, int(value), text))
    if not found:
        raise ValueError(f"{path}: no row names {like.path.name} in column {runs.image}")
    return sorted(found)


def _table(path: Path, runs: RunLengths) -> Rows:
    """Image name to its rows: line, class, runs. Kept for the next image of the same table."""
    state = path.stat()
    return _read_table(path, runs, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # thousands of images share a table of many megabytes
def _read_table(path: Path, runs: RunLengths, changed_ns: int, size: int) -> Rows:
    csv.field_size_limit(FIELD_LIMIT)
    found: Rows = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = _missing(columns, runs)
            if missing:
                raise ValueError(
                    f"{path}: has no column {', '.join(missing)}; its columns are "
                    f"{', '.join(columns)}"
                )
            for row in reader:
                value = (row[runs.value] or "").strip() if runs.value else "1"
                name = (row[runs.image] or "").strip()
                text = row[runs.pixels] or ""
                found.setdefault(name, []).append((reader.line_num, value, text))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable CSV file ({error})") from error
    return found


def _missing(columns: Sequence[str], runs: RunLengths) -> list[str]:
    wanted = [runs.image, runs.pixels, *([runs.value] if runs.value else [])]
    return [name for name in wanted if name not in columns]

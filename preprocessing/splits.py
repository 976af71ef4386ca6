"""Which case is for training, validation or test. Always whole cases, never slices."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SPLITS = ("train", "val", "test")
DEFAULT_RATIO = (0.7, 0.1, 0.2)


def split_cases(
    cases: Iterable[str],
    *,
    ratio: Sequence[float] = DEFAULT_RATIO,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """Assign each case to ``train``, ``val`` or ``test``.

    The order of drawing is that of SHA-256 of seed and case id, so it depends neither on the
    order of ``cases`` nor on a library's random numbers.

    Args:
        cases: case ids, each once.
        ratio: shares of train, val and test, >= 0, scaled to sum 1. Counts are rounded by the
            largest remainder; a share > 0 gets at least one case if there are enough cases.
        counts: numbers of cases in place of ``ratio``; their sum is the number of cases.
        seed: another seed is another split.

    Returns:
        Case id to split, sorted by case id.

    Raises:
        ValueError: a case twice, or a ratio or counts that cannot be used.
    """
    names = list(cases)
    twice = sorted(case for case, number in Counter(names).items() if number > 1)
    if twice:
        raise ValueError(f"split: case {twice[0]!r} is listed more than once")
    counts = split_counts(len(names), ratio, counts)
    splits = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(sorted(zip(drawing_order(names, seed), splits, strict=True)))


def drawing_order(names: Iterable[str], seed: int) -> list[str]:
    """Names by SHA-256 of seed and name."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def split_counts(
    number: int, ratio: Sequence[float] = DEFAULT_RATIO, counts: Sequence[int] | None = None
) -> list[int]:
    """Numbers of cases for train, val and test, see :func:`split_cases`.

    Raises:
        ValueError: a ratio or counts that cannot be used.
    """
    if counts is None:
        return _counts_of(number, ratio)
    if len(counts) != 3 or min(counts) < 0 or sum(counts) != number:
        raise ValueError(
            f"split: counts {tuple(counts)} must be 3 numbers >= 0 (train, val, test) whose sum "
            f"is the number of cases, {number}"
        )
    return list(counts)


def _counts_of(number: int, ratio: Sequence[float]) -> list[int]:
    if len(ratio) != 3 or not min(ratio) >= 0 or not 0 < sum(ratio) < float("inf"):
        raise ValueError(
            f"split: ratio {tuple(ratio)} must be 3 shares >= 0 (train, val, test), not all 0"
        )
    exact = [number * share / sum(ratio) for share in ratio]
    counts = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(  # ties go to the split with fewer cases
        range(3), key=lambda index: (round(counts[index] - exact[index], 9), counts[index], index)
    )
    for index in by_remainder[: number - sum(counts)]:
        counts[index] += 1
    wanted = [index for index in range(3) if ratio[index] > 0]
    if number >= len(wanted):
        for index in wanted:
            if counts[index] == 0:
                counts[counts.index(max(counts))] -= 1
                counts[index] = 1
    return counts


def read_case_column(path: Path, column: str) -> Iterator[tuple[int, str, str]]:
    """(line, case, value) of each row of a CSV with the columns ``case`` and ``column``.

    UTF-8; further columns are ignored, spaces around the values removed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a CSV with columns case,{column}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if not {"case", column} <= set(columns):
            raise ValueError(f"{path}: columns are {','.join(columns)}; expected case,{column}")
        for row in reader:
            yield reader.line_num, (row["case"] or "").strip(), (row[column] or "").strip()


def read_split_csv(path: Path, cases: Iterable[str] | None = None) -> dict[str, str]:
    """Read a split from a CSV with the columns ``case`` and ``split``.

    Args:
        path: the file, UTF-8; further columns are ignored.
        cases: the cases there are; None skips this comparison.

    Returns:
        Case id to ``train``, ``val`` or ``test``, sorted by case id.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, an unknown split, a case twice, or cases of the file that
            are not in ``cases`` or the reverse.
    """
    path = Path(path)
    split: dict[str, str] = {}
    for line, case, name in read_case_column(path, "split"):
        if name not in SPLITS:
            raise ValueError(
                f"{path}: line {line}: case {case!r} has split {name!r}; "
                "expected train, val or test"
            )
        if case in split:
            raise ValueError(f"{path}: line {line}: case {case!r} is there twice")
        split[case] = name
    if cases is not None:
        wanted = set(cases)
        unknown, missing = sorted(set(split) - wanted), sorted(wanted - set(split))
        if unknown or missing:
            raise ValueError(
                f"{path}: must list exactly the {len(wanted)} cases; "
                f"not among the images: {_some(unknown)}; not in the file: {_some(missing)}"
            )
    return dict(sorted(split.items()))


def _some(cases: Sequence[str], most: int = 8) -> str:
    """The first of a list that may be long."""
    more = f" and {len(cases) - most} more" if len(cases) > most else ""
    return ", ".join(cases[:most]) + more if cases else "none"

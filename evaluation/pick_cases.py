"""Which cases a picture of several methods shows, by a rule that favours none of them."""

from collections.abc import Sequence

import numpy as np

from samtune.evaluation.score_table import ScoreTable, headline_classes

PLACES = ("worst", "median", "best")
RULE = (
    "a case's score is the mean of its Dice over the classes of every method, nan left out; worst "
    "and best are the lowest and highest, median is the lower middle; equal ones by name"
)


def pick_cases(tables: Sequence[ScoreTable], *, metric: str = "dice") -> dict[str, str]:
    """The worst, median and best case by ``RULE``; fewer than three where there are fewer cases.

    Args:
        tables: methods on the same cases.
        metric: a column where higher is better.

    Returns:
        Place to case.

    Raises:
        ValueError: no case has a value.
    """
    scores = case_scores(tables, metric)
    ordered = sorted(scores, key=lambda case: (scores[case], case))
    if not ordered:
        raise ValueError(f"no case has a {metric} in any table: there is none to show")
    places = (0, (len(ordered) - 1) // 2, len(ordered) - 1)
    picked: dict[str, str] = {}
    for place, index in zip(PLACES, places, strict=True):
        if ordered[index] not in picked.values():
            picked[place] = ordered[index]
    return picked


def case_scores(tables: Sequence[ScoreTable], metric: str = "dice") -> dict[str, float]:
    """Mean of each case over methods and classes; cases whose values are all NaN are left out."""
    columns = [
        table.scores[key][metric]
        for table in tables
        for key in headline_classes([key for key in table.classes if metric in table.scores[key]])
    ]
    if not columns:
        return {}
    values = np.stack(columns, axis=1)
    return {
        case: float(row[np.isfinite(row)].mean())
        for case, row in zip(tables[0].cases, values, strict=True)
        if np.isfinite(row).any()
    }

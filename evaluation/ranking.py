"""Ranks of methods: by case first, then averaged, and how they hold when other cases are drawn.

Ranking by case needs no number for an infinite distance, and no case outweighs the others (as in
the ranking of challenges, Maier-Hein et al. 2018). The rank of the means stands beside it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from samtune.evaluation.bootstrap import resample_weights, unit_index
from samtune.evaluation.metric_kinds import MetricKind, metric_kind
from samtune.evaluation.paired import fill_correct_empty, settled
from samtune.evaluation.score_table import ClassKey, ScoreTable, headline_classes

Floats: TypeAlias = npt.NDArray[np.float64]

RANKING_RESAMPLES = 1000
ALL_CLASSES: ClassKey = ("all", "all")


@dataclass(frozen=True)
class RankingRow:
    """A method's place in one metric and class, or over all classes.

    Attributes:
        label, name: of the class; ``all``: mean ranks averaged over the classes.
        metric: column.
        method: name.
        rank: of the mean rank; methods that tie share the average of their places.
        mean_rank: over cases, 1 is best; an infinite distance ranks last, ties share.
        rank_low, rank_high: 2.5 % and 97.5 % quantiles of the rank over resampled cases.
        share_first: of the resamples in which no method has a lower mean rank.
        share_same_rank: of the resamples in which the method has this very rank.
        rank_of_mean: rank of the mean value (of the median, where values can be infinite), for
            ``all`` of the mean of these ranks over the classes.
        n: cases ranked, for ``all`` in any class.
        n_left_out: the others; some method's value is undefined there.
    """

    label: str
    name: str
    metric: str
    method: str
    rank: float
    mean_rank: float
    rank_low: float
    rank_high: float
    share_first: float
    share_same_rank: float
    rank_of_mean: float
    n: int
    n_left_out: int


@dataclass(frozen=True)
class _CaseRanks:
    """Ranks of one class and metric: ``n k`` (NaN: left out) and of the means, ``k``."""

    ranks: Floats
    means: Floats


def rank_methods(
    tables: Sequence[ScoreTable],
    metrics: Sequence[str],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = RANKING_RESAMPLES,
    seed: int = 0,
) -> list[RankingRow]:
    """Rank the methods by metric and class, and over all classes.

    Args:
        tables: of the same sorted cases and classes.
        metrics: columns that all have.
        patients: of each case, drawn with all their cases; None: each case is its own.
        resamples, seed: of the bootstrap.

    Returns:
        By metric, then class in the tables' order (``all`` last), then rank.
    """
    units = unit_index(patients, len(tables[0].cases))
    rows = []
    for metric in metrics:
        by_class = {
            key: _case_ranks(tables, key, metric)
            for key in tables[0].classes
            if all(metric in table.scores[key] for table in tables)
        }
        blocks = [(key, [found]) for key, found in by_class.items()]
        if len(by_class) > 1:
            parts = [by_class[key] for key in headline_classes(list(by_class))]
            blocks.append((ALL_CLASSES, parts))
        for key, parts in blocks:
            rows += _rank_block(tables, key, metric, parts, units, resamples, seed)
    return rows


def rank_cases(values: Floats, kind: MetricKind) -> Floats:
    """Ranks within each case, ``n k``: 1 is best, ties share the average; NaN rows stay NaN.

    Args:
        values: ``n k``, a column a method.
        kind: which way is better.
    """
    badness = np.vectorize(kind.badness, otypes=[np.float64])(values)
    ranks = np.full(values.shape, np.nan)
    defined = ~np.isnan(values).any(axis=1)
    if defined.any():
        ranks[defined] = stats.rankdata(badness[defined], axis=1)
    return ranks


def _case_ranks(tables: Sequence[ScoreTable], key: ClassKey, metric: str) -> _CaseRanks:
    kind = metric_kind(metric)
    assert kind is not None
    columns = [settled(table.scores[key][metric], kind, table.statuses[key]) for table in tables]
    defined = (~np.isnan(np.stack(columns, axis=1))).sum(axis=1)
    others = np.where(defined > 0, defined.astype(np.float64), np.nan)
    values = np.stack(
        [
            fill_correct_empty(column, others, kind, table.statuses[key])[0]
            for column, table in zip(columns, tables, strict=True)
        ],
        axis=1,
    )
    ranks = rank_cases(values, kind)
    used = values[~np.isnan(ranks[:, 0])]
    if not len(used):
        return _CaseRanks(ranks, np.full(len(tables), np.nan))
    middle = used.mean(axis=0) if kind.is_bounded else np.median(used, axis=0)
    means = np.array([kind.badness(value) for value in middle.tolist()], dtype=np.float64)
    return _CaseRanks(ranks, means)


def _rank_block(
    tables: Sequence[ScoreTable],
    key: ClassKey,
    metric: str,
    parts: Sequence[_CaseRanks],
    units: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> list[RankingRow]:
    num_units = int(units.max()) + 1
    mean_rank = _mean_ranks(parts, units, np.ones((1, num_units)))[0]
    rank = _rank(mean_rank[None])[0]
    drawn = np.concatenate(
        [
            _rank(_mean_ranks(parts, units, weights))
            for weights in resample_weights(num_units, resamples, seed)
        ]
    )
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    of_means = [_rank(part.means[None]) for part in parts]
    rank_of_mean = _rank(_nan_mean(of_means))[0]
    ranked = int(np.any([~np.isnan(part.ranks[:, 0]) for part in parts], axis=0).sum())
    rows = [
        RankingRow(
            *key,
            metric,
            table.method,
            rank=float(rank[i]),
            mean_rank=float(mean_rank[i]),
            rank_low=_quantile(drawn[:, i], 0.025),
            rank_high=_quantile(drawn[:, i], 0.975),
            share_first=_share(drawn[:, i] == drawn.min(axis=1, initial=np.inf)),
            share_same_rank=_share(drawn[:, i] == rank[i]),
            rank_of_mean=float(rank_of_mean[i]),
            n=ranked,
            n_left_out=len(units) - ranked,
        )
        for i, table in enumerate(tables)
    ]
    return sorted(rows, key=lambda row: (row.rank, row.method))


def _mean_ranks(
    parts: Sequence[_CaseRanks], units: npt.NDArray[np.intp], weights: Floats
) -> Floats:
    """Mean rank of each method in each draw, ``b k``: over the drawn cases, then over classes."""
    means = []
    for part in parts:
        used = ~np.isnan(part.ranks)
        of_cases = weights[:, units]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((of_cases @ np.where(used, part.ranks, 0.0)) / (of_cases @ used))
    return _nan_mean(means)


def _nan_mean(values: Sequence[Floats]) -> Floats:
    """Mean over a list of arrays, classes without a value left out; NaN where there is none."""
    stack = np.stack(values)
    used = ~np.isnan(stack)
    count = used.sum(axis=0)
    total = np.where(used, stack, 0.0).sum(axis=0)
    means: Floats = np.divide(total, count, where=count > 0, out=np.full(total.shape, np.nan))
    return means


def _rank(means: Floats) -> Floats:
    # rounded: a tie must not hang on the order in which ranks were summed
    return np.asarray(
        stats.rankdata(np.round(means, 9), axis=1, nan_policy="propagate"), dtype=np.float64
    )


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


def _share(claims: npt.NDArray[np.bool_]) -> float:
    return float(claims.mean()) if len(claims) else float("nan")

"""Several methods on the same cases: which tables may be compared, and everything that is computed.

Nothing here depends on the order of a table's rows. The order of the tables decides the sign of the
differences (second minus first) and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from samtune.evaluation.bootstrap import RESAMPLES
from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.paired import PairedResult, compare_pair, with_holm
from samtune.evaluation.performance import Performance, measure_performance
from samtune.evaluation.ranking import RANKING_RESAMPLES, RankingRow, rank_methods
from samtune.evaluation.score_table import ClassKey, ScoreTable

# settings in which tables must agree for their numbers to mean the same
_DEFINING = ("definition", "definition_version")


@dataclass(frozen=True)
class ComparisonSettings:
    """How to compare.

    Attributes:
        metrics: columns to compare; None: every score that all tables share.
        seed: of every resampling.
        resamples: of each interval.
        ranking_resamples: of the ranking.
    """

    metrics: tuple[str, ...] | None = None
    seed: int = 0
    resamples: int = RESAMPLES
    ranking_resamples: int = RANKING_RESAMPLES


@dataclass(frozen=True)
class PairRow:
    """One test: two methods, a class and a metric."""

    label: str
    name: str
    metric: str
    method_a: str
    method_b: str
    higher_is_better: bool
    result: PairedResult


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_tables` found.

    Attributes:
        tables: as given.
        patients: patient of each case; None: each case is its own.
        settings: as given, with the metrics that were compared.
        not_shared: score columns that some table lacks, left out.
        pairs: one row a pair of methods, class and metric.
        ranking: one row a method, class and metric, and over all classes.
        performance: one row a method, over every score that the tables share.
    """

    tables: tuple[ScoreTable, ...]
    patients: tuple[str, ...] | None
    settings: ComparisonSettings
    not_shared: tuple[str, ...]
    pairs: tuple[PairRow, ...]
    ranking: tuple[RankingRow, ...]
    performance: tuple[Performance, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases, sorted."""
        return self.tables[0].cases

    @property
    def num_tests(self) -> int:
        """Tests that Holm's correction is over."""
        return sum(row.result.p == row.result.p for row in self.pairs)


def compare_tables(
    tables: Sequence[ScoreTable],
    *,
    patients: Sequence[str] | None = None,
    settings: ComparisonSettings | None = None,
) -> Comparison:
    """Compare every pair of tables, rank them all and measure each.

    Args:
        tables: at least two, of the same cases and classes.
        patients: of each case, in the order of the sorted cases.
        settings: see :class:`ComparisonSettings`.

    Raises:
        ValueError: fewer than two tables, two of one name, other cases, classes or definitions
            (lists what differs), or a metric that a table lacks.
    """
    settings = settings or ComparisonSettings()
    check_comparable(tables)
    shared, not_shared = _shared_metrics(tables)
    metrics = shared if settings.metrics is None else _wanted_metrics(settings.metrics, shared)
    bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
    rows = []
    for key in tables[0].classes:
        for metric in metrics:
            if any(metric not in table.scores[key] for table in tables):
                continue  # not asked for in this class
            for a, b in combinations(tables, 2):
                kind = metric_kind(metric)
                assert kind is not None  # only such columns are read
                result = compare_pair(
                    a.scores[key][metric],
                    b.scores[key][metric],
                    kind,
                    statuses_a=a.statuses[key],
                    statuses_b=b.statuses[key],
                    groups=patients,
                    **bootstrap,
                )
                rows.append(
                    PairRow(*key, metric, a.method, b.method, kind.higher_is_better, result)
                )
    corrected = with_holm([row.result for row in rows])
    return Comparison(
        tables=tuple(tables),
        patients=None if patients is None else tuple(patients),
        settings=ComparisonSettings(
            tuple(metrics), settings.seed, settings.resamples, settings.ranking_resamples
        ),
        not_shared=tuple(not_shared),
        pairs=tuple(
            replace(row, result=result) for row, result in zip(rows, corrected, strict=True)
        ),
        ranking=tuple(
            rank_methods(
                tables,
                metrics,
                patients=patients,
                resamples=settings.ranking_resamples,
                seed=settings.seed,
            )
        ),
        performance=tuple(
            measure_performance(table, shared, patients=patients, **bootstrap) for table in tables
        ),
    )


def check_comparable(tables: Sequence[ScoreTable]) -> None:
    """Refuse tables whose numbers can't be paired.

    Raises:
        ValueError: fewer than two, two of one name, or other cases, classes or definitions; lists
            what differs.
    """
    if len(tables) < 2:
        raise ValueError(f"{len(tables)} table(s) to compare, expected at least two")
    names = [table.method for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two tables are called '{name}'; give each its own name (--names)")
    first = tables[0]
    for table in tables[1:]:
        pair = f"{first.path} and {table.path}"
        _same_sets(pair, "cases", first.cases, table.cases)
        _same_sets(pair, "classes", _texts(first.classes), _texts(table.classes))
        for setting in _DEFINING:
            found, other = (_setting(t.companion, setting) for t in (first, table))
            if found is not None and other is not None and found != other:
                raise ValueError(
                    f"{pair} have other {setting}s, {found} and {other}: their numbers don't "
                    "mean the same; score the predictions again with one"
                )


def _same_sets(pair: str, what: str, first: Sequence[str], second: Sequence[str]) -> None:
    only_first = [item for item in first if item not in set(second)]
    only_second = [item for item in second if item not in set(first)]
    if only_first or only_second:
        parts = [
            f"{which} alone has {', '.join(items)}"
            for which, items in (("the first", only_first), ("the second", only_second))
            if items
        ]
        raise ValueError(f"{pair} have other {what}: {'; '.join(parts)}")


def _texts(classes: Sequence[ClassKey]) -> list[str]:
    return [f"{label}:{name}" for label, name in classes]


def _setting(companion: Mapping[str, Any], name: str) -> Any:
    settings = companion.get("settings")
    return settings.get(name) if isinstance(settings, dict) else None


def _shared_metrics(tables: Sequence[ScoreTable]) -> tuple[list[str], list[str]]:
    """Score columns of every table, in the first one's order, and those that some table lacks."""
    columns = [
        list(dict.fromkeys(metric for scores in table.scores.values() for metric in scores))
        for table in tables
    ]
    shared = [metric for metric in columns[0] if all(metric in own for own in columns)]
    if not shared:
        raise ValueError(
            f"{tables[0].path} and the others share no score column; the first has "
            f"{', '.join(columns[0]) or 'none'}"
        )
    every = dict.fromkeys(metric for own in columns for metric in own)
    return shared, sorted(metric for metric in every if metric not in shared)


def _wanted_metrics(wanted: Sequence[str], shared: Sequence[str]) -> list[str]:
    for metric in wanted:
        if metric not in shared:
            raise ValueError(
                f"metric '{metric}' is not in every table; they share {', '.join(shared)}"
            )
    return list(dict.fromkeys(wanted))

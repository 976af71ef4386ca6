"""One line a method, as the table of a paper: means over classes of the means over cases."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from samtune.evaluation.bootstrap import RESAMPLES, bca_ends, unit_index
from samtune.evaluation.metric_kinds import metric_kind
from samtune.evaluation.score_table import ClassKey, ScoreTable, headline_classes
from samtune.evaluation.summary_statistics import MetricSummary, summarise_metric

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MacroMean:
    """Mean over classes of the class means, with its bootstrap interval over cases.

    Attributes:
        mean: NaN values of a class (in neither mask) are left out of that class's mean; a class
            without any defined value is left out of the mean over classes.
        low, high: 95 % BCa; whole cases, or patients, are drawn.
        n_nan: values left out.
        n_inf: infinite values; left out too, so read ``mean`` of a distance with this.
    """

    mean: float
    low: float
    high: float
    n_nan: int
    n_inf: int


@dataclass(frozen=True)
class Performance:
    """How one method did.

    Attributes:
        method, protocol: name, and how it was prompted.
        n: cases.
        n_missing_pred, n_failed: cases without a prediction, and that couldn't be scored; these
            count as the worst.
        macro: metric -> mean over classes.
        classes: class -> metric -> statistics.
    """

    method: str
    protocol: str
    n: int
    n_missing_pred: int
    n_failed: int
    macro: dict[str, MacroMean]
    classes: dict[ClassKey, dict[str, MetricSummary]]


def measure_performance(
    table: ScoreTable,
    metrics: Sequence[str],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Performance:
    """Summarise a table by class, and over its classes.

    Args:
        table: one method's scores.
        metrics: columns to summarise.
        patients: of each case; None: each case is its own.
        resamples, seed: of the bootstrap.
    """
    caps = [table.diagonals.get(case, np.nan) for case in table.cases]
    classes: dict[ClassKey, dict[str, MetricSummary]] = {key: {} for key in table.classes}
    macro = {}
    for metric in metrics:
        having = [key for key in table.classes if metric in table.scores[key]]
        for key in having:
            classes[key][metric] = summarise_metric(
                table.scores[key][metric].tolist(),
                groups=patients,
                caps=caps,
                resamples=resamples,
                seed=seed,
            )
        columns = [table.scores[key][metric] for key in headline_classes(having)]
        kind = metric_kind(metric)
        values = np.stack(columns, axis=1)
        macro[metric] = macro_mean(
            np.abs(values) if kind is not None and kind.is_signed else values,
            groups=patients,
            resamples=resamples,
            seed=seed,
        )
    return Performance(
        method=table.method,
        protocol=table.protocol,
        n=len(table.cases),
        n_missing_pred=_cases_with(table, "missing_pred"),
        n_failed=_cases_with(table, "failed"),
        macro=macro,
        classes=classes,
    )


def macro_mean(
    values: Floats,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MacroMean:
    """Mean over classes of the means over cases.

    Args:
        values: ``n k``, a row a case and a column a class; NaN and inf are left out and counted.
        groups: patient of each case.
        resamples, seed: of the bootstrap.
    """
    used = np.isfinite(values)
    units = unit_index(groups, len(values))
    num_units = int(units.max(initial=-1)) + 1
    sums, counts = np.zeros((2, num_units, values.shape[1]))
    np.add.at(sums, units, np.where(used, values, 0.0))
    np.add.at(counts, units, used.astype(np.float64))

    def statistic(weights: Floats) -> Floats:
        drawn = weights @ counts
        has = drawn > 0
        means = np.divide(weights @ sums, drawn, where=has, out=np.zeros_like(drawn))
        with np.errstate(invalid="ignore"):
            return np.asarray(means.sum(axis=1) / has.sum(axis=1), dtype=np.float64)

    mean = float(statistic(np.ones((1, num_units)))[0])
    low, high = bca_ends(statistic, num_units, resamples=resamples, seed=seed)
    return MacroMean(mean, low, high, int(np.isnan(values).sum()), int(np.isinf(values).sum()))


def _cases_with(table: ScoreTable, status: str) -> int:
    marked = np.array([[s == status for s in table.statuses[key]] for key in table.classes])
    return int(marked.any(axis=0).sum())

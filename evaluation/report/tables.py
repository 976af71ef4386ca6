"""Tables of the report."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from samtune.evaluation.report.markup import Markup, join, tag
from samtune.evaluation.report.scores import CaseScore, Metric, interval_of, region_names

VOLUMES = {
    "volume_ref_ml": "reference ml",
    "volume_pred_ml": "prediction ml",
    "volume_error_ml": "error ml",
}
MAX_ROWS = 6000  # of the table of all values; the file has the others


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True
) -> Markup:
    """A table that scrolls in its own frame where the screen is narrow; first cells are heads.

    Args:
        caption: above the table.
        head: of the columns.
        rows: text of the cells.
        numbers: cells stay on one line and the first column stays in sight.
    """
    lines = [
        tag("tr", tag("th", line[0], scope="row"), *(tag("td", cell) for cell in line[1:]))
        for line in rows
    ]
    body = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", text, scope="col") for text in head))),
        tag("tbody", *lines),
        class_="numbers-table" if numbers else None,
    )
    return tag("div", body, class_="scroll", role="region", aria_label=caption, tabindex=0)


def facts_table(caption: str, facts: Mapping[str, str], head: Sequence[str]) -> Markup:
    """Two columns: name and value."""
    return table(caption, head, facts.items(), numbers=False)


def summary_table(
    scores: Sequence[CaseScore],
    names: Sequence[str],
    metrics: Sequence[Metric],
    patients: Mapping[str, str],
) -> Markup:
    """A line a class and metric: mean with its interval, median, extent and what is left out."""
    lines = []
    for name in names:
        of_class = [score for score in scores if score.name == name]
        for metric in metrics:
            lines.append([name, metric.title, *_summary(of_class, metric, patients)])
    head = ["class", "metric", "mean", "95 % interval", "median", "lowest", "highest"]
    head += ["cases", "undefined", "infinite"]
    return table("Metrics over the cases, by class", head, lines)


def _summary(scores: Sequence[CaseScore], metric: Metric, patients: Mapping[str, str]) -> list[str]:
    values = [score.value(metric) for score in scores]
    known = [value for value in values if not math.isnan(value)]
    infinite = sum(map(math.isinf, known))
    counts = [str(len(values)), str(len(values) - len(known)), str(infinite)]
    if not known:
        return ["undefined", "", "", "", "", *counts]
    interval = interval_of(scores, metric, patients)
    if math.isnan(interval.mean):
        mean, ends = "infinite", ""
    else:
        mean, ends = metric.text(interval.mean), "too few " + ("patients" if patients else "cases")
        if infinite:
            mean += " (of the finite)"
    if not math.isnan(interval.low):
        ends = metric.extent(interval.low, interval.high)
    others = (float(np.median(known)), min(known), max(known))
    return [mean, ends, *map(metric.text, others), *counts]


def case_table(scores: Sequence[CaseScore], metrics: Sequence[Metric], file: str) -> Markup:
    """Every case and class with its values."""
    columns = {column for score in scores for column in score.values}
    volumes = [column for column in VOLUMES if column in columns]
    cases = list(dict.fromkeys(score.case for score in scores))
    most = max(1, MAX_ROWS // len(region_names(scores)))
    kept = set(cases[:most])
    lines = [
        [
            score.case,
            score.name,
            score.status.replace("_", " "),
            *(metric.text(score.values.get(metric.column, math.nan)) for metric in metrics),
            *(_volume(score.values.get(column, math.nan)) for column in volumes),
        ]
        for score in scores
        if score.case in kept
    ]
    head = ["case", "class", "status", *(metric.title for metric in metrics)]
    head += [VOLUMES[column] for column in volumes]
    note = (
        tag("p", f"The first {most} of {len(cases)} cases; {file} has all.")
        if len(cases) > most
        else join()
    )
    return join(note, table("Values of every case", head, lines))


def _volume(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"

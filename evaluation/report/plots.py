"""Plots as inline SVG: places across are percentages, so text keeps its size on any screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from samtune.evaluation.report.markup import Markup, join, tag
from samtune.evaluation.report.scores import CaseScore, Metric, interval_of

ROW, LABEL, MEAN, AXIS = 88, 20, 80, 28  # pixels: a class, its name, its mean, the axis below
RADIUS = 5
MAX_POINTS = 400  # a row; of more cases evenly spaced ones are drawn
LANE = 1.6  # percent of the width within which points are moved apart
INFINITE = 100.0  # percent: infinite distances stand at the right edge


@dataclass(frozen=True)
class Axis:
    """Value to place: ``low`` to ``high`` covers 0 to ``end`` percent of the width."""

    low: float
    high: float
    end: float = 100.0

    def place(self, value: float) -> float:
        """Percent of the width."""
        if math.isinf(value):
            return INFINITE
        return round((value - self.low) / (self.high - self.low) * self.end, 2)

    def ticks(self) -> list[float]:
        """Round values from ``low`` to ``high``, about five."""
        step = nice_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, of which three to six go into ``span``."""
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * f for f in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (power * f) <= 6)


def metric_axis(metric: Metric, values: Sequence[float]) -> Axis:
    """The axis of a metric: from 0 to a round number above the largest distance, or up to 1.

    Points say a value by their place, not by their length, so the axis up to 1 need not begin at
    0: it begins at the tenth below the smallest value, 0.8 at most.
    """
    if not metric.is_distance:
        smallest = min((v for v in values if math.isfinite(v)), default=0.0)
        return Axis(max(0.0, min(0.8, math.floor(smallest * 10) / 10)), 1.0)
    largest = max((v for v in values if math.isfinite(v)), default=0.0) or 1.0
    step = nice_step(largest)
    has_infinite = any(math.isinf(v) for v in values)
    return Axis(0.0, math.ceil(largest / step - 1e-9) * step, 88.0 if has_infinite else 100.0)


def point_plot(
    scores: Sequence[CaseScore],
    names: Sequence[str],
    metric: Metric,
    case_ids: Mapping[str, str],
    *,
    patients: Mapping[str, str],
    most: int = MAX_POINTS,
) -> Markup:
    """Every case's point by class, with median and the interval of the mean.

    Args:
        scores: all rows.
        names: classes, a row each.
        metric: what is plotted.
        case_ids: case to its key in the page, by which the same case is found in other plots.
        patients: case to patient, whom the intervals draw; empty: each case is its own.
        most: points of a row; of more cases evenly spaced ones are drawn, and the row says so.
    """
    column = metric.column
    axis = metric_axis(metric, [s.values.get(column, math.nan) for s in scores])
    rows = []
    for number, name in enumerate(names):
        of_class = [s for s in scores if s.name == name]
        top = number * ROW
        rows.append(
            tag(
                "g",
                *_class_row(of_class, name, metric, axis, top, case_ids, most),
                *_mean_mark(of_class, metric, axis, top + MEAN, patients),
                class_="row",
            )
        )
    height = len(names) * ROW
    infinite = axis.end < 100.0
    svg = tag(
        "svg",
        *_axis_lines(axis, height, "inf" if infinite else None),
        *rows,
        class_="plot",
        height=height + AXIS,
        role="group",
        aria_label=f"{metric.title} of every case by class; arrow keys go from case to case",
    )
    direction = "low is good" if metric.is_distance else "1 is best"
    unit = f" ({metric.unit})" if metric.unit else ""
    return tag(
        "figure",
        tag("figcaption", tag("strong", f"{metric.title}{unit}"), f": {direction}"),
        tag("div", svg, class_="frame"),
        tag("p", "Point at a case to read its value.", class_="readout", role="status"),
        class_="points",
    )


def _class_row(
    scores: Sequence[CaseScore],
    name: str,
    metric: Metric,
    axis: Axis,
    top: int,
    case_ids: Mapping[str, str],
    most: int,
) -> list[Markup]:
    known = [s for s in scores if not math.isnan(s.values.get(metric.column, math.nan))]
    known.sort(key=lambda s: (s.values[metric.column], s.case))
    undefined = len(scores) - len(known)
    drawn = evenly(known, most)
    notes = [f"{undefined} undefined"] if undefined else []
    notes += [f"{len(drawn)} of {len(known)} drawn"] if len(drawn) < len(known) else []
    note = f" ({', '.join(notes)})" if notes else ""
    middle = top + LABEL + 28
    marks = [tag("text", f"{name}{note}", x=0, y=top + 14, class_="name")]
    lanes: dict[int, int] = {}
    for score in drawn:
        value = score.values[metric.column]
        place = axis.place(value)
        lane = int(place / LANE)
        number = lanes[lane] = lanes.get(lane, -1) + 1
        # 0, 1, -1, 2, -2, ... steps from the middle, as far as the row goes
        steps = (number + 1) // 2 * (1 if number % 2 else -1)
        y = middle + max(-20, min(20, steps * RADIUS * 2))
        text = f"{score.case}, {name}: {metric.title} {metric.text(value)}"
        if score.status != "ok":
            text += f" ({score.status.replace('_', ' ')})"
        marks.append(
            tag(
                "circle",
                tag("title", text),
                cx=f"{place}%",
                cy=y,
                r=RADIUS,
                class_="dot" if score.status == "ok" else "dot odd",
                data_case=case_ids[score.case],
                tabindex=0 if score is drawn[0] and top == 0 else -1,
                role="img",
                aria_label=text,
            )
        )
    return marks


def _mean_mark(
    scores: Sequence[CaseScore], metric: Metric, axis: Axis, y: int, patients: Mapping[str, str]
) -> list[Markup]:
    """A bar from end to end of the mean's interval, a tick at the mean."""
    interval = interval_of(scores, metric, patients)
    if not math.isfinite(interval.low):
        return []
    low, high, mean = (axis.place(v) for v in (interval.low, interval.high, interval.mean))
    text = f"mean {metric.text(interval.mean)}, 95 % interval "
    text += metric.extent(interval.low, interval.high)
    bar = tag("line", x1=f"{low}%", x2=f"{high}%", y1=y, y2=y, class_="interval")
    tick = tag("line", x1=f"{mean}%", x2=f"{mean}%", y1=y - 6, y2=y + 6, class_="mean")
    return [tag("g", tag("title", text), bar, tick)]


def _axis_lines(axis: Axis, height: int, infinite: str | None) -> list[Markup]:
    marks = []
    ticks = [(axis.place(value), f"{value:g}") for value in axis.ticks()]
    if infinite:
        ticks.append((INFINITE, infinite))
    for place, text in ticks:
        marks.append(tag("line", x1=f"{place}%", x2=f"{place}%", y1=0, y2=height, class_="grid"))
        anchor = "start" if place == 0 else "end" if place == 100 else "middle"
        marks.append(
            tag("text", text, x=f"{place}%", y=height + 18, text_anchor=anchor, class_="tick")
        )
    return marks


def evenly(scores: Sequence[CaseScore], most: int) -> list[CaseScore]:
    """At most ``most`` of the scores, evenly spaced in their order, with both ends."""
    if len(scores) <= most:
        return list(scores)
    return [scores[round(i * (len(scores) - 1) / (most - 1))] for i in range(most)]


def line_plot(
    x: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str, high: float | None
) -> Markup:
    """Curves over epochs, with a marker at each value.

    Args:
        x: epochs.
        series: name to values, NaN where there is none.
        title: of the figure.
        high: upper end of the axis; None: that of the values.
    """
    height, finite = 180, [v for vs in series.values() for v in vs if math.isfinite(v)]
    top = high or max(finite, default=1.0) or 1.0
    step = nice_step(top)
    vertical = Axis(0.0, math.ceil(top / step - 1e-9) * step, height)
    across = Axis(min(x), max(x)) if len(set(x)) > 1 else Axis(x[0] - 1, x[0] + 1)
    marks = []
    for value in vertical.ticks():
        y = height - vertical.place(value) + 10
        marks.append(tag("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
        marks.append(tag("text", f"{value:g}", x=-6, y=y + 4, text_anchor="end", class_="tick"))
    for epoch in across.ticks() if len(set(x)) > 1 else x:
        if epoch == int(epoch):
            place = f"{across.place(epoch)}%"
            marks.append(
                tag(
                    "text",
                    f"{epoch:g}",
                    x=place,
                    y=height + 30,
                    text_anchor="middle",
                    class_="tick",
                )
            )
    first = True
    for number, (name, values) in enumerate(series.items()):
        points = [(a, v) for a, v in zip(x, values, strict=True) if math.isfinite(v)]
        shown = [(across.place(a), round(height - vertical.place(v) + 10, 1)) for a, v in points]
        drawn: list[str] = []
        for (x1, y1), (x2, y2) in pairwise(shown):
            drawn.append(tag("line", x1=f"{x1}%", y1=y1, x2=f"{x2}%", y2=y2))
        for (epoch, value), (place_x, place_y) in zip(points, shown, strict=True):
            text = f"epoch {epoch:g}, {name}: {value:.4g}"
            drawn.append(
                tag(
                    "circle",
                    tag("title", text),
                    cx=f"{place_x}%",
                    cy=place_y,
                    r=4,
                    class_="dot",
                    tabindex=0 if first else -1,
                    role="img",
                    aria_label=text,
                )
            )
            first = False
        marks.append(tag("g", *drawn, class_=f"row series s{number % 6}"))
    legend = [
        tag("li", tag("span", class_=f"key s{number % 6}", aria_hidden="true"), name)
        for number, name in enumerate(series)
    ]
    svg = tag(
        "svg",
        *marks,
        class_="plot",
        height=height + 36,
        role="group",
        aria_label=f"{title} by epoch; arrow keys go from value to value",
    )
    return tag(
        "figure",
        tag("figcaption", tag("strong", title), ": by epoch"),
        tag("div", svg, class_="frame curve"),
        tag("ul", *legend, class_="legend") if len(series) > 1 else join(),
        tag("p", "Point at a value to read it.", class_="readout", role="status"),
        class_="points",
    )

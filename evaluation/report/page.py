"""The page: sections in order, style and script inside, nothing fetched from anywhere."""

import json
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from samtune.atomic import write_atomically
from samtune.evaluation.report.cards import case_ids, picture_section
from samtune.evaluation.report.facts import RunFacts
from samtune.evaluation.report.markup import Markup, join, tag
from samtune.evaluation.report.plots import MAX_POINTS, line_plot, point_plot
from samtune.evaluation.report.scores import plotted_metrics, region_names
from samtune.evaluation.report.tables import case_table, facts_table, summary_table, table

MAX_BYTES = 20_000_000
PAGE_POINTS = 12_000  # of all plots together; a point takes some 300 bytes
# Whatever a name from the data might smuggle in, the browser fetches nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(facts: RunFacts, out: str | Path) -> Path:
    """Write the report of a run as one HTML file.

    Args:
        facts: the run.
        out: the file, ending in ``.html`` or ``.htm``.

    Returns:
        ``out``.

    Raises:
        ValueError: another suffix, or the page is larger than ``MAX_BYTES``.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out}: expected a file name that ends in .html")
    content = render(facts).encode()
    if len(content) > MAX_BYTES:
        raise ValueError(f"{out}: the report has {len(content)} bytes, more than {MAX_BYTES}")
    write_atomically(out, content)
    return out


def render(facts: RunFacts) -> str:
    """The page as text."""
    sections = [
        ("missing", "What is missing", _missing(facts)),
        ("summary", "Summary", _summary(facts)),
        ("cases", "Every case", _points(facts)),
        ("curve", "Learning curve", _curve(facts)),
        ("parameters", "Trainable parameters", _parameters(facts)),
        ("settings", "Configuration", _facts(facts.settings, "Settings of the run")),
        ("versions", "Versions", _facts(facts.versions, "What it was made with")),
    ]
    used = sum(len(content.encode()) for _, _, content in sections)
    pictures, data = picture_section(facts, room=MAX_BYTES - used)
    sections.insert(3, ("pictures", "Worst and best cases", pictures))
    kept = [(key, title, content) for key, title, content in sections if content]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{facts.name} - samtune report"),
        tag("style", Markup(_resource("report.css"))),
    )
    contents = [tag("li", tag("a", title, href=f"#{key}")) for key, title, _ in kept]
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        tag(
            "header",
            tag("h1", facts.name),
            tag("p", "Report of a samtune run. For research; not for clinical use."),
            _overview(facts),
            tag("nav", tag("ul", *contents), aria_label="Sections"),
        ),
        tag(
            "main",
            *(
                tag(
                    "section",
                    tag("h2", title, id=f"{key}-title"),
                    content,
                    id=key,
                    aria_labelledby=f"{key}-title",
                )
                for key, title, content in kept
            ),
            id="main",
        ),
        tag("script", Markup(_json(data)), type="application/json", id="data"),
        tag("script", Markup(_resource("report.js"))),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _resource(name: str) -> str:
    return (files("samtune.evaluation.report") / name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """JSON that can't end the script element or open a comment in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _overview(facts: RunFacts) -> Markup:
    pairs = [
        tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.overview.items()
    ]
    return tag("dl", *pairs, class_="overview") if pairs else join()


def _missing(facts: RunFacts) -> Markup:
    return tag("ul", *(tag("li", text) for text in facts.missing)) if facts.missing else join()


def _summary(facts: RunFacts) -> Markup:
    if not facts.scores:
        return tag("p", f"This run has no metrics of the {facts.split} cases.")
    names, metrics = region_names(facts.scores), plotted_metrics(facts.scores)
    cases = {score.case for score in facts.scores}
    unit = "patients" if facts.patients else "cases"
    parts = [
        tag(
            "p",
            f"{len(cases)} {facts.split} cases{_of_patients(facts, cases)}, each scored on its own "
            f"grid. Intervals: bootstrap of the mean over {unit}, 9999 resamples, BCa from 8 "
            f"{unit} on, percentiles below; with so few they are too narrow more often than they "
            "should be.",
        ),
        summary_table(facts.scores, names, metrics, facts.patients),
    ]
    if facts.failures:
        parts.append(
            table(
                "Cases that could not be scored",
                ["case", "why"],
                facts.failures.items(),
                numbers=False,
            )
        )
    if facts.protocol:
        parts.append(
            _folded(
                "How the predictions came about",
                facts_table("Protocol", facts.protocol, ["what", "value"]),
            )
        )
    return join(*parts)


def _of_patients(facts: RunFacts, cases: Iterable[str]) -> str:
    if not facts.patients:
        return ""
    return f" of {len({facts.patients.get(case, f'case {case}') for case in cases})} patients"


def _points(facts: RunFacts) -> Markup:
    if not facts.scores:
        return join()
    names, metrics = region_names(facts.scores), plotted_metrics(facts.scores)
    ids = case_ids(facts.scores)
    most = max(20, min(MAX_POINTS, PAGE_POINTS // (len(names) * len(metrics) or 1)))
    return join(
        tag(
            "p",
            "A point is a case. The bar below is the 95 % interval of the mean, the tick across it "
            "the mean. Hollow points: a mask is empty or missing.",
        ),
        tag(
            "div",
            *(
                point_plot(facts.scores, names, metric, ids, patients=facts.patients, most=most)
                for metric in metrics
            ),
            class_="plots",
        ),
        _folded(
            "All values as a table",
            case_table(facts.scores, metrics, f"metrics_{facts.split}.csv"),
        ),
    )


def _folded(title: str, content: Markup) -> Markup:
    return tag("details", tag("summary", title), content)


def _curve(facts: RunFacts) -> Markup:
    epochs = facts.curve.get("epoch")
    if not epochs:
        return tag("p", "This run has no learning curve.")
    loss = {"training loss": facts.curve["train_loss"]} if "train_loss" in facts.curve else {}
    dice = {
        key.removeprefix("val_dice").lstrip("_") or "mean": values
        for key, values in facts.curve.items()
        if key.startswith("val_dice")
    }
    plots = [
        line_plot(epochs, series, title=title, high=high)
        for title, series, high in (
            ("Training loss", loss, None),
            ("Validation Dice", dice, 1.0),
        )
        if any(math.isfinite(value) for values in series.values() for value in values)
    ]
    rows = zip(*facts.curve.values(), strict=True)
    lines = [["" if math.isnan(value) else f"{value:.4g}" for value in row] for row in rows]
    values = table("Learning curve", [key.replace("_", " ") for key in facts.curve], lines)
    return join(tag("div", *plots, class_="plots"), _folded("Curve as a table", values))


def _parameters(facts: RunFacts) -> Markup:
    trainable, total = facts.parameters.get("trainable"), facts.parameters.get("total")
    if trainable is None or not total:
        return tag("p", "The run does not say how many parameters it trained.")
    text = f"{trainable:,} of {total:,} parameters are trained ({100 * trainable / total:.2f} %)."
    return join(
        tag("p", text),
        tag("meter", text, value=trainable, min=0, max=total, aria_label="trained share"),
    )


def _facts(values: Mapping[str, str], caption: str) -> Markup:
    if not values:
        return tag("p", "Not recorded.")
    return facts_table(caption, values, ["what", "value"])

"""The worst and best cases of each class: a card each, with a picture and a slice slider."""

from collections.abc import Mapping, Sequence
from typing import Any

from samtune.evaluation.report.facts import CaseVolume, RunFacts
from samtune.evaluation.report.markup import Markup, join, tag
from samtune.evaluation.report.pictures import case_pictures
from samtune.evaluation.report.scores import (
    CaseScore,
    Metric,
    pick_cases,
    plotted_metrics,
    region_names,
)

PICTURE_BYTES = 15_500_000  # of all cases together, at most
CARD_BYTES = 4_000  # of one card's text, with names of ordinary length
SPARE_BYTES = 500_000  # style, script, and what budgets are exceeded by
OPEN = 3  # classes whose cards are unfolded at first


def picture_section(facts: RunFacts, *, room: int) -> tuple[Markup, dict[str, Any]]:
    """The section's HTML, and what its viewers show: case key to :func:`case_pictures`.

    Args:
        facts: the run.
        room: bytes that the rest of the page leaves.
    """
    if facts.load_case is None or not facts.scores:
        return tag("p", "There are no pictures of cases."), {}
    names, ids = region_names(facts.scores), case_ids(facts.scores)
    keys = {name: f"r{number}" for number, name in enumerate(names)}
    picks = {name: pick_cases(facts.scores, name) for name in names}
    wanted: dict[str, dict[str, Sequence[int]]] = {}
    for name, lists in picks.items():
        for score in (*lists[0], *lists[1]):
            wanted.setdefault(score.case, {})[keys[name]] = score.class_values
    data: dict[str, Any] = {}
    problems: dict[str, str] = {}
    num_cards = sum(map(len, wanted.values()))
    share = min(PICTURE_BYTES, max(0, room - SPARE_BYTES - num_cards * CARD_BYTES))
    for case, regions in wanted.items():
        loaded = _load(facts, case)
        if isinstance(loaded, str):
            problems[case] = loaded
        else:
            budget = share // len(wanted)
            data[ids[case]] = case_pictures(loaded, regions, budget=budget)
    metrics = plotted_metrics(facts.scores)
    parts = [_controls()]
    if facts.protocol.get("prompt", "none") != "none":
        parts.append(
            tag(
                "p",
                "Prompted masks may overlap: the scores are of each mask, the pictures show the "
                "label files, where the later class is kept.",
            )
        )
    for number, name in enumerate(names):
        groups = []
        for title, scores in zip(("Worst", "Best"), picks[name], strict=True):
            cards = [_card(score, ids, keys[name], data, problems, metrics) for score in scores]
            if cards:
                groups.append(tag("h4", f"{title} by Dice"))
                groups.append(tag("div", *cards, class_="cards"))
        if not groups:
            groups.append(tag("p", "No case has a Dice of this class."))
        heading = tag("summary", tag("h3", name))
        parts.append(tag("details", heading, *groups, open=number < OPEN, class_="class"))
    return join(*parts), data


def case_ids(scores: Sequence[CaseScore]) -> dict[str, str]:
    """Case to its key in the page: names from the data never become ids."""
    return {case: f"c{i}" for i, case in enumerate(dict.fromkeys(s.case for s in scores))}


def _load(facts: RunFacts, case: str) -> CaseVolume | str:
    """The case's pictures, or why there are none."""
    assert facts.load_case is not None
    try:
        return facts.load_case(case)
    except (ValueError, OSError) as error:
        return str(error)


def _controls() -> Markup:
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, data_toggle=key),
            tag("span", class_=f"line {key}", aria_hidden="true"),
            text,
        )
        for key, text in (("ref", "reference (solid)"), ("pred", "prediction (dashed)"))
    ]
    legend = tag("legend", "Outlines")
    return join(
        tag("fieldset", legend, *boxes, class_="controls"),
        tag("p", "The pictures need JavaScript; tables and plots do not.", class_="no-script"),
    )


def _card(
    score: CaseScore,
    ids: Mapping[str, str],
    region: str,
    data: Mapping[str, Any],
    problems: Mapping[str, str],
    metrics: Sequence[Metric],
) -> Markup:
    numbers = [
        tag("div", tag("dt", metric.title), tag("dd", metric.text(score.values[metric.column])))
        for metric in metrics
        if metric.column in score.values
    ]
    head = [tag("h5", score.case), tag("dl", *numbers, class_="numbers")]
    if score.status != "ok":
        head.append(tag("p", f"status: {score.status.replace('_', ' ')}"))
    case = ids[score.case]
    if score.case in problems:
        return tag("article", *head, tag("p", f"No picture: {problems[score.case]}"), class_="card")
    return tag("article", *head, *_viewer(score, case, region, data[case]), class_="card")


def _viewer(score: CaseScore, case: str, region: str, pictures: Mapping[str, Any]) -> list[Markup]:
    width, height, ratio = pictures["width"], pictures["height"], pictures["ratio"]
    shown, total = pictures["slices"], pictures["total"]
    start, key = pictures["start"][region], f"{case}-{region}"
    has_prediction = pictures["outlines"][region]["pred"] is not None
    what = "reference and prediction outline" if has_prediction else "reference outline"
    alt = f"{score.case}, {what} of {score.name}"
    svg = tag(
        "svg",
        tag("image", width=width, height=height, preserveAspectRatio="none"),
        *(
            tag("g", tag("path", class_="casing"), tag("path", class_="edge"), class_=line)
            for line in ("ref", "pred")
        ),
        class_="slice",
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        style=f"aspect-ratio:{ratio};max-width:min(100%,{max(90, round(480 * ratio))}px)",
        role="img",
        aria_label=alt,
        data_case=case,
        data_region=region,
        data_alt=alt,
    )
    parts = [tag("div", svg, class_="stage")]
    if not has_prediction:
        parts.append(tag("p", "There is no prediction of this case."))
    if pictures["note"]:
        parts.append(tag("p", pictures["note"], class_="note"))
    text = f"slice {shown[start] + 1} of {total}"
    if len(shown) > 1:
        slider = tag(
            "input",
            type="range",
            id=f"s-{key}",
            min=0,
            max=len(shown) - 1,
            value=start,
            data_viewer=True,
            aria_valuetext=text,
        )
        label = tag("label", "Slice of ", tag("span", score.case), for_=f"s-{key}")
        output = tag("output", text, for_=f"s-{key}")
        parts.append(tag("div", label, slider, output, class_="slider"))
    return parts

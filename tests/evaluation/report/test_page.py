"""The report page: what is in it, what can't get into it, and that its numbers are the table's."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from samtune.evaluation.bootstrap import mean_interval
from samtune.evaluation.report import CaseVolume, RunFacts, page, write_report
from samtune.evaluation.report.markup import Markup, tag

NASTY = "</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "input", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Elements in order, with attributes and own text; checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, {key: value or "" for key, value in attributes}))
        if name not in VOID:
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if self._open:
            self.texts.append((self._open[-1], data))

    def all(self, name: str, **wanted: str) -> list[dict[str, str]]:
        return [
            attributes
            for element, attributes in self.elements
            if element == name
            and all(attributes.get(k.rstrip("_").replace("_", "-")) == v for k, v in wanted.items())
        ]

    def said(self, element: str) -> list[str]:
        return [text for name, text in self.texts if name == element]


def data_of(parsed: Page) -> dict:
    return json.loads(next(text for text in parsed.said("script") if text.startswith("{")))


def test_tag_escapes_text_and_attributes_once():
    inner = tag("b", "a < b & c")
    assert inner == "<b>a &lt; b &amp; c</b>"
    assert tag("p", inner, title='"x"', data_n=3, hidden=True, id=None) == (
        '<p title="&quot;x&quot;" data-n="3" hidden><b>a &lt; b &amp; c</b></p>'
    )
    assert isinstance(inner, Markup)


def test_page_is_whole_and_asks_for_nothing(facts: RunFacts, tmp_path: Path):
    out = write_report(facts, tmp_path / "report.html")
    text = out.read_text(encoding="utf-8")
    parsed = Page(text)
    assert out.stat().st_size < 1_000_000
    assert not re.search(r"(?:https?:)?//[a-z]", text.replace("// ", ""))
    assert "@import" not in text
    assert "url(" not in text
    links = [
        v for _, a in parsed.elements for k, v in a.items() if k in ("src", "href", "xlink:href")
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    (policy,) = parsed.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert parsed.all("html", lang="en")
    assert len(parsed.all("h1")) == 1


def test_ids_are_unique_and_references_lead_somewhere(facts: RunFacts):
    parsed = Page(page.render(facts))
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [a["href"][1:] for a in parsed.all("a")]
    wanted += [a["for"] for _, a in parsed.elements if "for" in a]
    wanted += [a["aria-labelledby"] for _, a in parsed.elements if "aria-labelledby" in a]
    assert len(wanted) > 10
    assert set(wanted) <= set(ids)


def test_every_picture_and_control_has_a_name(facts: RunFacts):
    parsed = Page(page.render(facts))
    pictures = parsed.all("svg", class_="slice")
    assert len(pictures) == 2 * 8
    assert all("outline of" in a["aria-label"] and a["role"] == "img" for a in pictures)
    assert all(a["aria-label"] for a in parsed.all("svg", class_="plot"))
    sliders = parsed.all("input", type="range")
    labelled = {a["for"] for a in parsed.all("label") if "for" in a}
    assert len(sliders) == 16
    assert {a["id"] for a in sliders} == labelled
    headings = [int(name[1]) for name, _ in parsed.elements if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_every_case_is_a_point_in_every_plot(facts: RunFacts):
    parsed = Page(page.render(facts))
    titles = [text for text in parsed.said("title") if text.startswith("case_")]
    for metric in ("Dice", "IoU", "Surface Dice at 1 mm", "HD95"):
        named = {text.split(",")[0] for text in titles if f", front: {metric} " in text}
        assert named == {f"case_{i}" for i in range(10)}
    assert "case_3, back: Dice 0.730" in titles
    # one stop of the tab key a plot
    assert len(parsed.all("circle", tabindex="0")) == 4 + 2


def test_summary_has_mean_interval_and_counts(facts: RunFacts):
    cells = Page(page.render(facts)).said("td")
    dice = [s.values["dice"] for s in facts.scores if s.name == "front"]
    interval = mean_interval(dice)
    at = cells.index(f"{interval.low:.3f} to {interval.high:.3f}")
    assert cells[at - 1] == f"{sum(dice) / 10:.3f}"
    assert cells[at + 1 : at + 7] == ["0.645", "0.600", "0.690", "10", "0", "0"]


def test_infinite_and_undefined_values_are_counted_not_averaged(scores_of):
    scores = scores_of(
        "a,1,x,ok,0.8,0.7,0.9,2.0,1,1",
        "b,1,x,pred_empty,0.0,0.0,0.0,inf,1,0",
        "c,1,x,both_empty,nan,nan,nan,nan,0,0",
        "d,1,x,ok,0.6,0.4,0.8,4.0,1,1",
    )
    cells = Page(page.render(RunFacts("r", scores))).said("td")
    at = cells.index("3.00 mm (of the finite)")
    assert cells[at + 2 : at + 8] == ["4.00 mm", "2.00 mm", "infinite", "4", "1", "1"]


def test_what_the_run_lacks_is_said():
    text = page.render(RunFacts("r", missing=["There is no learning curve."]))
    parsed = Page(text)
    assert "There is no learning curve." in parsed.said("li")
    assert "This run has no metrics of the test cases." in parsed.said("p")
    assert "There are no pictures of cases." in parsed.said("p")


def test_names_from_the_data_stay_text(facts: RunFacts, scores_of):
    quoted = NASTY.replace('"', '""')
    scores = scores_of(*(f'"{quoted}{i}",1,"{quoted}",ok,0.{i},0.5,0.7,3,1,1' for i in range(1, 4)))
    nasty = {NASTY: NASTY}
    text = page.render(
        dataclasses.replace(
            facts,
            name=NASTY,
            scores=scores,
            overview=nasty,
            settings=nasty,
            versions=nasty,
            protocol=nasty,
            failures=nasty,
            missing=[NASTY],
            curve={"epoch": [1.0], "val_dice": [0.5], f"val_dice_{NASTY}": [0.5]},
        )
    )
    parsed = Page(text)
    assert parsed.all("img") == []
    assert [a for _, a in parsed.elements if any(key.startswith("on") for key in a)] == []
    assert len(parsed.all("script")) == 2
    assert f"{NASTY}1" in parsed.said("h5")
    assert parsed.said("h1") == [NASTY]
    assert text.count("</script>") == 2


def test_a_picture_that_cannot_be_read_is_said(facts: RunFacts, volume):
    def load(case: str) -> CaseVolume:
        if case == "case_0":
            raise ValueError("prediction is on another grid")
        return volume()

    parsed = Page(page.render(dataclasses.replace(facts, load_case=load)))
    assert "No picture: prediction is on another grid" in parsed.said("p")
    assert len(parsed.all("svg", class_="slice")) == 14


@pytest.mark.parametrize(("prompt", "said"), [("none", False), ("oracle_box", True)])
def test_prompted_masks_are_said_to_overlap(facts: RunFacts, prompt: str, said: bool):
    parsed = Page(page.render(dataclasses.replace(facts, protocol={"prompt": prompt})))
    assert any(text.startswith("Prompted masks may overlap") for text in parsed.said("p")) == said


def test_slice_alone_has_no_slider(facts: RunFacts, volume):
    parsed = Page(page.render(dataclasses.replace(facts, load_case=lambda case: volume(1))))
    assert parsed.all("input", type="range") == []
    assert len(parsed.all("svg", class_="slice")) == 16


def test_other_suffix_is_refused(facts: RunFacts, tmp_path: Path):
    with pytest.raises(ValueError, match=r"report\.txt: expected a file name that ends in \.html"):
        write_report(facts, tmp_path / "report.txt")


def test_same_facts_give_the_same_bytes(facts: RunFacts):
    assert page.render(facts) == page.render(facts)


def test_large_run_stays_below_the_limit(facts: RunFacts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("samtune.evaluation.report.cards.PICTURE_BYTES", 150_000)
    label = np.zeros((30, 64, 64), np.uint8)
    label[:, 10:30, 10:30] = 1
    image = np.random.default_rng(0).integers(0, 255, label.shape, np.uint8)
    big = CaseVolume(image, label, label)
    small = len(page.render(dataclasses.replace(facts, load_case=None)))
    assert len(page.render(dataclasses.replace(facts, load_case=lambda case: big))) < (
        small + 150_000 * 1.1 + 16 * 3000
    )


def test_pictures_take_what_the_rest_leaves(facts: RunFacts, monkeypatch: pytest.MonkeyPatch):
    label = np.zeros((30, 64, 64), np.uint8)
    label[:, 10:30, 10:30] = 1
    image = np.random.default_rng(0).integers(0, 255, label.shape, np.uint8)
    big = CaseVolume(image, label, label)
    rich = dataclasses.replace(facts, load_case=lambda case: big)
    assert len(page.render(rich)) > 1_000_000
    monkeypatch.setattr(page, "MAX_BYTES", 1_000_000)
    assert len(page.render(rich)) < 1_000_000
    long = dataclasses.replace(rich, settings={"command": "x" * 200_000})
    assert len(page.render(long)) - 200_000 < len(page.render(rich)) < 1_000_000


def test_many_cases_are_said_to_be_left_out(facts: RunFacts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "MAX_POINTS", 20)
    monkeypatch.setattr("samtune.evaluation.report.tables.MAX_ROWS", 60)
    many = [
        dataclasses.replace(score, case=f"{score.case}_{copy}")
        for score in facts.scores
        for copy in range(10)
    ]
    parsed = Page(page.render(dataclasses.replace(facts, scores=many, load_case=None)))
    assert parsed.said("text").count("front (20 of 100 drawn)") == 4
    assert len(parsed.all("circle")) == 4 * 2 * 20 + 4
    assert "The first 30 of 100 cases; metrics_test.csv has all." in parsed.said("p")


def test_page_that_is_too_large_is_refused(
    facts: RunFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        write_report(facts, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_intervals_over_patients_are_said_and_shown(facts: RunFacts):
    patients = {s.case: f"p{int(s.case[-1]) // 2}" for s in facts.scores}  # case_0 to case_9
    parsed = Page(page.render(dataclasses.replace(facts, patients=patients)))
    (said,) = [text for text in parsed.said("p") if "Intervals" in text]
    assert "10 test cases of 5 patients" in said
    assert "over patients" in said
    (plain,) = [text for text in Page(page.render(facts)).said("p") if "Intervals" in text]
    assert "over cases" in plain
    assert "patients" not in plain
    front = [s for s in facts.scores if s.name == "front"]
    found = mean_interval(
        [s.values["dice"] for s in front], groups=[patients[s.case] for s in front]
    )
    text = f"{found.low:.3f} to {found.high:.3f}"
    assert text in parsed.said("td")
    assert any(title.endswith(text) for title in parsed.said("title"))

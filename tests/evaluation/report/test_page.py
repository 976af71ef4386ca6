"""The report page: what is in it, what can't get into it, and that its numbers are the table's."""

import dataclasses
import io
import json
import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samtune.evaluation.bootstrap import mean_interval
from samtune.evaluation.report import CaseVolume, RunFacts, page, parse_scores, write_report
from samtune.evaluation.report.markup import Markup, tag
from samtune.evaluation.report.outlines import mask_loops, svg_path
from samtune.evaluation.report.pictures import case_pictures
from samtune.evaluation.report.plots import Axis, evenly, metric_axis
from samtune.evaluation.report.scores import metric_of, pick_cases

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


def test_slice_alone_has_no_slider(facts: RunFacts, volume):
    parsed = Page(page.render(dataclasses.replace(facts, load_case=lambda case: volume(1))))
    assert parsed.all("input", type="range") == []
    assert len(parsed.all("svg", class_="slice")) == 16


def test_other_suffix_is_refused(facts: RunFacts, tmp_path: Path):
    with pytest.raises(ValueError, match=r"report\.txt: expected a file name that ends in \.html"):
        write_report(facts, tmp_path / "report.txt")


def test_same_facts_give_the_same_bytes(facts: RunFacts):
    assert page.render(facts) == page.render(facts)


# -- scores ----------------------------------------------------------------------------------------


def test_worst_and_best_cases_by_hand(scores_of):
    dice = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.7, "e": 0.3, "f": 0.95, "g": 0.2, "h": 0.8}
    lines = [f"{case},1,x,ok,{value},0,0,1,1,1" for case, value in dice.items()]
    lines += ["i,1,x,both_empty,nan,nan,nan,nan,0,0", "a,2,y,ok,0.0,0,0,1,1,1"]
    worst, best = pick_cases(scores_of(*lines), "x")
    assert [score.case for score in worst] == ["b", "g", "e", "c", "d"]
    assert [score.case for score in best] == ["f", "a", "h"]


def test_few_cases_are_in_one_list_each_and_ties_go_by_hd95(scores_of):
    lines = ["a,1,x,ok,0.5,0,0,2,1,1", "b,1,x,ok,0.5,0,0,9,1,1", "c,1,x,pred_empty,0,0,0,inf,1,0"]
    worst, best = pick_cases(scores_of(*lines), "x", worst=2)
    assert [score.case for score in worst] == ["c", "b"]
    assert [score.case for score in best] == ["a"]


def test_columns_that_came_later_are_read_and_plotted(scores_of):
    header = "case,label,name,status,protocol,dice,hd95_px,nsd_1.5mm,assd_mm,volume_error_ml,new\n"
    scores = scores_of("a,1+3,x,ok,oracle_box,0.5,2.5,,1,-0.5,7", header=header)
    assert scores[0].class_values == (1, 3)
    values = scores[0].values
    assert math.isnan(values.pop("nsd_1.5mm"))
    assert values == {"dice": 0.5, "hd95_px": 2.5, "assd_mm": 1, "volume_error_ml": -0.5, "new": 7}
    found = [metric_of(column) for column in ("dice", "hd95_px", "nsd_1.5mm", "assd_mm")]
    assert [(m.title, m.unit, m.is_distance) for m in found] == [
        ("Dice", "", False),
        ("HD95", "px", True),
        ("Surface Dice at 1.5 mm", "", False),
        ("Average symmetric surface distance", "mm", True),
    ]
    assert found[1].extent(1.0, 2.0) == "1.00 to 2.00 px"
    assert found[0].extent(0.5, 0.75) == "0.500 to 0.750"
    assert metric_of("volume_error_ml") is None
    assert metric_of("new") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label,name\n", "'status' is missing"),
        ("", r"found columns \(none\)"),
        ("case,label,name,status,dice\na,1,x,ok\n", "line 2: 4 fields, expected 5"),
        ("case,label,name,status,dice\na,one,x,ok,1\n", "line 2: label 'one'"),
    ],
)
def test_damaged_table_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=f"m.csv.*{message}"):
        parse_scores(text, "m.csv")


# -- plots -----------------------------------------------------------------------------------------


def test_axes_place_values():
    assert Axis(0.0, 1.0).place(0.25) == 25.0
    assert Axis(0.0, 1.0).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert metric_axis(metric_of("dice"), [0.63, 0.9, math.nan]) == Axis(0.6, 1.0)
    assert metric_axis(metric_of("dice"), [0.97]).low == 0.8
    assert metric_axis(metric_of("dice"), [0.0, 0.97]).low == 0.0
    axis = metric_axis(metric_of("hd95_mm"), [1.0, 7.3, math.inf, math.nan])
    assert axis.high == 8.0
    assert axis.place(8.0) == 88.0
    assert axis.place(math.inf) == 100.0
    assert metric_axis(metric_of("hd95_mm"), [0.0]).high == 1.0


@pytest.mark.parametrize("span", [0.013, 0.5, 1.0, 2.5, 6.0, 7.3, 9.99, 40.0, 123.0])
def test_ticks_are_few_and_round(span: float):
    axis = metric_axis(metric_of("hd95_mm"), [span])
    ticks = axis.ticks()
    assert 4 <= len(ticks) <= 8
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(axis.high)
    assert axis.high >= span
    assert f"{ticks[1]:.0e}"[0] in "125"


def test_many_cases_are_thinned_evenly_with_both_ends(scores_of):
    scores = scores_of(*(f"c{i:04d},1,x,ok,0.5,0,0,1,1,1" for i in range(1000)))
    kept = evenly(scores, 10)
    assert [s.case for s in kept] == [f"c{i:04d}" for i in range(0, 1000, 111)]
    assert evenly(scores, 1000) == scores


# -- outlines and pictures -------------------------------------------------------------------------


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies within the path, even-odd: counts crossings to the left."""
    edges = []
    for part in path.split("z")[:-1]:
        x, y = map(int, re.match(r"M(\d+) (\d+)", part).groups())
        start = (x, y)
        for axis, step in re.findall(r"([hv])(-?\d+)", part):
            before = (x, y)
            x, y = (x + int(step), y) if axis == "h" else (x, y + int(step))
            edges.append((before, (x, y)))
        edges.append(((x, y), start))
    inside = np.zeros(shape, bool)
    for (x1, y1), (x2, y2) in edges:
        assert x1 == x2 or y1 == y2
        inside[min(y1, y2) : max(y1, y2), x1:] ^= x1 == x2
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_outline_encloses_exactly_the_mask(seed: int):
    mask = np.random.default_rng(seed).random((9, 13)) < 0.5
    assert (filled(svg_path(mask_loops(mask)), mask.shape) == mask).all()


def test_outline_of_a_rectangle_a_hole_and_a_touching_corner():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    assert svg_path(mask_loops(mask)) == "M2 1h3v2h-3z"
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert len(mask_loops(ring)) == 2
    assert len(mask_loops(np.eye(2, dtype=bool))) == 2
    assert mask_loops(np.zeros((2, 2), bool)) == []


def test_pictures_hold_the_slices_with_something_in_them(volume):
    wide = volume(20)
    shown = case_pictures(wide, {"r0": [1], "r1": [2], "r2": [1, 2]}, budget=10**6)
    assert shown["slices"] == [0, 1, 2, 3, 4, 5]
    assert shown["total"] == 20
    assert shown["start"] == {"r0": 2, "r1": 3, "r2": 2}
    assert shown["ratio"] == pytest.approx(20 * 2 / (12 * 1), abs=1e-4)
    for index, uri in zip(shown["slices"], shown["images"], strict=True):
        picture = Image.open(io.BytesIO(b64decode(uri.partition(",")[2])))
        assert (np.asarray(picture) == wide.image[index]).all()
    outline = shown["outlines"]["r2"]
    for position, index in enumerate(shown["slices"]):
        assert (filled(outline["ref"][position], (12, 20)) == (wide.reference[index] > 0)).all()
        assert (filled(outline["pred"][position], (12, 20)) == (wide.prediction[index] > 0)).all()


def test_pictures_without_prediction_or_label(volume):
    shown = case_pictures(volume(prediction=False), {"r0": [1]}, budget=10**6)
    assert shown["outlines"]["r0"]["pred"] is None
    bare = CaseVolume(volume().image, None, None)
    assert case_pictures(bare, {"r0": [1]}, budget=10**6)["slices"] == [2]


def test_budget_is_kept_and_the_fullest_slice_too():
    label = np.zeros((40, 64, 64), np.uint8)
    label[:, 10:30, 10:30] = 1
    label[23, 5:50, 5:50] = 1
    image = np.random.default_rng(0).integers(0, 255, label.shape, np.uint8)
    big = CaseVolume(image, label, label)
    for budget in (300_000, 60_000, 15_000, 4_000):
        shown = case_pictures(big, {"r0": [1]}, budget=budget)
        assert len(json.dumps(shown)) < budget * 1.1 + 500
        assert shown["slices"][shown["start"]["r0"]] == 23
    assert len(case_pictures(big, {"r0": [1]}, budget=10)["slices"]) == 1


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


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((2, 3, 4), np.int16), None, "image is int16"),
        (np.zeros((3, 4), np.uint8), None, "expected uint8 n h w"),
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8), "reference has shape"),
    ],
)
def test_wrong_arrays_are_refused(image, label, message: str):
    with pytest.raises(ValueError, match=message):
        CaseVolume(image, label, None)


# -- colours ---------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_the_standards_own_examples():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_colours_have_the_contrast_of_wcag_aa(repo_root: Path):
    css = (repo_root / "evaluation/report/report.css").read_text()
    light = dict(re.findall(r"--(\w+): (#\w{6})", css.partition("@media")[0]))
    dark = dict(re.findall(r"--(\w+): (#\w{6})", css.partition("@media")[2].partition("* {")[0]))
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for ground in (theme["page"], theme["panel"]):
            for text in ("text", "quiet", "link"):
                assert contrast(theme[text], ground) >= 4.5, text
            for shape in ("edge", "accent", "mean", "s0", "s1", "s2", "s3", "s4", "s5"):
                assert contrast(theme[shape], ground) >= 3, shape
    for line in re.findall(r"\.edge \{ stroke: (#\w{6})", css):
        assert contrast(line, "#000000") >= 3


def test_style_honours_reduced_motion(repo_root: Path):
    css = (repo_root / "evaluation/report/report.css").read_text()
    before, _, moving = css.partition("@media (prefers-reduced-motion: no-preference)")
    assert "transition" in moving
    assert not re.search("transition|animation|scroll-behavior", before)

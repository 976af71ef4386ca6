"""The report in a real headless Chromium: phone and desktop, light and dark, mouse and keyboard.

Needs playwright and a Chromium: ``$SAMTUNE_CHROMIUM``, Debian's ``chromium`` or playwright's own.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samtune.evaluation.report import CaseScore, CaseVolume, RunFacts, write_report
from samtune.evaluation.report.pictures import case_pictures

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESKTOP = 360, 1280

# Contrast of every piece of text with the colour behind it, by WCAG 2.2; returns the failures.
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const failures = [];
  let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.getClientRects().length) continue;
    if (["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = element.tagName === "text" ? style.fill : style.color;
    const [a, b] = [luminance(parse(colour)), luminance(behind(element))].sort((p, q) => q - p);
    count += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) failures.push([node.textContent.trim(), colour]);
  }
  return [count, failures];
}"""


def chromium() -> str:
    """Path of a Chromium, or the test is skipped."""
    named = os.environ.get("SAMTUNE_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        with playwright.sync_playwright() as driver:
            found = driver.chromium.executable_path
    if not Path(found).is_file():
        pytest.skip(f"no Chromium: {', '.join(NAMES)} are not on PATH, nor is playwright's there")
    return str(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with playwright.sync_playwright() as driver:
        # as root, as in a container, Chromium has no sandbox; the page is our own file
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report; afterwards no message and no request but the file's may have been seen."""
    contexts, messages, requests = [], [], []

    def open_page(facts: RunFacts, *, width: int = DESKTOP, **options: Any) -> Any:
        file = write_report(facts, tmp_path / "report.html")
        size = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: request.url.startswith("data:") or requests.append(request.url),
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert len(requests) == len(contexts)
    assert all(request.startswith("file://") for request in requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_page_fits_and_its_text_can_be_read(
    show: Callable[..., Any], facts: RunFacts, width: int, scheme: str
):
    missing = ["There is no learning curve."]
    page = show(dataclasses.replace(facts, missing=missing), width=width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    count, failures = page.evaluate(CONTRAST)
    assert count > 300
    assert failures == []
    boxes = [item.bounding_box() for item in page.locator("input, summary, nav a").all()]
    assert len(boxes) > 20
    assert all(box["height"] >= 18 and box["x"] >= 0 for box in boxes)
    assert all(box["x"] + box["width"] <= width for box in boxes)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_slider_moves_the_slice_by_keyboard_and_mouse(
    show: Callable[..., Any], facts: RunFacts, volume: Callable[..., CaseVolume], width: int
):
    page = show(facts, width=width)
    pictures = case_pictures(volume(), {"r0": [1], "r1": [2]}, budget=10**6)
    slider = page.get_by_role("slider", name="Slice of case_0").first
    card = page.locator(".card", has=slider).first
    image, output = card.locator("svg.slice image"), card.locator("output")
    reference = card.locator(".ref .edge")

    def expect(position: int) -> None:
        assert slider.input_value() == str(position)
        assert image.get_attribute("href") == pictures["images"][position]
        outlines = pictures["outlines"]["r0"]
        assert reference.get_attribute("d") == outlines["ref"][position]
        assert card.locator(".pred .edge").get_attribute("d") == outlines["pred"][position]
        text = f"slice {position + 1} of 5"
        assert output.text_content() == text
        assert slider.get_attribute("aria-valuetext") == text
        assert card.locator("svg.slice").get_attribute("aria-label").endswith(text)

    expect(2)
    slider.focus()
    for key, position in (("ArrowRight", 3), ("ArrowLeft", 2), ("End", 4), ("Home", 0)):
        page.keyboard.press(key)
        expect(position)
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] * 0.75, "y": box["height"] / 2})
    expect(3)
    frame = card.locator("svg.slice").bounding_box()
    # 20 x 12 pixels of 2 mm x 1 mm
    assert frame["width"] / frame["height"] == pytest.approx(40 / 12, rel=0.02)


def test_outlines_can_be_hidden(show: Callable[..., Any], facts: RunFacts):
    page = show(facts)
    group = page.locator(".card .ref").first
    box = page.get_by_role("checkbox", name="reference (solid)")
    assert group.evaluate("(g) => getComputedStyle(g).display") == "inline"
    box.focus()
    page.keyboard.press("Space")
    assert group.evaluate("(g) => getComputedStyle(g).display") == "none"
    prediction = page.locator(".card .pred").first
    assert prediction.evaluate("(g) => getComputedStyle(g).display") == "inline"


def test_points_by_keyboard(show: Callable[..., Any], facts: RunFacts):
    page = show(facts)
    figure = page.locator("figure.points").first
    readout = figure.locator(".readout")
    stops = figure.locator(".dot[tabindex='0']")
    assert stops.count() == 1
    stops.focus()
    assert readout.text_content() == "case_0, front: Dice 0.600"
    for key, text in (
        ("ArrowRight", "case_1, front: Dice 0.610"),
        ("ArrowDown", "case_1, back: Dice 0.710"),
        ("End", "case_9, back: Dice 0.790"),
        ("ArrowRight", "case_9, back: Dice 0.790"),
        ("ArrowUp", "case_9, front: Dice 0.690"),
        ("Home", "case_0, front: Dice 0.600"),
        ("ArrowLeft", "case_0, front: Dice 0.600"),
    ):
        page.keyboard.press(key)
        assert readout.text_content() == text
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == text
        assert stops.count() == 1
    page.keyboard.press("Tab")
    following = page.locator("figure.points").nth(1)
    assert following.locator(".readout").text_content().startswith("case_0, front: IoU")


def test_points_by_mouse_show_the_same_case_everywhere(show: Callable[..., Any], facts: RunFacts):
    page = show(facts)
    figure = page.locator("figure.points").first
    figure.locator(".dot").nth(7).hover()
    assert figure.locator(".readout").text_content() == "case_7, front: Dice 0.670"
    cases = page.eval_on_selector_all(".dot.same", "(all) => all.map((d) => d.dataset.case)")
    assert cases == ["c7"] * (4 * 2)


def test_first_tab_skips_to_the_results(show: Callable[..., Any], facts: RunFacts):
    page = show(facts)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


@pytest.mark.parametrize(("wish", "moves"), [("reduce", False), ("no-preference", True)])
def test_reduced_motion(show: Callable[..., Any], facts: RunFacts, wish: str, moves: bool):
    page = show(facts, reduced_motion=wish)
    duration, scrolling = page.evaluate(
        "[getComputedStyle(document.querySelector('.dot')).transitionDuration,"
        " getComputedStyle(document.documentElement).scrollBehavior]"
    )
    assert (duration != "0s", scrolling == "smooth") == (moves, moves)


def test_names_from_the_data_run_nothing(
    show: Callable[..., Any], facts: RunFacts, scores_of: Callable[..., list[CaseScore]]
):
    nasty = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
    scores = scores_of(f"{nasty},1,{nasty},ok,0.5,0.5,0.7,3,1,1")
    page = show(dataclasses.replace(facts, scores=scores, name=nasty, settings={nasty: nasty}))
    page.locator("figure.points .dot").first.hover()
    page.wait_for_timeout(100)
    assert page.locator("img").count() == 0
    assert page.locator("h1").text_content() == nasty
    assert page.locator(".readout").first.text_content() == f"{nasty}, {nasty}: Dice 0.500"


def test_long_names_fit_on_a_phone(
    show: Callable[..., Any], facts: RunFacts, scores_of: Callable[..., list[CaseScore]]
):
    case, name = "patient_" * 20, "left_ventricle_" * 10
    scores = scores_of(*(f"{case}{i},1,{name},ok,0.5,0.5,0.7,3,1,1" for i in range(3)))
    settings = {"checkpoint": "/weights" * 40}
    page = show(
        dataclasses.replace(facts, scores=scores, name=case, settings=settings, missing=[case]),
        width=PHONE,
    )
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE


def test_without_javascript_numbers_are_there(show: Callable[..., Any], facts: RunFacts):
    assert show(facts).get_by_text("The pictures need JavaScript").count() == 0
    page = show(facts, java_script_enabled=False)
    assert page.get_by_text("The pictures need JavaScript").is_visible()
    assert page.locator("#summary table").first.is_visible()
    assert page.locator(".dot").count() == 4 * 20 + 2 + 1 + 1  # and the curves

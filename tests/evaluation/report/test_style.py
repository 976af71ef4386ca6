"""The report's style sheet: contrast by WCAG 2.2 AA in both themes, and no motion unasked."""

import re
from pathlib import Path

import pytest


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

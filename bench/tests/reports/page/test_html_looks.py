"""The page in colour: what each verdict looks like, and that everything can be read."""

from __future__ import annotations

import re
from pathlib import Path

from bench.reports.page import plots
from bench.reports.wording.comparison_notes import WORDS


def test_every_verdict_has_its_colour_and_symbol() -> None:
    script = (Path(plots.__file__).parent / "html.js").read_text(encoding="utf-8")
    table = script.split("const VERDICTS = {")[1].split("};")[0]
    named = set(re.findall(r"^\s+([A-Z_]+): \[", table, re.M))
    assert named == set(WORDS) - {"INCOMPARABLE"}, "an incomparable case has no ratio to draw"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, 1.4.3."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_in_both_themes() -> None:
    folder = Path(plots.__file__).parent
    style = (folder / "html.css").read_text(encoding="utf-8")
    script = (folder / "html.js").read_text(encoding="utf-8")
    found = dict(re.findall(r"--([\w-]+): light-dark\((.*?)\)", style))
    marks = re.findall(r"#[0-9a-f]{6}", script.split("const DASHES")[0])
    assert len(found) >= 12 and len(marks) >= 9
    for theme in (0, 1):
        colour = {name: pair.split(", ")[theme] for name, pair in found.items()}
        for paper in (colour["bg"], colour["card"]):
            for ink in ("fg", "quiet", "link"):
                assert contrast(colour[ink], paper) >= 4.5, (ink, theme)
            for mark in marks:
                assert contrast(mark, paper) >= 3, (mark, theme)  # WCAG 1.4.11: graphics
        for badge in ("good", "warn", "bad"):
            assert contrast(colour[badge], colour[f"{badge}-bg"]) >= 4.5, (badge, theme)

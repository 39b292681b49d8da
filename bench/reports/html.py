"""One page with pictures for engineers and managers; opens offline, loads nothing.

In `page/`, `html.j2` is the page, `html.css` its looks, and `html.js` draws the plots with plotly
from the data that this file puts beside them. A record is another's text and is never trusted:
jinja2 escapes it, the data lie in a JSON block without `<`, and the page's Content-Security-Policy
runs no script but the two whose hashes it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import MissingPackage
from bench.judging.curves import curves
from bench.judging.tracks import tuned
from bench.records.encoding import encoded
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.page import devices as device_plots
from bench.reports.page import explained, plots, serving
from bench.reports.page.pair import Pair
from bench.reports.page.provenance import provenance
from bench.reports.page.side import Side
from bench.reports.page.table import columns, in_order
from bench.reports.wording.card_notes import limit_words
from bench.reports.wording.comparison_notes import WORDS, beside
from bench.reports.wording.rows import looks_of, next_step, ratio, word_of
from bench.reports.wording.systems import factors, spreads

_FOLDER = Path(__file__).with_name("page")


class HtmlReport(Report):
    """A self-contained page; two or more runs are compared, the first is the base."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """The page as text; `MissingPackage` without plotly or jinja2."""
        try:
            import jinja2

            plotly, template = _plotly_source(), _compiled(jinja2)
        except ImportError as error:
            raise MissingPackage(
                f"the report `html` needs plotly and jinja2 ({error}). Install them: "
                "pip install 'plotly>=6' 'jinja2>=3.1'; or choose another format: "
                "accelmark list reports"
            ) from error
        sides = [Side(number, run) for number, run in enumerate(runs, start=1)]
        pairs = [Pair(sides[0], other) for other in sides[1:]]
        drawn = {
            "runs": [side.label for side in sides],
            "panels": list(plots.panels(sides, pairs)),
            "ratios": [plots.ratios(pair.comparison) for pair in pairs],
            "systems": [plots.ratios(pair.systems) for pair in pairs],
            "roofline": plots.roofline(sides),
            "sweeps": list(plots.sweeps(sides)),
            "served": list(serving.panels(sides)),
            "efficiencies": list(device_plots.efficiencies(sides)),
            "ranks": list(device_plots.rank_maps(sides)),
            "links": list(device_plots.over_sizes(sides)),
            "maps": list(device_plots.link_maps(sides)),
            "traces": list(plots.traces(sides)),
        }
        script = _text("html.js")
        page: str = template.render(
            title=_title(sides),
            policy=_policy(plotly, script),
            sides=sides,
            next=next_step(runs[0], sides[0].rows),
            pairs=pairs,
            rows=in_order(sides),
            plots=drawn,
            served=list(serving.tables(sides)),
            explained=explained.explained(sides),
            curves=[
                f"{side.label}, {curve.title}: {curve.words}"
                for side in sides
                for curve in curves(side.rows)
            ],
            tuned=[
                (f"{side.label}, {found.title}: {found.best}", found.beside)
                for side in sides
                for found in tuned(side.rows)
            ],
            columns=columns(sides),
            word=word_of,
            looks=looks_of,
            provenance=provenance,
            spoken=WORDS,
            ratio=ratio,
            beside=beside,
            spreads=spreads,
            factors=factors,
            flags=plots.FLAGS,
            words=limit_words([row for side in sides for row in side.rows], every=True),
            limits=plots.trace_limits(sides),
            style=_text("html.css"),
            script=script,
            plotly=plotly,
            data=_json(drawn),
        )
        # A record's path came from the reader's file system and need not be text.
        return page.encode("utf-8", "replace").decode() + "\n"


def _title(sides: Sequence[Side]) -> str:
    suites = " and ".join(dict.fromkeys(side.file.run.suite for side in sides)) or "no run"
    devices = list(dict.fromkeys(side.device for side in sides))
    runs = "" if len(sides) == 1 else f", {len(sides)} runs"
    return f"accelmark {suites} on {' and '.join(devices)}{runs}"


@functools.cache
def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    # As a browser reads it: the hash of a script is that of its text after this.
    return source.replace("\r\n", "\n").replace("\r", "\n")


@functools.cache
def _compiled(jinja2: Any) -> Any:
    """The page; to compile it takes longer than to fill it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("html.j2")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Content-Security-Policy: nothing is loaded, and no script runs but these."""
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the script element it lies in, nor begin another."""
    text = encoded(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


REPORT = HtmlReport()

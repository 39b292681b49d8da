"""The HTML report: what is in it, and what is inert in it."""

from __future__ import annotations

import base64
import builtins
import hashlib
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from bench import units
from bench.errors import MissingPackage
from bench.judging.summary import summarize
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests.judging.two_runs import CASE, FAST, runs, steps
from bench.tests.reports.page.pages import (
    ATTACK,
    QUOTED,
    Page,
    a_sweep,
    five_hundred,
    hostile,
    render,
)
from bench.tests.scripts.regenerate import RUN
from bench.tests.values import (
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)


@pytest.fixture(scope="module")
def golden() -> Page:
    return Page(render(read(RUN)))


def test_every_row_and_every_reason_is_on_the_page(golden: Page) -> None:
    rows = summarize(read(RUN))
    assert {row.status for row in rows} == {"measured", "failed", "void", "skipped"}
    for row in rows:
        assert row.case.label in golden.text
        assert row.exclusion in golden.text
        # In the table; and above it, among what has no number.
        assert golden.text.count(row.reason) >= (1 if row.status == "measured" else 2)
    for word in ("OK", "NOISY", "FAILED", "VOID", "SKIPPED", "UNREACHED", "DRIFT"):
        assert word in golden.text
    assert not [a for _, a in golden.elements if "hidden" in a], "nothing is hidden at first"


def test_figures_stand_in_the_table_as_text(golden: Page) -> None:
    for text in ("215 GFLOP/s", "195 token/s", "-38% +62%", "5.13 ms", "19.5 GB/s", "3 MiB"):
        assert text in golden.text


def test_provenance_is_on_the_page(golden: Page) -> None:
    run = read(RUN)
    assert run.run.run_id in golden.text
    for text in (
        "accelmark run fake",
        "target_half_width",
        "avx2 avx512f",
        "seeds of the launches",
    ):
        assert text in golden.text
    assert golden.all("details"), "it is folded away"


def test_headings_are_in_order_and_every_plot_has_words(golden: Page) -> None:
    levels = [int(tag[1]) for tag, _ in golden.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    drawn = [a for a in golden.all("div") if a.get("class") == "plot"]
    assert len(drawn) == 5
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in drawn)
    heads = [a for a in golden.all("th") if "aria-sort" in a]
    assert len(heads) >= 5 and {a["aria-sort"] for a in heads} == {"none"}


@pytest.mark.parametrize("make", [lambda: read(RUN), hostile], ids=["golden", "hostile"])
def test_nothing_is_fetched(make: Callable[[], RunFile]) -> None:
    page = Page(render(make()))
    places = [a[k] for _, a in page.elements for k in ("src", "href", "action", "data") if k in a]
    assert sorted(places) == ["#all", "data:,"]
    assert not {"link", "iframe", "object", "base", "form"} & {
        tag for tag, a in page.elements if a.get("href") != "data:,"
    }


def test_the_policy_allows_the_two_scripts_and_nothing_else(golden: Page) -> None:
    policy = next(a["content"] for a in golden.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0] and "http" not in policy
    _, library, ours = golden.scripts
    for script in (library, ours):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_a_hostile_record_is_text_and_nothing_else() -> None:
    page = Page(render(hostile()))
    assert len(page.all("script")) == 3 and not page.all("img") and not page.all("b")
    handlers = [k for _, a in page.elements for k in a if k.startswith("on") or k == "x"]
    assert handlers == []
    assert ATTACK in page.text and "{{7*7}}" in page.text and "49 %{x}" not in page.text
    block = page.scripts[0]
    assert not set("<>&\u2028\u2029") & set(block)
    assert page.data["panels"][0]["title"] == f"gemm{ATTACK}-{QUOTED}"


def test_the_same_runs_give_the_same_bytes() -> None:
    runs = a_sweep(), a_sweep(1.2)
    assert render(*runs) == render(*runs)


def test_five_hundred_cases_fit_into_eight_megabytes() -> None:
    text = five_hundred()
    assert len(text.encode()) <= 8_000_000
    traces = Page(text).data["traces"]
    assert len(traces) == 500 and {len(t["launches"]) for t in traces} == {2 * 3}
    (points,) = {len(x["warmup"]["ms"]) + len(x["steady"]["ms"]) for x in traces[0]["launches"]}
    assert points == 40
    assert traces[0]["total"] == 10, "what is left out is known, and said on the page"
    assert "the first 3 launches of a run" in text


def test_the_words_of_a_page_can_be_written_to_a_file() -> None:
    assert render(hostile()).encode("utf-8")


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)
        return found(name, *rest, **named)

    from bench.reports import html

    html._plotly_source.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackage, match=f"No module named '{package}'.*pip install"):
        render(read(RUN))


def test_the_verdict_of_two_runs_is_the_headline() -> None:
    text = Page(render(a_sweep(), a_sweep(1.5))).text
    assert "Run 2 (Fake CPU) against run 1, 6 cases: FASTER in 6." in text
    assert "6 cases: 1.500 (a summary, no verdict)" in text
    three = Page(render(a_sweep(), a_sweep(1.5), a_sweep(0.5))).text
    assert (
        "FASTER in 6." in three and "Run 3 (Fake CPU) against run 1, 6 cases: SLOWER in 6." in three
    )


def test_a_reason_of_the_headline_stands_by_its_verdict() -> None:
    """Whether all that have no interval have it for one reason or not."""
    mm, other = make_case(), make_case(parameters={"shape": "2x2x2"})
    base = runs((CASE, steps(FAST)), (mm, steps(FAST)), (other, steps(FAST)))
    short = runs((CASE, steps(FAST[:3])), (mm, steps(FAST[:3])), run_id="another")
    said = Page(render(base, short)).text
    assert "no interval in 2 (10 and 3 launches: " in said
    assert "5 of each (--launches 10)), INCOMPARABLE in 1." in said
    short = runs((CASE, steps(FAST[:3])), (mm, steps(FAST[:4])), run_id="another")
    assert "no interval in 2, INCOMPARABLE in 1." in Page(render(base, short)).text


def test_settings_that_differ_are_those_of_runs() -> None:
    """Of three records there are two pairs, and two runs that are the other."""

    def under(run_id: str, **variables: str) -> RunFile:
        environment = {"variables": variables}
        return make_file([CASE], [make_launch(case=CASE, environment=environment)], run_id=run_id)

    three = (under("a", OMP_NUM_THREADS="8"), under("b", OMP_NUM_THREADS="2"), under("c"))
    head = Page(render(*three)).text
    assert "Settings differ: OMP_NUM_THREADS (run 1: 8, run 2: 2)." in head
    assert "Settings differ: OMP_NUM_THREADS (run 1: 8, run 3: absent)." in head
    assert "Not known of run 1: an older version" in head and "known: " not in head


def test_the_filter_promises_what_it_finds() -> None:
    for some, said in (
        ([a_sweep()], "case, verdict, reason"),
        ([a_sweep(), a_sweep(1.5)], "case, device, verdict, reason"),
    ):
        (field,) = Page(render(*some)).all("input")
        assert field["placeholder"] == said


def test_energy_has_its_unit() -> None:
    case = make_case()
    counted: dict[str, Any] = {"energy_method": "counter", "energy_absent": None}
    outcome = make_measured(0.1, unit="image", energy_joules=0.4, **counted)
    page = render(make_file([case], make_launches(case, [outcome] * 3)))
    text = Page(page).text
    (row,) = summarize(make_file([case], make_launches(case, [outcome] * 3)))
    assert row.items_per_joule is not None
    assert units.joules(1 / row.items_per_joule, "image") in text and " energy " in text
    assert f'data-v="{1 / row.items_per_joule}"' in page, "it sorts by what it shows"


def test_runs_with_nothing_in_common_say_why() -> None:
    other = make_case(workload="bert", mode="train")
    page = Page(render(a_sweep(), make_file([other], make_launches(other, [make_measured()] * 3))))
    assert "have nothing in common" in page.text
    assert "Run 2 cannot be compared with run 1." in page.text
    assert not [a for a in page.all("div") if a.get("id", "").startswith("ratio-")]
    assert "bert-train" in page.text


def test_no_measured_case_is_a_page_too() -> None:
    case = make_case()
    text = Page(render(make_file([case], make_launches(case, [failed()] * 2)))).text
    assert "No case was measured." in text and "crash in measure: it broke" in text
    assert "Nothing can be drawn" in text

"""The HTML report in a real browser: what it draws, what can be done with it, what never runs."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.judging.summary import summarize
from bench.records.outcome import Outcome
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests.judging.two_systems import strong, weak
from bench.tests.reports.page.pages import (
    a_map,
    a_sweep,
    five_hundred,
    hostile,
    many_cases,
    of_suite,
    over_sizes,
    render,
    some_ranks,
)
from bench.tests.scaled import over_devices, run_of
from bench.tests.scripts.regenerate import GOLDEN, RUN
from bench.tests.values import another, failed, make_case, make_file, make_launches, make_measured

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1280,900",
)
ENTER, DOWN = "\ue007", "\ue015"
"""Keys, as WebDriver names them."""
SCRIPT_LINE = 100_000
"""Below the longest page."""
Show = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Chromium, headless, with a profile of its own."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all pages: the browser compiles the script of a page that it has seen there once."""
    return tmp_path_factory.mktemp("pages") / "page.html"


def in_line(page: str) -> str:
    """With its scripts on the same line as those of every other page: only then does the browser
    know plotly's again, which is half of what a page takes."""
    before, tag, after = page.partition('<script type="application/json"')
    missing = SCRIPT_LINE - before.count("\n")
    assert tag and missing > 0
    return before + "\n" * missing + tag + after


@pytest.fixture
def show(browser: Any, place: Path) -> Iterator[Show]:
    """Opens a page, of these runs; whatever the test did, the console must have stayed empty."""
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(*runs: RunFile, text: str = "", width: int = 1280) -> Any:
        place.write_text(in_line(text or render(*runs)), encoding="utf-8")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(place.as_uri())
        drawn = "return document.documentElement.dataset.drawn === 'yes'"
        WebDriverWait(browser, 60).until(lambda _: browser.execute_script(drawn))
        return browser

    yield open_page
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def count(page: Any, selector: str) -> int:
    return int(page.execute_script(f"return document.querySelectorAll({selector!r}).length"))


def cells(page: Any, column: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('#rows tbody tr')].filter(r => !r.hidden)"
        f".map(r => r.cells[{column}].innerText.trim())"
    )
    found: list[str] = page.execute_script(script)
    return found


def test_every_plot_draws_its_marks(show: Show) -> None:
    page = show(a_sweep(), a_sweep(1.5))
    assert count(page, "[id^=panel-] .bars .point path") == 12
    assert count(page, "[id^=panel-] .xerror") == 12
    assert count(page, "#ratio-0 .points path.point") == 6 + 6  # marks, and whiskers' own points
    assert count(page, "#ratio-0 .xerror") == 6
    assert "1.500 FASTER" in page.find_element("id", "ratio-0").text
    assert count(page, "#roofline path.js-line") == 2
    assert count(page, "#roofline .points path.point") == 2
    assert count(page, "#sweep-0 path.js-line") == 2
    assert count(page, "#sweep-0 .points path.point") == 6
    batches = page.execute_script(
        "return [...document.querySelectorAll('#sweep-0 .textpoint')].map(e => e.textContent)"
    )
    assert batches == ["1", "2", "4", "1", "2", "4"]
    assert count(page, "#trace .points path.point") == 2 * 5 * (3 + 10)


def test_plots_of_many_devices(show: Show) -> None:
    """Efficiency, a slow rank, a slow link, bandwidth over sizes, two systems: on one page."""

    def together(*parts: RunFile) -> RunFile:
        cases = [case for part in parts for case in part.run.plan]
        return make_file(cases, [launch for part in parts for launch in part.launches])

    ranks, links = some_ranks(8, (5,)), a_map(4, (1, 3))
    page = show(
        together(ranks, links, strong(), run_of(over_devices()), over_sizes()),
        together(weak(), over_sizes(2.0)),
    )
    assert count(page, "#link-0 path.js-line") == 4, "each with its fitted line"
    assert count(page, "#link-0 .points path.point") == 6
    assert "latency 10.0 us" in page.find_element("css selector", "#link-0 ~ figcaption").text
    assert count(page, "#systems-0 .xerror") == 1
    texts = "return [...document.querySelectorAll(arguments[0] + ' text')].map(e => e.textContent)"
    assert "1.244 FASTER" in page.execute_script(texts, "#systems-0")
    places = page.execute_script(
        "const x = document.getElementById('efficiency-0')._fullLayout.xaxis;"
        "return [1, 2, 4, 8].map(n => x.d2p(n))"
    )
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert gaps == pytest.approx([gaps[0]] * 3, rel=1e-3), "log2"
    assert count(page, "#efficiency-0 path.js-line") == 1 + 2, "the ideal, and both runs"
    assert count(page, "#efficiency-1 path.js-line") == 1 + 1
    assert count(page, "#efficiency-1 .yerror") == 4
    assert "1: dp, strong" in "".join(page.execute_script(texts, "#efficiency-1"))
    for name, frames in (("ranks-0", 1), ("map-0", 2)):
        assert count(page, f"#{name} .heatmaplayer image") == 1
        assert count(page, f"#{name} .shapelayer path") == frames
    assert "5 slow" in page.execute_script(texts, "#ranks-0")
    page.execute_script("Plotly.Fx.hover('map-0', {xval: 3, yval: 1})")
    told = page.execute_script("return document.querySelector('#map-0 .hoverlayer').textContent")
    assert told == "rank 1, rank 3262 MB/s, 25%each way, and of the median"


def test_what_is_named_on_a_roof_is_legible(show: Show) -> None:
    """The roof, and the product that makes it: neither over the other, nor on the line; nor are
    roofs of several runs that lie close."""
    page = show(read(GOLDEN / "h200.jsonl.gz"))
    script = """
        return [...document.querySelectorAll(arguments[0])].map(element => {
          const box = element.getBoundingClientRect();
          return [element.textContent, box.left, box.right, box.top, box.bottom]; })"""
    names = page.execute_script(script, "#roofline .textpoint text")
    ((_, _, _, line, _),) = page.execute_script(script, "#roofline path.js-line")
    on_it = [name for name in names if "matmul" in name[0]]
    assert len(on_it) == 2 and all(line >= bottom - 3 for *_, bottom in on_it)
    page = show(a_sweep(), a_sweep(1.01), a_sweep(0.99))
    roofs = [n for n in page.execute_script(script, "#roofline .textpoint text") if n[0][1] == ":"]
    assert len(roofs) == 6
    pairs = [*itertools.combinations(names, 2), *itertools.combinations(roofs, 2)]
    for (_, left, right, top, bottom), other in pairs:
        assert right <= other[1] or other[2] <= left or bottom < other[3] or other[4] < top


@pytest.mark.parametrize(("title", "width"), [("serving", 1280), ("long-context", 700)])
def test_no_two_cases_of_a_plot_have_one_label(show: Show, title: str, width: int) -> None:
    page = show(of_suite(title), another(of_suite(title)), width=width)
    script = """
        const texts = (plot) => [...plot.querySelectorAll('.textpoint')].map(e => e.textContent);
        return [...document.querySelectorAll('[id^=panel-], #ratio-0')].map(texts)"""
    cases = {case.fingerprint for case in of_suite(title).run.plan}
    drawn = page.execute_script(script)
    assert sum(map(len, drawn)) > 2 * len(cases)
    for texts in drawn:
        labels = [text for text in texts if re.match("(.+-.+ )?(bf16|fp8|fp16)", text)]
        assert labels and len(labels) == len(set(labels))


def test_a_ratio_stands_where_its_number_says(show: Show) -> None:
    page = show(a_sweep(), a_sweep(2.0), a_sweep(0.5))
    script = """
        const plot = document.getElementById(arguments[0]);
        const marks = [...plot.querySelectorAll('.points path.point')].slice(-6);
        return [plot._fullLayout.xaxis.type, plot._fullLayout.xaxis.d2p(1),
          ...marks.map(m => +m.getAttribute('transform').match(/[\\d.]+/)[0])]"""
    kind, one, *faster = page.execute_script(script, "ratio-0")
    assert kind == "log" and len(faster) == 6 and all(x > one for x in faster)
    _, one, *slower = page.execute_script(script, "ratio-1")
    assert all(x < one for x in slower)


@pytest.mark.parametrize("width", [900, 1280])
def test_the_axis_of_ratios_is_legible(show: Show, width: int) -> None:
    """Beside long figures too it is wide, and its numbers lie, apart from each other."""
    slow, fast = a_sweep(0.12), a_sweep(1.6)
    mixed = make_file(slow.run.plan, [*slow.launches[:15], *fast.launches[15:]])
    long = ", outputs after the first step differ at equal seeds"
    page = show(
        text=render(a_sweep(), mixed).replace("0.120 SLOWER", "0.120 SLOWER" + long), width=width
    )
    script = """
        const plot = document.getElementById('ratio-0');
        const boxes = [...plot.querySelectorAll('.xtick text')].map(e => e.getBoundingClientRect());
        return [plot._fullLayout.xaxis._length, boxes.map(b => [b.left, b.right, b.height])]"""
    length, ticks = page.execute_script(script)
    assert length > 200 and len(ticks) > 2 and all(height < 18 for *_, height in ticks)
    assert all(before[1] + 3 < after[0] for before, after in itertools.pairwise(ticks))


def test_the_chooser_draws_another_case(show: Show) -> None:
    page = show(read(RUN))
    select = page.find_element("id", "trace-case")
    labels = [option.text for option in select.find_elements("tag name", "option")]
    assert labels == [r.case.label for r in summarize(read(RUN)) if r.status == "measured"]
    before = count(page, "#trace .points path.point")
    select.send_keys(DOWN)
    assert page.execute_script("return arguments[0].selectedIndex", select) == 1
    assert (before, count(page, "#trace .points path.point")) == (3 * 13, 3 * 43)
    assert "40 steady samples" in page.find_element("id", "trace-words").text
    select.send_keys(DOWN)  # resnet50: one launch failed
    assert "killed by SIGKILL" in page.find_element("id", "trace-words").text


def test_the_table_sorts_by_number_and_by_text(show: Show) -> None:
    cases = [make_case(workload=w, parameters={}) for w in ("d", "b", "c", "a")]
    outcomes: list[Outcome] = [failed(), make_measured(0.1), failed(), make_measured(0.002)]
    pairs = list(zip(cases, outcomes, strict=True))
    page = show(make_file(cases, [x for c, o in pairs for x in make_launches(c, [o] * 3)]))
    heads = page.find_elements("css selector", "#rows thead th")
    column = [head.text.split()[0] for head in heads].index("throughput")
    assert cells(page, column) == ["—", "10.0 image/s", "—", "500 image/s"], "as planned, at first"
    button = heads[column].find_element("tag name", "button")
    button.click()
    assert cells(page, column) == ["10.0 image/s", "500 image/s", "—", "—"]
    assert heads[column].get_attribute("aria-sort") == "ascending"
    button.send_keys(ENTER)
    assert cells(page, column) == ["500 image/s", "10.0 image/s", "—", "—"], "no number: last"
    assert heads[column].get_attribute("aria-sort") == "descending"
    heads[0].find_element("tag name", "button").click()
    assert heads[column].get_attribute("aria-sort") == "none"
    assert [text[0] for text in cells(page, 0)] == ["a", "b", "c", "d"]


def test_the_filter_keeps_rows_with_every_word(show: Show) -> None:
    page = show(read(RUN))
    field = page.find_element("id", "filter")
    field.send_keys("MEMORY unreached")
    assert len(cells(page, 0)) == 1 and cells(page, 0)[0].startswith("memory-triad")
    assert page.find_element("id", "shown").text == "1 of 7 rows"
    field.clear()
    field.send_keys("it broke")
    assert [c.split()[0] for c in cells(page, 0)] == ["memory-copy"]
    field.clear()
    field.send_keys("x\b")
    assert len(cells(page, 0)) == 7


def test_a_hostile_record_runs_nothing(show: Show) -> None:
    whole = msgspec.structs.replace(hostile(), damage=None)  # or it is not compared
    page = show(whole, another(whole), hostile())
    page.find_element("id", "filter").send_keys("{{7*7}}")
    assert page.execute_script("return window.pwned") is None
    assert count(page, "img, a[href^=javascript], iframe, svg a, svg image") == 0
    assert count(page, "script") == 3
    # Tags of plotly's own little HTML are shown, not obeyed.
    labels = page.execute_script(
        "return [...document.querySelectorAll('#ratio-0 .textpoint')].map(e => e.textContent)"
    )
    assert any("</script>" in text for text in labels)
    point = "document.querySelector('#roofline .nsewdrag')"
    page.execute_script(f"{point}.scrollIntoView({{block: 'center'}})")
    page.execute_script("Plotly.Fx.hover('roofline', [{curveNumber: 3, pointNumber: 0}])")
    page.execute_script("Plotly.Fx.hover('panel-0', [{curveNumber: 2, pointNumber: 0}])")
    hover = page.execute_script("return document.querySelector('#panel-0 .hoverlayer').textContent")
    assert "</script><script>window.pwned=1</script>" in hover
    assert page.execute_script("return window.pwned") is None


def test_an_injected_script_would_not_run_either(show: Show, browser: Any) -> None:
    """The second wall: the policy stops scripts and loads even in a page that was broken into."""
    page = show(read(RUN))
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
        "const h = document.createElement('div'); h.setAttribute('onclick', 'window.pwned = 2');"
        "document.body.append(h); h.click();"
    )
    assert page.execute_script("return window.pwned") is None
    blocked = [entry["message"] for entry in browser.get_log("browser")]
    assert len(blocked) == 3 and all("Content Security Policy" in text for text in blocked)


def test_the_theme_follows_the_system_until_the_button_is_pressed(show: Show) -> None:
    page = show(read(RUN))

    def paper() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    def ink() -> str:
        script = "return getComputedStyle(document.querySelector('#panel-0 text')).fill"
        return str(page.execute_script(script))

    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"

    def system(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    system("dark")
    assert (paper(), ink()) == (dark, "rgb(232, 234, 237)")
    system("light")
    assert (paper(), ink()) == (light, "rgb(26, 29, 33)")
    button = page.find_element("id", "theme")
    assert button.text == "Dark theme"
    button.click()
    assert (paper(), ink(), button.text) == (dark, "rgb(232, 234, 237)", "Light theme")
    button.click()
    assert paper() == light


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_does_not_scroll_sideways(show: Show, width: int) -> None:
    page = show(a_sweep(), read(RUN), hostile(), width=width)
    inner = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert inner[0] <= inner[1] <= width


def test_a_page_of_another_width_is_drawn_anew(show: Show) -> None:
    page = show(read(RUN), width=1280)
    script = "return document.querySelector('#roofline .main-svg').clientWidth"
    wide = page.execute_script(script)
    metrics = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_async_script("setTimeout(arguments[0], 400)")
    assert page.execute_script(script) < 400 < wide


def test_print_has_every_row_and_no_controls(show: Show) -> None:
    page = show(read(RUN))
    page.find_element("id", "filter").send_keys("nothing has this")
    page.find_element("id", "theme").click()
    assert cells(page, 0) == []
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = page.execute_script(
            "return [...document.querySelectorAll('#rows tbody tr')]"
            ".filter(r => getComputedStyle(r).display === 'table-row').length"
        )
        assert shown == 7
        assert not page.find_element("id", "theme").is_displayed()
        assert not page.find_element("id", "filter").is_displayed()
        paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    folded = page.execute_script("return document.querySelectorAll('details[open]').length")
    assert folded == 0, "opened for the print, and closed again"


def test_five_hundred_cases_are_drawn(show: Show) -> None:
    page = show(text=five_hundred())
    assert count(page, "[id^=panel-] .bars .point path") == 1000
    assert count(page, "#rows tbody tr") == 1000
    print(f"drawn after {page.execute_script('return performance.now()'):.0f} ms")


def test_odd_runs_are_drawn_without_complaint(show: Show) -> None:
    case = make_case()
    nothing = make_file([case], make_launches(case, [failed()] * 2))
    one = make_file([case], make_launches(case, [make_measured(0.01)]))
    for runs in ((nothing,), (one,), (one, one), (nothing, one), (many_cases(2, launches=20),)):
        show(*runs)

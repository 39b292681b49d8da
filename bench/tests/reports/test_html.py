"""The HTML report: what is in it, what is inert in it, and what a real browser makes of it."""

from __future__ import annotations

import base64
import builtins
import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.errors import MissingPackage
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.outcome import Memory, Outcome, Skipped, Void
from bench.records.run import Launch, RunFile
from bench.records.runfile import read
from bench.report import Canvas
from bench.reports import _html_plots as _plots
from bench.reports._comparison import WORDS
from bench.reports.html import REPORT
from bench.tests.fakes import failed, make_case, make_file, make_launches, make_measured
from bench.tests.scripts.regenerate import RUN

MIB = 2**20


def render(*runs: RunFile) -> str:
    return REPORT.render(list(runs), Canvas())


class Page(HTMLParser):
    """The text that a reader sees, the elements with their attributes, and the script blocks."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag in ("script", "style"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif not self.inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def sweep_case(batch: int) -> Case:
    return make_case(
        workload="bert", mode="infer", parameters={"model": "base", "batch_size": batch}
    )


def a_sweep(speed: float = 1.0) -> RunFile:
    """Ceilings of both kinds, a case under them, and a sweep of three batch sizes."""
    gemm = make_case()
    memory = make_case(workload="memory", mode="triad", parameters={"size_bytes": MIB})
    decode = make_case(workload="llama", mode="decode", parameters={"batch_size": 1})
    work: list[tuple[Case, Callable[[float], Outcome]]] = [
        (gemm, lambda t: make_measured(t, items=10**9, unit="FLOP", flop=10**9)),
        (memory, lambda t: make_measured(t, items=10**8, unit="B", moved_bytes=10**8)),
        (decode, lambda t: make_measured(t, unit="token", flop=10**8, moved_bytes=10**8)),
    ]
    for batch in (4, 1, 2):
        work.append((sweep_case(batch), _request(batch)))
    launches: list[Launch] = []
    for case, make in work:
        outcomes = [make(0.01 * (1 + k / 500) / speed) for k in range(5)]
        launches += make_launches(case, outcomes, first_order=len(launches))
    return make_file([case for case, _ in work], launches)


def _request(batch: int) -> Callable[[float], Outcome]:
    return lambda t: make_measured(
        t * (1 + batch / 4), items=batch, unit="sequence", latency_name="latency"
    )


def many_cases(count: int, launches: int = 5) -> RunFile:
    """A run of `count` cases with long traces, over ten kinds of work."""
    steps = [0.01 + 1e-5 * (k % 7) for k in range(100)]
    cases = [
        make_case(
            workload=f"work{i % 10}",
            mode="infer",
            parameters={"model": "some-model-name", "batch_size": 1 + i // 10, "sequence": 128},
        )
        for i in range(count)
    ]
    found: list[Launch] = []
    for case in cases:
        size = float(case.parameters["batch_size"])
        outcomes: list[Outcome] = [
            make_measured(
                [s * size**0.8 * (1 + k / 300) for s in steps],
                items=int(size),
                flop=10**9,
                moved_bytes=10**7 * int(size),
                latency_name="latency",
            )
            for k in range(launches)
        ]
        found += make_launches(case, outcomes, first_order=len(found))
    return make_file(cases, found)


ATTACK = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>"
QUOTED = '" onload="window.pwned=3" x="'
TEMPLATE = "{{7*7}} %{x} <b>bold</b> <a href='javascript:window.pwned=4'>x</a>"


def hostile() -> RunFile:
    """Every free text of a record attacks the page."""
    fine = make_case(
        workload=f"gemm{ATTACK}",
        mode=QUOTED,
        parameters={"model": TEMPLATE, "batch_size": 1, QUOTED: ATTACK},
    )
    second = msgspec.structs.replace(fine, parameters={**fine.parameters, "batch_size": 2})
    broken = make_case(workload=TEMPLATE, precision=ATTACK, parameters={})
    wrong = make_case(workload=QUOTED, parameters={"a": ATTACK + "\u2028\u2029"})
    launches: list[Launch] = []
    for case in (fine, second):
        outcome = make_measured(
            0.01,
            unit=ATTACK,
            flop=10**9,
            moved_bytes=10**8,
            latency_name=ATTACK,
            memory=Memory(peak_bytes=MIB, scope=ATTACK, host_rss_bytes=MIB),
        )
        launches += make_launches(case, [outcome] * 3, first_order=len(launches))
    launches += make_launches(broken, [failed(message=ATTACK + QUOTED)], first_order=20)
    launches += make_launches(wrong, [Void(reason=TEMPLATE + ATTACK)], first_order=30)
    launches = [
        msgspec.structs.replace(
            launch, environment={ATTACK: {QUOTED: TEMPLATE}, "variables": {ATTACK: ATTACK}}
        )
        for launch in launches
    ]
    changes: dict[str, Any] = {
        "device": {"backend": QUOTED, "name": ATTACK + TEMPLATE, "facts": {ATTACK: QUOTED}},
        "host": {ATTACK: [QUOTED]},
        "suite": ATTACK,
        "run_id": QUOTED + ATTACK,
        "command": ("accelmark", ATTACK),
        "started_at": ATTACK,
    }
    run = make_file([fine, second, broken, wrong], launches, **changes)
    return msgspec.structs.replace(run, path=f"{QUOTED}\udcff", damage=ATTACK)


# Without a browser


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
    assert render(a_sweep(), a_sweep(1.2)) == render(a_sweep(), a_sweep(1.2))


def test_five_hundred_cases_fit_into_eight_megabytes() -> None:
    text = render(many_cases(500), many_cases(500))
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


# What the plots are given


def sides(*runs: RunFile) -> list[_plots.Side]:
    return [_plots.Side(number, run) for number, run in enumerate(runs, start=1)]


def test_a_point_of_the_roofline_lies_where_its_counts_say() -> None:
    drawn = _plots.roofline(sides(a_sweep()))
    (point,) = drawn["points"]
    assert math.isclose(point["intensity"], 1.0)
    assert math.isclose(point["flop"], 1e10, rel_tol=0.01)
    (roof,) = drawn["roofs"]
    assert math.isclose(roof["matmul"], 1e11, rel_tol=0.01)
    assert math.isclose(roof["bandwidth"], 1e10, rel_tol=0.01)
    assert drawn["missing"] == []
    why = {group["why"]: group["names"] for group in drawn["unplaced"]}
    assert why["its work is not arithmetic, no FLOP are counted"] == [
        "memory-triad bf16",
        "bert-infer bf16",
    ]
    assert why["the bytes that a step must move are not counted"] == ["gemm-matmul bf16"]


def test_a_missing_ceiling_is_said() -> None:
    page = Page(render(read(RUN)))
    assert "Run 1 has no memory bandwidth ceiling" in page.text
    drawn = _plots.roofline(sides(make_file([sweep_case(1)], [])))
    assert drawn == {"points": [], "roofs": [], "missing": [], "unplaced": []}
    case = make_case(workload="bert", precision="fp32")
    alone = make_file([case], make_launches(case, [make_measured(flop=9, moved_bytes=3)] * 3))
    drawn = _plots.roofline(sides(alone))
    assert len(drawn["points"]) == 1 and drawn["roofs"] == []
    assert "Run 1 has no fp32 matmul ceiling" in drawn["missing"][0]


def test_a_sweep_is_one_curve_in_the_order_of_batches() -> None:
    (panel,) = _plots.sweeps(sides(a_sweep(), a_sweep(2.0)))
    assert panel["title"] == "bert-infer bf16 (base)"
    assert [curve["run"] for curve in panel["curves"]] == [0, 1]
    points = panel["curves"][0]["points"]
    assert [p["batch"] for p in points] == [1, 2, 4]
    assert math.isclose(points[2]["ms"], 20, rel_tol=0.01)
    assert math.isclose(points[2]["throughput"], 200, rel_tol=0.01)
    assert points[2]["ms_low"] < points[2]["ms"] < points[2]["ms_high"]


def test_one_batch_size_is_no_sweep() -> None:
    assert list(_plots.sweeps(sides(read(RUN)))) == []
    assert "No sweep" in Page(render(read(RUN))).text


@pytest.mark.parametrize(
    ("warmup", "steady", "points"),
    [
        (3, 10, (3, 10)),
        (20, 40, (20, 40)),
        (20, 100, (10, 50)),
        (0, 100, (0, 60)),
        (2, 999, (1, 59)),
    ],
)
def test_a_long_launch_is_thinned_to_medians(
    warmup: int, steady: int, points: tuple[int, int]
) -> None:
    block = make_measured(0.001).steady[0]
    outcome = make_measured(
        [0.001 * (k + 1) for k in range(steady)], warmup=(block,) * warmup, latency_name=None
    )
    case = make_case()
    (trace,) = _plots.traces(sides(make_file([case], make_launches(case, [outcome]))))
    (launch,) = trace["launches"]
    assert (len(launch["warmup"]["ms"]), len(launch["steady"]["ms"])) == points
    assert (launch["warmup"]["samples"], launch["steady"]["samples"]) == (warmup, steady)
    assert ("medians of bins" in launch["words"]) == (warmup + steady > 60)
    # Sample k takes k + 1 ms: the median of a bin says where its middle lies.
    width = steady / points[1]
    for i, ms in enumerate(launch["steady"]["ms"]):
        assert abs(ms - (i + 0.5) * width - 0.5) <= 1


def test_a_trace_says_outliers_flags_and_failures() -> None:
    steps = [0.01, 0.0101, 0.0099, 0.0102, 0.01, 0.0098, 0.5]
    outcomes: list[Outcome] = [
        make_measured(steps, flags=("DRIFT",)),
        failed(message="it broke"),
        Skipped(reason="no bf16"),
    ]
    case = make_case()
    (trace,) = _plots.traces(sides(make_file([case], make_launches(case, outcomes))))
    words = [launch["words"] for launch in trace["launches"]]
    assert "3 warm-up and 7 steady samples" in words[0] and "1 outlier;" in words[0]
    assert "DRIFT: step times moved" in words[0]
    assert words[1:] == ["FAILED: it broke", "SKIPPED: no bf16"]


def test_the_verdict_of_two_runs_is_the_headline() -> None:
    text = Page(render(a_sweep(), a_sweep(1.5))).text
    assert "Run 2 (Fake CPU) against run 1, 6 cases: FASTER in 6." in text
    assert "6 cases: 1.500 (a summary, no verdict)" in text
    three = Page(render(a_sweep(), a_sweep(1.5), a_sweep(0.5))).text
    assert (
        "FASTER in 6." in three and "Run 3 (Fake CPU) against run 1, 6 cases: SLOWER in 6." in three
    )


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


# Looks


def test_every_verdict_has_its_colour_and_symbol() -> None:
    script = (Path(_plots.__file__).parent / "html.js").read_text(encoding="utf-8")
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
    folder = Path(_plots.__file__).parent
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


# In a browser


FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1280,900",
)
ENTER, DOWN = "\ue007", "\ue015"
"""Keys, as WebDriver names them."""
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


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens a page of these runs; whatever the test did, the console must have stayed empty."""
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(*runs: RunFile, width: int = 1280) -> Any:
        path = tmp_path / "page.html"
        path.write_text(render(*runs), encoding="utf-8")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(path.as_uri())
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
    page = show(hostile(), hostile())
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
    page = show(many_cases(500), many_cases(500))
    assert count(page, "[id^=panel-] .bars .point path") == 1000
    assert count(page, "#rows tbody tr") == 1000
    print(f"drawn after {page.execute_script('return performance.now()'):.0f} ms")


def test_odd_runs_are_drawn_without_complaint(show: Show) -> None:
    case = make_case()
    nothing = make_file([case], make_launches(case, [failed()] * 2))
    one = make_file([case], make_launches(case, [make_measured(0.01)]))
    for runs in ((nothing,), (one,), (one, one), (nothing, one), (many_cases(2, launches=20),)):
        show(*runs)

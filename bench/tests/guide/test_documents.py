"""README and the guide: their size, links, the files that they name, the words of the cards."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bench import catalogue, guide
from bench.conformance.worker import checks
from bench.judging.comparing.comparison import CompareVerdict
from bench.judging.row import Verdict
from bench.records.flaws import Kind
from bench.records.outcome import Flag
from bench.reports.table import _columns
from bench.reports.terminal.grid import ONE_LINE
from bench.reports.wording.comparison_notes import CELLS, WORDS, parts
from bench.reports.wording.labels import TWO_LINES
from bench.tests.guide.documents import (
    BLOCK,
    CARD,
    CLONE,
    DOCUMENTS,
    PACKAGE,
    PAGES,
    README,
    blocks,
    card,
)
from bench.tests.released import workloads

MOST_LINES = 220
SCREEN_LINES = 50
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?<![`\w])`([\w.-]*[\w-]/[\w./-]*|[\w-]+\.(?:py|md|toml)|\.(?:ci|pre)[\w./-]+)`"
)
"""In backquotes: what has a slash, or ends as files of ours do."""
ROOTS = (CLONE, PACKAGE, PACKAGE / "tests")
"""Where a file that is named may lie."""
STANDS_FOR = {"runs/", "runs/mine.jsonl", "bench/guide/NAME.md"}
"""What a command makes, and what may have any name."""
NO_WORDS = {"RUN", "RECORD", "OMP NUM THREADS"}
"""In capitals, and stand for what a user gives."""
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.name))


def prose(document: Path) -> str:
    """All but the fenced blocks."""
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """Of its headings, as they are made on the web."""
    found = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_readme_is_read_in_five_minutes() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    (shown,) = [b.text for b in blocks(README, "text") if b.mark == "the report card"]
    assert len(shown.splitlines()) <= SCREEN_LINES
    (ten,) = re.findall(r"## Ten things people do\n\n```sh\n(.*?)```", text, re.DOTALL)
    assert re.findall(r"# (\d+)\. ", ten) == [str(k) for k in range(1, 11)]


def test_readme_shows_the_card_that_the_code_prints() -> None:
    """Else: `python -m bench.tests.scripts.regenerate`."""
    found = CARD.search(README.read_text(encoding="utf-8"))
    assert found and found[0] == card()


@pytest.mark.parametrize("page", PAGES, ids=lambda d: str(d.name))
def test_no_line_of_a_block_is_broken_at_80_columns(page: Path) -> None:
    """Where it could not be copied. rich leaves a column free on each side."""
    shown = [block.text for k in ("sh", "python", "toml", "text") for block in blocks(page, k)]
    assert [line for text in shown for line in text.splitlines() if len(line) > 78] == []


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(document)):
        target, _, anchor = link.partition("#")
        file = document if not target else document.parent / target
        assert ":" not in target, "no page needs the network"
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(link)
    assert wrong == []


@every_document
def test_every_file_that_is_named_is_there(document: Path) -> None:
    named = {name for name in PATH.findall(prose(document)) if name not in STANDS_FOR}
    here = {name for name in named for root in ROOTS if (root / name).exists()}
    assert sorted(named - here) == []


def test_the_checks_of_links_and_files_see_something() -> None:
    assert sum(len(LINK.findall(prose(d))) for d in DOCUMENTS) > 30
    assert sum(len(PATH.findall(prose(d))) for d in DOCUMENTS) > 40
    assert "on-real-hardware" in anchors(PACKAGE / "guide" / "evidence.md")


def test_readme_names_every_page() -> None:
    linked = set(LINK.findall(prose(README)))
    assert {f"bench/guide/{page.name}" for page in PAGES} <= linked


def test_the_words_of_cards_are_all_explained() -> None:
    text = guide.page("words").text
    kinds = [kind.upper() for kind in get_args(Kind)]
    printed = {*get_args(Flag), *get_args(Verdict), *get_args(CompareVerdict), *kinds}
    printed |= {"VOID", "FAILED", "SKIPPED", "UNREACHED"}
    assert [word for word in printed if not re.search(rf"\b{word}\b", text)] == []


def capital_words(text: str) -> Iterator[str]:
    """That begin what a module prints: `Note("NOT SUSTAINED", ...)`, `f"PRECISION {why}"`."""
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.match(r"[A-Z]{3,}(?:[ _-][A-Z]{2,})*(?=[: ]|$)", node.value)
            if found and id(node) not in docstrings:
                yield found[0].replace("_", " ")


def test_the_words_that_reports_print_are_all_explained() -> None:
    """Those in capitals, of every report; and what the factors of a ratio are called."""
    reports = PACKAGE / "reports"
    printed = {
        word
        for file in reports.rglob("*.py")
        for word in capital_words(file.read_text(encoding="utf-8"))
    }
    page = (reports / "page" / "html.j2").read_text(encoding="utf-8")
    printed |= set(re.findall(r'badge\("([A-Z ]+)"', page))
    assert {"PROVED", "MAY EXPLAIN IT", "PRECISION", "SLOW", "FEW LAUNCHES", "DRIFT"} < printed
    for doubt in ("", "settings differ"):
        comparison: Any = SimpleNamespace(configured=SimpleNamespace(chip_doubt=doubt))
        printed.add(" x ".join(parts(comparison)))
    words = guide.page("words").text.replace("_", " ")
    assert [w for w in sorted(printed - NO_WORDS) if not re.search(rf"\b{w}\b", words)] == []


def test_verdicts_are_named_as_they_are_printed() -> None:
    """On the card and on the page."""
    readme, words = README.read_text(encoding="utf-8"), " ".join(guide.page("words").text.split())
    printed = {*WORDS.items(), *CELLS.items()}
    assert [w for _, w in printed if w not in readme] == []
    assert [w for v, w in printed if f'"{w}"' not in words and w != v] == []
    assert 'on the card "undecided", on the page "no significant' in words


def test_every_page_that_the_program_names_is_there() -> None:
    """In messages and docstrings: `accelmark guide PAGE`."""
    named = {
        name
        for file in PACKAGE.rglob("*.py")
        if "tests" not in file.relative_to(PACKAGE).parts
        for name in re.findall(r"accelmark guide ([a-z][a-z-]+)", file.read_text(encoding="utf-8"))
    }
    assert named and named <= set(guide.ORDER)


def test_nothing_sends_the_reader_to_readme() -> None:
    """Which an installed package has not."""
    found = [
        file.name
        for file in PACKAGE.rglob("*.py")
        if re.search(r"[Ss]ee README", file.read_text(encoding="utf-8")) and file != Path(__file__)
    ]
    assert found == []


def test_what_runs_before_a_commit_and_a_push_is_the_gate() -> None:
    (block,) = [b for b in blocks(README, "sh") if b.mark == "the test command"]
    gate = [part.replace(".venv/bin/", "") for part in block.text.strip().split(" && ")][2:]
    hooks = (CLONE / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE) == gate
    assert set(re.findall(r"repo: (\w+)", hooks)) == {"local"}
    many = {"2": "two", "3": "three", "4": "four"}[re.findall(r"-n (\d)", " ".join(gate))[0]]
    contributing = " ".join(guide.page("contributing").text.split())
    project = (CLONE / "pyproject.toml").read_text(encoding="utf-8")
    for said in (hooks, contributing, project):
        assert re.findall(r"tests,? (\w+) at a time", said) == [many]


def test_what_the_gate_fetches_beside_is_said() -> None:
    run = (CLONE / ".ci" / "run").read_text(encoding="utf-8")
    said = " ".join(guide.page("contributing").text.split())
    (version,) = re.findall(r"mindspore==(\d+\.\d+)", run)
    (size,) = re.findall(r"own, meanwhile: (\d+ MB)", run)
    assert "apt-get -qq -y install chromium" in run and "install chromium, as root" in said
    assert f"MindSpore {version} ({size})" in said
    switch = re.findall(r"(ACCELMARK_CI_\w+)", run)
    assert set(switch) == {"ACCELMARK_CI_MINDSPORE"} and f"`{switch[0]}=0`" in said
    assert "`all`" in said and "= all ]" in run and "bench/tests/frameworks" in said


def test_every_check_of_the_conformance_kit_is_in_its_table() -> None:
    page = guide.page("new-backend").text
    table = page[page.index("| check | is it so that |") : page.index("Each check has a process")]
    listed = re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE)
    assert listed == list(checks())


def test_the_runs_that_are_published_are_counted() -> None:
    table = (CLONE / "results" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[`quick\S*` ?\]?\S* \| quick\S* \| (?:AMD )?(\w+)", table, re.MULTILINE
    )
    said = " ".join(guide.page("evidence").text.split())
    number = {2: "Two", 3: "Three", 4: "Four", 5: "Five"}
    assert f"{number[len(rows)]} whole runs of `quick`, one of a Xeon and two of EPYCs" in said
    assert sorted(rows) == ["EPYC", "EPYC", "Intel"]


def test_readme_says_of_bare_loops_what_the_evidence_says() -> None:
    """The least and the largest ratio of its tables, and of how many cases."""
    text = guide.page("evidence").text
    part = text[
        text.index("## Against loops") : text.index("And by `bench.tests.validation.kernels`")
    ]
    ratios: dict[str, list[float]] = {}
    for names, figures in re.findall(r"^\| ([a-z][\w, -]*) \| ([^|]+) \|", part, re.MULTILINE):
        first, *more = names.split(", ")
        family = first.rpartition("-")[0]
        means = [float(x) for x in re.findall(r"\d\.\d+", re.sub(r"\([^)]*\)", "", figures))]
        cases = [first, *(f"{family}-{mode}" for mode in more)]
        for number, mean in enumerate(means):
            ratios.setdefault(cases[min(number, len(cases) - 1)], []).append(mean)
    means = [mean for some in ratios.values() for mean in some]
    said = f"bare loop is {min(means):.2f} to {max(means):.2f} in {len(ratios)} cases on a CPU"
    assert said in README.read_text(encoding="utf-8")
    low = {name for name, some in ratios.items() if min(some) < 0.98}
    assert low == {"qwen3-decode"} and "whether Qwen3's decode" in README.read_text("utf-8")


def said_of(precision: str) -> str:
    """Where there is a precision, as the catalogue has it."""
    found = re.search(rf"^\| `{precision}` \| .+ \| (.+) \|$", guide.page("catalogue").text, re.M)
    assert found
    return found[1]


def test_where_a_precision_is_not_is_said() -> None:
    """Of those that are said to be everywhere, or in all of a kind, but for some."""
    modes = {
        (name, mode): (set(found.precisions), mode.startswith("train"))
        for name in workloads()
        for mode, found in catalogue.load("workloads", name).modes.items()
    }

    def lacking(precision: str, trained: bool | None) -> set[str]:
        """Workloads, and modes of those that have it otherwise."""
        asked = {
            key: precision in precisions
            for key, (precisions, trains) in modes.items()
            if trained in (None, trains) and not (trained is False and key[1] == "lora")
        }
        without = {n for n, _ in asked if not any(has for (m, _), has in asked.items() if m == n)}
        return without | {mode for (n, mode), has in asked.items() if not has and n not in without}

    for precision, trained in (("bf16", None), ("fp32", None), ("bf16-amp", True), ("fp16", False)):
        said = said_of(precision)
        _, _, exceptions = said.partition("but ")
        named = {*re.findall(r"`([\w-]+)`", exceptions), *re.findall(r"` (grouped)", exceptions)}
        absent = lacking(precision, trained) | ({"lora"} if precision == "bf16-amp" else set())
        assert named - ({"gemm"} if "grouped" in named else set()) == absent, precision


def test_where_a_narrow_precision_is_is_said() -> None:
    """The workloads that have it, by name."""
    having: dict[str, set[str]] = {}
    for name in workloads():
        for mode in catalogue.load("workloads", name).modes.values():
            for precision in mode.precisions:
                having.setdefault(precision, set()).add(name)
    for precision in ("fp8", "int8", "fp8-row", "fp8-block128", "mxfp8", "mxfp4", "nvfp4"):
        page = guide.page("catalogue").text
        (said,) = re.findall(rf"^\|[^|]*`{precision}`[^|]*\| .+ \| (.+) \|$", page, re.M)
        assert set(re.findall(r"`([\w-]+)`", said)) == having[precision], precision


def test_what_a_card_leaves_out_first_is_said_in_its_order() -> None:
    """By `drops` of its columns: the highest first."""
    row = re.search(
        r"- \*\*latency\*\*.+?left out,\n {2}the last first", guide.page("reports").text, re.S
    )
    assert row
    drops = {column.heading: column.drops for column in _columns(()) if column.drops}
    assert re.findall(r"\*\*([\w/]+)\*\*", row[0]) == sorted(drops, key=lambda name: drops[name])
    assert f"cut from {ONE_LINE} columns on" in guide.page("reports").text
    assert f"below {TWO_LINES} as many" in guide.page("reports").text


def test_the_extras_that_are_installed_are_declared() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {e for d in DOCUMENTS for e in re.findall(r"\.\[(\w+)\]", d.read_text("utf-8"))}
    assert asked == {"all", "test"}
    listed = re.findall(r"^\| `(\w+)` \|", guide.page("first-steps").text, re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])

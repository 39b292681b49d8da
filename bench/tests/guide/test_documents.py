"""README and the guide: their size, links, the files that they name, the words of the cards."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from bench import guide
from bench.judging.comparison import CompareVerdict
from bench.judging.row import Verdict
from bench.records.flaws import Kind
from bench.records.outcome import Flag
from bench.reports._comparison_notes import WORDS
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


def test_verdicts_are_named_as_they_are_printed() -> None:
    readme, words = README.read_text(encoding="utf-8"), " ".join(guide.page("words").text.split())
    assert [w for w in WORDS.values() if w not in readme] == []
    assert [w for v, w in WORDS.items() if f'"{w}"' not in words and w != v] == []


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


def test_the_extras_that_are_installed_are_declared() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {e for d in DOCUMENTS for e in re.findall(r"\.\[(\w+)\]", d.read_text("utf-8"))}
    assert asked == {"all", "test"}
    listed = re.findall(r"^\| `(\w+)` \|", guide.page("first-steps").text, re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])

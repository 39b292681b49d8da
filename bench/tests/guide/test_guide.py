"""The pages as they are read by the command: whole, laid out, searched."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import guide
from bench.commands import guide as command
from bench.errors import UnknownName
from bench.report import Canvas
from bench.tests.conftest import Accelmark
from bench.tests.guide.documents import PAGES


def test_every_page_is_in_the_order_once() -> None:
    assert sorted(guide.ORDER) == [page.stem for page in PAGES]


@pytest.mark.parametrize("page", guide.pages().values(), ids=lambda p: p.name)
def test_a_page_begins_with_its_title_and_what_it_is_for(page: guide.Page) -> None:
    title, summary, *rest = page.text.split("\n\n")
    assert title.startswith("# ") and rest
    assert page.summary == summary and summary.endswith(".")
    assert len(summary) <= 80 - 14 and set(summary).isdisjoint("*`[\n"), "one line at 80 columns"


def test_without_a_page_each_is_one_line(accelmark: Accelmark) -> None:
    code, out, err = accelmark("guide")
    assert code == 0 and "--search WORD" in err
    assert [line.split()[0] for line in out.splitlines()] == list(guide.ORDER)
    assert guide.page("suites").summary in out


def test_where_nobody_looks_a_page_is_its_markdown(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("guide", "suites")
    assert code == 0 and out == guide.page("suites").text
    assert accelmark("guide", "suites.md")[1] == out


def test_on_a_terminal_a_page_is_laid_out(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        command, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    )
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = accelmark("guide", "first-steps")
    assert code == 0 and "```" not in out and "<!--" not in out and "|---" not in out
    assert max(map(len, out.splitlines())) <= 60
    assert "words (accelmark guide words)" in " ".join(out.split())


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("page", guide.pages().values(), ids=lambda p: p.name)
def test_no_word_of_a_command_is_lost_at_any_width(page: guide.Page, width: int) -> None:
    text = command.rendered(page.text, Canvas(width=width))
    assert max(map(len, text.splitlines())) <= min(width, command.WIDEST)
    assert "…" not in text
    coloured = command.rendered(page.text, Canvas(width=width, colour=True))
    assert "\x1b]8;" not in coloured, "a link that a terminal cannot follow"


def test_an_unknown_page_is_refused_with_the_nearest(accelmark: Accelmark) -> None:
    code, out, err = accelmark("guide", "comparabilty")
    assert (code, out) == (2, "")
    assert "unknown page. Did you mean `comparability`? Allowed: api, " in err
    with pytest.raises(UnknownName):
        guide.page("")


def test_search_gives_page_heading_and_line(accelmark: Accelmark) -> None:
    code, out, err = accelmark("guide", "--search", "Few-Launches")
    assert (code, err) == (0, "")
    assert any(
        line.startswith("comparability, The codes: `few-launches` | NO_INTERVAL |")
        for line in out.splitlines()
    )
    assert len(accelmark("guide", "tracks", "--search", "tuned")[1]) > 0
    code, out, _ = accelmark("guide", "telemetry", "--search", "few-launches")
    assert (code, out) == (1, "")


def test_a_phrase_is_found_across_the_end_of_a_line() -> None:
    lines = guide.page("statistics").text.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("Steps of one process"))
    phrase = f"{lines[at].rpartition(' ')[2]} {lines[at + 1].partition(' ')[0]}"
    assert not any(phrase in line for line in lines)
    hit = guide.search(phrase.upper())[0]
    assert (hit.page, hit.line) == ("statistics", lines[at])
    assert hit.heading == "The launch is what is repeated"


@pytest.mark.parametrize("word", ["NO_STEADY_STATE", "FEW_LAUNCHES", "NO_INTERVAL", "SHORT_BLOCKS"])
def test_a_word_is_found_as_cards_and_as_documents_write_it(word: str) -> None:
    hits = guide.search(word)
    assert hits and hits == guide.search(word.replace("_", " "))
    assert {"words"} <= {hit.page for hit in hits}


def test_what_is_nowhere_is_said_to_be(accelmark: Accelmark) -> None:
    code, out, err = accelmark("guide", "--search", "xyzzy")
    assert (code, out) == (1, "")
    assert "no line of any page holds `xyzzy`" in err and "accelmark guide" in err


def test_a_comment_of_a_block_is_no_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Title\n\n```sh\n# a comment\nsought\n```\n\n## Then\n\nsought\n"
    page = guide.Page(name="one", text=text)
    monkeypatch.setattr(guide, "pages", lambda: {"one": page})
    assert [hit.heading for hit in guide.search("sought")] == ["Title", "Then"]


def test_reading_loads_nothing_heavy() -> None:
    code = "import sys, bench.guide; bench.guide.pages(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "rich", "click"}.isdisjoint(done.stdout.split())

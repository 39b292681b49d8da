"""The guide: Markdown pages, one a subject, in the order in which they are read."""

from __future__ import annotations

import functools
import re
from importlib import resources

import msgspec

from bench.errors import UnknownName, suggestion

ORDER = (
    *("first-steps", "catalogue", "suites", "tracks", "reports", "statistics", "comparability"),
    *("llama", "deepseek", "qwen3", "gpt-oss", "classic", "evidence", "decode"),
    *("serving", "serve-bench", "many-devices", "hosts", "explain", "telemetry", "pytest", "api"),
    *("publishing", "trouble", "mindspore", "new-backend", "new-workload", "contributing"),
    "words",
)
"""Names of all pages: of `NAME.md` beside this file."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page."""

    name: str
    text: str
    """Markdown: a title, a sentence that says what the page is for, and the rest."""

    @property
    def summary(self) -> str:
        """What the page is for: its first sentence."""
        return self.text.split("\n\n")[1].replace("\n", " ")


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A line that holds what was searched for."""

    page: str
    heading: str
    line: str


@functools.cache
def pages() -> dict[str, Page]:
    """Every page by its name."""
    folder = resources.files(__package__)
    texts = {name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in ORDER}
    return {name: Page(name=name, text=text) for name, text in texts.items()}


def page(name: str) -> Page:
    """Raises `UnknownName`, with the nearest name and all there are."""
    wanted = name.lower().removesuffix(".md")
    if wanted not in ORDER:
        raise UnknownName(f"accelmark guide {name}: unknown page.{suggestion(wanted, ORDER)}")
    return pages()[wanted]


def search(word: str) -> list[Hit]:
    """Every line that holds the word, in any case of letters, in the pages' order; an underline is
    as good as a blank, as cards and documents write verdicts."""
    sought = _folded(word.strip())
    return [hit for one in pages().values() for hit in _hits(one, sought)]


def _folded(text: str) -> str:
    return re.sub(r"[\s_]+", " ", text).casefold()


def _hits(one: Page, sought: str) -> list[Hit]:
    """A phrase counts where it begins, though it may end on the next line."""
    found, heading, fenced = [], "", False
    lines = one.text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        elif line.startswith("#") and not fenced:
            heading = line.lstrip("# ")
        alone, following = map(_folded, (line, " ".join(lines[number + 1 : number + 2])))
        here = f"{alone} {following}"
        if sought in here and not (sought in following and sought not in alone):
            found.append(Hit(page=one.name, heading=heading, line=line.strip("| ")))
    return found

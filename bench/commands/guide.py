"""`accelmark guide`: what there is to read, offline."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from bench.commands.common import canvas, say
from bench.commands.streams import folded, is_plain, put, put_file
from bench.errors import EXIT_INCOMPLETE

if TYPE_CHECKING:
    from bench.report import Canvas

WIDEST = 100
"""Columns of the longest lines: longer ones are hard to read."""
LINK = re.compile(r"\[([^\]]+)\]\(([a-z0-9-]+)\.md(?:#[a-z0-9-]+)?\)")
"""To another page."""
FILE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
"""To a file of a clone, whose path is the text."""


@click.command()
@click.argument("name", required=False, metavar="[PAGE]")
@click.option("--search", "word", metavar="WORD", help="Show the lines that hold WORD.")
def guide(name: str | None, word: str | None) -> None:
    """Show a PAGE of the guide; without PAGE, the list of pages.

    Laid out on a terminal; else the page's Markdown. Exit code 1 if --search finds nothing.
    """
    from bench import guide as written

    if word is not None:
        _search(word, name)
    elif name is not None:
        text = written.page(name).text
        if sys.stdout.isatty() and not is_plain():
            put(rendered(text, canvas(None)))
        else:
            put_file(text)
    else:
        for page in written.pages().values():
            put(folded(f"{page.name:14}{page.summary}", 14))
        say("\naccelmark guide PAGE shows one; accelmark guide --search WORD finds a word.")


def _search(word: str, name: str | None) -> None:
    """Every line that holds the word; of one page, where one is named."""
    from bench import guide as written

    only = None if name is None else written.page(name).name
    hits = [hit for hit in written.search(word) if only in (None, hit.page)]
    for hit in hits:
        put(folded(f"{hit.page}, {hit.heading}: {hit.line}", 4))
    if not hits:
        say(
            f"guide: no line of {only or 'any page'} holds `{word}`. Try a shorter word, or see "
            "the pages: accelmark guide"
        )
        sys.exit(EXIT_INCOMPLETE)


def rendered(text: str, shown: Canvas) -> str:
    """A page as a terminal of that width shows it; its lines grow no longer than `WIDEST`."""
    from rich.markdown import Markdown

    from bench.report import Canvas
    from bench.reports.terminal.drawn import drawn

    # A terminal cannot follow a link to another page: the command that shows it stands instead.
    typed = FILE_LINK.sub(r"\1", LINK.sub(r"\1 (`accelmark guide \2`)", text))
    narrower = Canvas(width=min(shown.width, WIDEST), colour=shown.colour)
    return drawn(narrower, lambda console: console.print(Markdown(typed, code_theme="ansi_dark")))

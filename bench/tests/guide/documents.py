"""What people read: README, the guide's pages, results' index; their blocks, links and card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

import bench
from bench import catalogue
from bench.records.runfile import read
from bench.report import Canvas, Report

PACKAGE = Path(bench.__file__).parent
CLONE = PACKAGE.parent
README = CLONE / "README.md"
PAGES = sorted((PACKAGE / "guide").glob("*.md"))
DOCUMENTS = [README, *PAGES, CLONE / "results" / "README.md"]
BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[^\n]*?) -->\n(?:[ ]*\n)?)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)\n(?P<text>.*?)^[ ]*```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = "not run: "
"""A mark before a block that no test runs begins so, and goes on with the reason."""
CARD = re.compile(r"(?<=<!-- the report card -->\n```text\n)(?:(?!```).*\n)*")
CARD_RUN = CLONE / "results" / "quick-cpu-xeon-amx-2core"
CARD_WIDTH = 80
CARD_CASES = (
    *("gemm-matmul", "memory-triad", "resnet50-train", "bert-infer"),
    *("llama-train", "llama-decode", "diffusion-infer"),
)
"""Enough to see what a card is, on one screen."""


class Block(NamedTuple):
    """A fenced block."""

    document: Path
    language: str
    mark: str
    """The comment before it; empty if there is none."""
    text: str

    @property
    def not_run(self) -> str:
        """Why no test runs it; empty for one that is run."""
        return self.mark.removeprefix(NOT_RUN) if self.mark.startswith(NOT_RUN) else ""


def blocks(document: Path, language: str) -> Iterator[Block]:
    """Of one language, in their order."""
    for found in BLOCK.finditer(document.read_text(encoding="utf-8")):
        if found["language"] == language:
            indent = re.compile(f"^{found['indent']}", re.MULTILINE)
            text = indent.sub("", found["text"])
            yield Block(document, language, found["mark"] or "", text)


def card() -> str:
    """The report card of some cases of a published run, as the command prints it today."""
    whole = read(CARD_RUN)
    chosen = tuple(case for case in whole.run.plan if case.name in CARD_CASES)
    names = {case.fingerprint for case in chosen}
    run = msgspec.structs.replace(
        whole,
        run=msgspec.structs.replace(whole.run, plan=chosen),
        launches=tuple(x for x in whole.launches if x.fingerprint in names),
    )
    report: Report = catalogue.load("reports", "table")
    return report.render([run], Canvas(width=CARD_WIDTH))


def with_card(text: str) -> str:
    """README with the card of today."""
    assert CARD.search(text), "README has no report card after its mark"
    return CARD.sub(lambda _: card(), text, count=1)

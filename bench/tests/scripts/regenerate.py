"""Rewrites the files in `golden/`, the table of faults in `README.md` and the card in README; adds
new suites to `planning/released_suites.json`.

`python -m bench.tests.scripts.regenerate`; then read the diff.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import catalogue
from bench.planning import plan, suite_file
from bench.records.run import Line
from bench.records.runfile import Writer
from bench.records.schema import json_schema
from bench.tests import faults
from bench.tests.golden_runs import golden_lines, golden_pair
from bench.tests.guide import documents

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = GOLDEN / "run.jsonl"
BASE, OTHER = GOLDEN / "base.jsonl", GOLDEN / "other.jsonl"
PRICES = ("--price", "2.5", "--price", "2")
RELEASED = Path(__file__).parents[1] / "planning" / "released_suites.json"
SCHEMA = GOLDEN / "schema.json"
OUTPUTS = {
    "help.txt": ("--help",),
    "list-workloads.txt": ("list", "workloads"),
    "list-precisions.txt": ("list", "precisions"),
    "report-table-80.txt": ("report", RUN.name, "--format", "table", "--width", "80"),
    "report-table-120.txt": ("report", RUN.name, "--format", "table", "--width", "120"),
    "report-json.txt": ("report", RUN.name, "--format", "json"),
    "list-chips.txt": ("list", "chips"),
    "compare-80.txt": ("compare", BASE.name, OTHER.name, "--width", "80"),
    "compare-120.txt": ("compare", BASE.name, OTHER.name, "--width", "120", *PRICES),
    "compare-json.txt": ("compare", BASE.name, OTHER.name, "--json", *PRICES),
}
"""Golden file of a command's whole stdout: its arguments, run in the golden folder."""


def command(
    *arguments: str, folder: Path = GOLDEN, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `accelmark` as a user would, in `folder`, on a terminal-less 80 columns."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", **variables},
        timeout=300,
    )


def write_run(path: Path, lines: Sequence[Line] | None = None) -> None:
    """A golden run, as `accelmark run` would write it."""
    path.unlink(missing_ok=True)
    writer = Writer(path)
    for line in golden_lines() if lines is None else lines:
        writer.append(line)
    writer.close()


def add_releases() -> None:
    """Adds the suites that are new; what was released stays as it is, whatever became of it."""
    known = json.loads(RELEASED.read_text(encoding="utf-8")) if RELEASED.exists() else {}
    for title, file in catalogue.releases().items():
        if title not in known:
            cases = plan.any_way(suite_file.read_suite(file))
            known[title] = [case.fingerprint for case in cases]
    ordered = {title: known[title] for title in catalogue.releases()}
    RELEASED.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Rewrites all of them."""
    add_releases()
    write_run(RUN)
    for path, lines in zip((BASE, OTHER), golden_pair(), strict=True):
        write_run(path, lines)
    SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    faults.README.write_text(faults.table(), encoding="utf-8")
    readme = documents.README.read_text(encoding="utf-8")
    documents.README.write_text(documents.with_card(readme), encoding="utf-8")
    for name, arguments in OUTPUTS.items():
        (GOLDEN / name).write_text(command(*arguments).stdout, encoding="utf-8")


if __name__ == "__main__":
    main()

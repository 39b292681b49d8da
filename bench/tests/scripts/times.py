"""Writes `configs/times.json` anew: how long launches of the published runs took.

    python -m bench.tests.scripts.times

After a run was published; a test holds the file to `results/`.
"""

from __future__ import annotations

from pathlib import Path

from bench.catalogue import configs_folder
from bench.planning import expected


def text() -> str:
    """What `results/` says now."""
    results = Path(__file__).parents[3] / "results"
    return expected.written(expected.of_records(sorted(results.glob("*/run.jsonl"))))


if __name__ == "__main__":
    (configs_folder() / expected.FILE).write_text(text(), encoding="utf-8")

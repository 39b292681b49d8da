"""What the shipped suites have."""

from __future__ import annotations

import tomllib

from bench import catalogue


def workloads() -> set[str]:
    """The workloads that one of them names. A file that is new is held to the contract of all, and
    until a suite has it to nothing that more than its file would have to say."""
    texts = [file.read_text(encoding="utf-8") for file in catalogue.releases().values()]
    return {case["workload"] for text in texts for case in tomllib.loads(text)["case"]}

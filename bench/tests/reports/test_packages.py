"""How reports tell devices in packages, and whose a flag is."""

from __future__ import annotations

import pytest

from bench import catalogue
from bench.judging.summary import summarize
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.terminal.details import details
from bench.tests.telemetry.sights import CASE, dies, hot, launches, sight
from bench.tests.values import make_file

PACKED = make_file([CASE], launches(lambda k: dies(140, 160)))
FLAGGED = make_file(
    [CASE], launches(lambda k: [hot(n, *[["power cap"], []][n < 3]) for n in range(4)])
)


def told(run: RunFile) -> str:
    (row,) = summarize(run)
    return " ".join(details(row))


def shown(run: RunFile, report: str) -> str:
    return " ".join(catalogue.load("reports", report).render([run], Canvas(width=100)).split())


def test_packages_of_several_devices_are_told_with_what_each_does_and_draws() -> None:
    words = told(PACKED)
    assert "4 devices in 2 packages, 0.125 image/s each, 0.250 image/s a package" in words
    assert "(the whole package; NVML, power; 150 W a package)" in words
    assert "packages: 4 devices in 2 packages" in shown(PACKED, "table")


def test_nothing_is_said_of_packages_where_each_device_is_one() -> None:
    run = make_file([CASE], launches(lambda k: [sight(n) for n in range(4)]))
    assert "package" not in told(run) and "package" not in shown(run, "table")


@pytest.mark.parametrize("report", ["table", "markdown", "html"])
def test_a_flag_is_told_with_its_rank(report: str) -> None:
    words = shown(FLAGGED, report)
    assert "(rank 3)" in words
    if report == "html":
        assert "(rank 3: power cap in 113 of 113 readings)" in words

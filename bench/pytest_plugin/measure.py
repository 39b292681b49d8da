"""The session that measures all items before the first of them runs, and its card at the end."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.pytest_plugin.items import cases_of, runs_nothing
from bench.pytest_plugin.keys import PLAN, RECORD, RUN, TEMPORARY
from bench.pytest_plugin.options import device, distributed, translated, usage_errors
from bench.pytest_plugin.saved import unseen

if TYPE_CHECKING:
    from bench.records.case import Case
    from bench.records.run import RunFile


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first item: everything is measured, one launch of each case in turn.

    Within none of them, whose time somebody may limit.
    """
    config = session.config
    failed = session.testsfailed and not config.getoption("continue_on_collection_errors")
    if not (failed or runs_nothing(config) or distributed(config)) and cases_of(session):
        from bench.commands.common import termination_as_interrupt

        with usage_errors(), termination_as_interrupt():
            _measure(session)


def _measure(session: pytest.Session) -> None:
    """Runs the session of this pytest run and keeps what came of it.

    Raises `KeyboardInterrupt` if it was interrupted: what was measured is on disk by then.
    """
    from bench.commands.plain import PlainFace
    from bench.judging import chips
    from bench.planning.instead import slow
    from bench.records import runfile
    from bench.running import probe
    from bench.running.header import begin, command_line, run_id
    from bench.running.hosts import placement, seating
    from bench.running.session import open_session

    config = session.config
    plan = config.stash[PLAN]
    say = functools.partial(_say, config)
    chips.chips()  # a bad file of the user's is said now, not after all was measured
    placement.require_one_host("pytest")
    chosen, remarks, here = probe.choose_of(device(config))
    say(f"device: {chosen.address}, {chosen.name}")
    for remark in remarks:
        say(f"  passed over {translated(remark)}")
    if held_back := probe.held_back(chosen):
        say(f"  {held_back}")
    for why, names in slow(chosen).items():
        if any(case.precision in names for case in plan.whole.cases):
            say(f"  {', '.join(names)}: {why}. Quicker: --accelmark-precision fp32")
    cases = tuple({case.fingerprint: case for case in cases_of(session)}.values())
    left_out, instead, budget = plan.whole.left_out, plan.whole.instead, plan.budget_minutes
    seating.require_first(cases, chosen, left_out)
    kept = config.getoption("accelmark_out")
    folder = Path(kept or tempfile.mkdtemp(prefix="accelmark-"))
    identity = run_id()
    path = folder / f"{plan.suite.name}-{chosen.backend}-{identity}.jsonl"
    typed = command_line("pytest", [str(word) for word in config.invocation_params.args])
    header = (identity, plan.suite.title, cases, plan.settings, chosen, typed)
    writer = begin(path, *header, left_out, instead, budget_minutes=budget)
    face = PlainFace(say, plan.settings)
    try:
        with contextlib.closing(writer):
            limit = 60 * budget if budget else None
            reason = open_session(writer, chosen, face, limit, here=here).run()
    finally:
        config.stash[RECORD] = writer.path
    config.stash[RUN] = runfile.read(writer.path)
    if not kept and reason == "complete":
        config.stash[TEMPORARY] = folder
    if reason == "interrupted":
        raise KeyboardInterrupt


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Prints accelmark's own card below the table, also where a regression was found."""
    try:
        return (yield)
    finally:
        if RUN in config.stash:
            try:
                _card(terminalreporter, config.stash[RUN])
                for name in unseen(config, _measured(config.stash[RUN])):
                    _say(config, f"not compared: {name}: no saved run has a figure of it")
                if TEMPORARY in config.stash:
                    shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)
            finally:
                _name_record(config)


def _measured(run: RunFile) -> list[Case]:
    """The cases that have a figure."""
    from bench.judging.summary import summarize

    return [row.case for row in summarize(run) if row.measured]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Names the record of a run that broke, of which pytest prints no summary."""
    _name_record(config)


def _name_record(config: pytest.Config) -> None:
    """Once, and not where it is gone."""
    path = config.stash.get(RECORD, None)
    if path is not None:
        del config.stash[RECORD]
        if path.exists():
            _say(config, f"record: {path}")


def _card(reporter: pytest.TerminalReporter, run: RunFile) -> None:
    from bench import catalogue
    from bench.commands.streams import in_line
    from bench.report import Canvas

    width = shutil.get_terminal_size((100, 24)).columns
    card = catalogue.load("reports", "table").render([run], Canvas(width=max(width, 60)))
    reporter.section("accelmark")
    for line in in_line(card, getattr(sys.__stdout__, "encoding", "utf-8")).splitlines():
        reporter.write_line(line)


def _say(config: pytest.Config, text: str) -> None:
    """Prints a line, wherever the dots of pytest stand."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(text)

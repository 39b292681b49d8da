"""Parts of a judged row in words, the same in every report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import stats, units
from bench.judging.explaining.explained import ended_before
from bench.judging.load import SUSTAINED_SECONDS, Load
from bench.judging.measured import FAR_OUT
from bench.judging.row import LatencySummary, Row
from bench.planning.tuning import too_many
from bench.records.case import TUNED, Case
from bench.records.environment import UNSEARCHED, section
from bench.records.run import RunFile
from bench.reports.wording.again import again, of_server

STOPPERS = (
    "stops this process or suspends this machine (a debugger, a job scheduler, a limiter of CPU "
    "time, a hypervisor, sleep, swapping)"
)
"""What may have a process stand still, as far as it can be named."""
MEND_SERVER = "see the reason; put it right on the server or the client, and run again."


WHOSE = {
    "package": "the whole package",
    "shared": "the whole device, which others may use",
}
"""Whose energy it is, where it is not the device's own alone."""


PIPES = ("stdin", "/dev/")
"""How paths begin that cannot be read again."""
SHARED_HOST = "ranks compute on the cores of one host, as one device"


def energy_of(row: Row, drawn: str = "") -> str:
    """Of what its energy is, by whose word, what was drawn, and what is idle."""
    idle = "" if row.idle_watts is None else f"; idle {units.significant(row.idle_watts)} W"
    return f"{WHOSE.get(row.energy_scope, row.energy_scope)}; {row.energy_source}{drawn}{idle}"


def packed(row: Row) -> str:
    """ "2 devices in 1 package", where packages hold several; else empty."""
    if row.packages is None or row.packages == row.case.devices:
        return ""
    return f"{row.case.devices} devices in {units.counted(row.packages, 'package')}"


def whose(row: Row, flag: str) -> str:
    """Of which ranks, " (ranks 1, 3)", or launches a flag is; empty where it is that of all."""
    if flag == FAR_OUT:
        parts = [f"launch {n + 1} at {ratio(share)}" for n, share in row.far_out.items()]
        return f" ({', '.join(parts)} of the median)"
    ranks = row.flag_ranks.get(flag, ())
    return f" ({units.ranks(ranks)})" if ranks else ""


def remarks(row: Row) -> list[str]:
    """What must be known beside the figure of a row, other than its reason and its flags."""
    brief = row.load is not None and not row.load.sustained
    ranks = None if row.shared_host else row.ranks
    found = (
        ranks.words if ranks and ranks.slow else "",
        row.left_out,
        row.instead,
        f"not sustained: under {SUSTAINED_SECONDS:.0f} s of load" if brief else "",
        row.optimizer_passed_over,
        row.in_cache,
        SHARED_HOST if row.shared_host else "",
        packed(row),
        row.spread,
    )
    return [one for one in found if one]


def limit(row: Row) -> str:
    """What holds a case back, and how far it came: one word, one figure; empty if not known."""
    if row.limit is None:
        return ""
    return f"{row.limit[0]} {about(row.limit_half_width)}{whole(row.limit[1])}"


ABOUT = f"~: with an interval wider than ±{units.SYMMETRIC:.0%}"
"""What `about` puts before a share."""


def about(half_width: float | None) -> str:
    """Stands before a share that is not sure, of which no percent says how near it is."""
    return "~" if half_width is not None and half_width > units.SYMMETRIC else ""


def load_words(load: Load) -> str:
    """ "after 10.2 s, 1,410 MHz, 690 W, 71 °C"; what nobody could see is said to be so."""
    seen = [
        (load.clock_mhz, "clock", "MHz"),
        (load.watts, "power", "W"),
        (load.celsius, "temperature", "°C"),
    ]
    parts = [f"{value:,.0f} {unit}" for value, _, unit in seen if value is not None]
    unseen = [name for value, name, _ in seen if value is None]
    if unseen:
        parts.append(f"{', '.join(unseen)} not observable")
    return ", ".join([f"after {units.duration(load.seconds)}", *parts])


def handed_on(text: str, *runs: RunFile) -> str:
    """A text without the folders of these runs' files, which lead nowhere for another reader."""
    for run in runs:
        if run.path != Path(run.path).name:
            text = text.replace(run.path, Path(run.path).name)
    return text


def whole(value: float) -> str:
    """A share in whole percents, where one is not too much."""
    return f"{value:.0%}" if value >= 0.0095 else f"{value:.1%}"


def ratio(value: float) -> str:
    """Three digits after the point; of what is small or huge, three that count."""
    return f"{value:.3f}" if 0.1 <= value < 1e5 else f"{value:#.3g}"


def factor(value: float) -> str:
    """Two digits after the point; of what is small or huge, two that count."""
    return f"{value:.2f}" if 0.1 <= value < 1e5 else f"{value:.2g}"


def spread(interval: stats.Estimate | None) -> str:
    """How far it goes to either side, `±3.2%`; or that there is none."""
    return "no interval" if interval is None else units.spread(interval.half_width)


def share(value: float) -> str:
    """A share in percent, of two digits or more."""
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"


def of_peaks(row: Row) -> Iterator[str]:
    """MFU and MBU, where it has them, and whose peaks those are shares of."""
    for name, value, of in (("MFU", row.mfu, row.mfu_of), ("MBU", row.mbu, row.mbu_of)):
        if value is not None:
            yield f"{name} {share(value)} of {of}"


def ending(run: RunFile) -> str:
    """How a run ended that did not do all that was planned; else empty."""
    if run.end is None:
        return "UNFINISHED"
    said = {"budget": "ended by its time budget", "interrupted": "INTERRUPTED"}
    return said.get(run.end.reason, "")


def word_of(row: Row) -> str:
    """The verdict of a measured row, the status of any other: one word for each row."""
    if row.measured:
        return str(row.verdict).replace("_", " ")
    return row.status.upper() if row.reached else "UNREACHED"


def looks_of(row: Row) -> str:
    """How grave a row's word is: `good`, `warn` or `bad`, which are classes of the page, too."""
    return {
        "OK": "good",
        **dict.fromkeys(("NOISY", "FEW LAUNCHES", "SKIPPED", "UNREACHED"), "warn"),
    }.get(word_of(row), "bad")


def tail(latency: LatencySummary) -> str:
    """The slow requests, or how many requests it would take to say."""
    return ", ".join(
        _absent(percent) if value is None else f"p{percent} {units.duration(value)}"
        for percent, value in _percentiles(latency)
    )


def absent(latency: LatencySummary) -> str | None:
    """The percentiles that have no figure, and what they need; None where all have theirs."""
    return ", ".join(_absent(p) for p, value in _percentiles(latency) if value is None) or None


def _absent(percent: int) -> str:
    return f"p{percent} n/a (needs {stats.PERCENTILE_SAMPLES[percent]} a launch)"


def _percentiles(latency: LatencySummary) -> tuple[tuple[int, float | None], ...]:
    return ((90, latency.p90), (99, latency.p99))


def first_step(row: Row) -> str:
    """What a step that is compiled or recorded costs once; empty for one that is neither."""
    seconds = row.cold.first_step_seconds
    if (row.choice or {}).get("execution", row.case.execution) == "eager" or seconds is None:
        return ""
    made = row.compiler
    graphs = f", {made['graphs']} graphs, {made['graph_breaks']} breaks" if made else ""
    graphs += ", its products not searched" if made.get(UNSEARCHED) else ""
    warm = row.warm.first_step_seconds
    again = "" if warm is None else f", {units.duration(warm)} in later launches"
    return f"{units.duration(seconds)}{again}{graphs}"


def alone(case: Case) -> str:
    """What `--only` takes for a case: its name, or that of the tuned ones of the name."""
    return case.name + (f"-{TUNED}" if case.space else "")


def next_step(run: RunFile, rows: list[Row], beside_record: bool = False) -> str:
    """One line: the most useful thing to do with this card.

    beside_record: whether its reader typed the record's path, so that a command may have it.
    """
    if run.damage:
        remedy = run.remedy if beside_record else handed_on(run.remedy, run)
        return f"Next: {remedy[:1].lower()}{remedy[1:]}"
    if run.run.only_explained:
        ended = "the same command again, as not everything was explained; or " * ended_before(run)
        typed = _typed(run, beside_record)
        return f"Next: {ended}see where its time goes: accelmark explain {typed}"
    lacking = unfinished(run, rows)
    if not lacking and ended_before(run):
        lacking = "not everything was explained"
    if on := going_on(run, rows, lacking, beside_record):
        return f"Next: {on}"
    for _, step in _faults(run, rows):
        return f"Next: {step}"
    if not any(row.measured for row in rows):
        if of_server(run.run):
            return "Next: nothing was measured: more came than was answered. Ask at a lower rate."
        return (
            "Next: nothing was measured. See why, then take another precision, suite or "
            "device: accelmark devices says what each can do."
        )
    if any(row.serving and row.verdict == "NO_STEADY_STATE" for row in rows):
        return "Next: for latencies that last, ask at a lower rate: more came than was answered."
    few = [row for row in rows if row.measured and (row.verdict != "OK" or row.launches < 5)]
    if few and of_server(run.run):
        server = few[0].endpoint
        starts = ", and --server-command, which starts it anew"
        starts = "" if server is not None and server.restarted else starts
        return f"Next: for intervals, run again with more --launches{starts}."
    most = stats.LOOKS[-1]
    if run.run.settings.launches != "auto" and any(row.launches < most for row in few):
        return (
            "Next: for intervals of ±2 %, where this machine allows them: "
            f"{again(run.run)} --launches auto"
        )
    piped = run.passing and run.path.startswith(PIPES)
    name = "the record" if piped else Path(run.path).name
    quieter = " For narrower intervals: a quieter machine." if few else ""
    return f"Next: hand {name} to whoever compares; it holds every sample.{quieter}"


def going_on(run: RunFile, rows: Sequence[Row], lacking: str, beside_record: bool) -> str:
    """How a run makes what it lacks: first what is wrong with rows is put right. Empty where it
    lacks nothing, or cannot go on for what is wrong."""
    mends = [mend for mend, _ in _faults(run, rows)]
    if not lacking or "" in mends:
        return ""
    mend = mends[0] if mends else ""
    return f"{lacking}; {mend}{', then ' if mend else ''}{_go_on(run, beside_record)}"


def _faults(run: RunFile, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """What is wrong with rows, the gravest first: what to do before the run goes on, empty where
    only another one helps; and the next step of a run that has all its launches."""
    server = of_server(run.run)
    for row in rows:
        if row.status in ("failed", "void") and not row.sweep_end:
            name = alone(row.case)
            step = f"{name} has no number. See why, then try it alone: {again(run.run, name)}"
            yield ("", MEND_SERVER) if server else (f"see why {name} has no number", step)
    if any(row.verdict == "THROTTLED" for row in rows):
        cool = "cool the device"
        yield cool, f"{cool}, or lower its power limit, and run again: it throttled."
    invalid = [row for row in rows if row.verdict == "INVALID"]
    held = [row for row in invalid if "QUOTA" in row.flags]
    if held:  # launches under another quota, or of other threads, do not mix with these
        too = " And end other work." if any("CONTENDED" in row.flags for row in held) else ""
        yield (
            "",
            "a new run with no more threads than the CPU quota has cores (OMP_NUM_THREADS), or "
            f"with a larger quota: it held back too many launches.{too}",
        )
    if any("STOPPED" in row.flags for row in invalid):
        yield f"find what {STOPPERS}", f"find what {STOPPERS}, and run again without it."
    quiet = "end other work"
    if any(row.hindrance for row in invalid):
        yield quiet, f"{quiet} on this machine and run again: it slowed too many launches."
    for row in invalid:
        if row.exclusion:
            name = alone(row.case)
            step = (
                f"of {name} too many launches failed. See why, then try it alone: "
                f"{again(run.run, name)}"
            )
            yield ("", MEND_SERVER) if server else (f"see why launches of {name} failed", step)
    if any(row.verdict == "NO_STEADY_STATE" and not row.serving for row in rows):
        yield quiet, f"{quiet} on this machine and run again: a case never became steady."


def unfinished(run: RunFile, rows: Sequence[Row]) -> str:
    """What a run that ended early did not do of these rows; empty where it is all there."""
    if any(not row.reached for row in rows):
        return "not every case was reached"
    if ending(run) and any(row.measured and _has_launches_left(row, run) for row in rows):
        return "not every launch was made"
    return ""


def _has_launches_left(row: Row, run: RunFile) -> bool:
    """Whether a run that goes on may make more launches of a case, and there is a reason to."""
    settings, made, failed = run.run.settings, row.launches + row.hindered, row.excluded
    auto, budget = settings.launches == "auto", run.end is not None and run.end.reason == "budget"
    if too_many(failed, made + failed) or ((auto or budget) and row.verdict == "OK"):
        return False
    slowed = row.hindered or (made if row.hindrance else 0)
    if settings.launches != "auto":  # of which too many may be slowed already
        left = settings.launches - made
        return 0 < left >= stats.outweighing(made, slowed, failed)
    return not stats.adaptive_ends(row.rates, made, slowed, failed, settings.target_half_width)


def threads(stack: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """The threads of a launch: what torch counts, and what ran or was asked for where that differs.

    facts: of the device, among them what was read back of it.
    """
    counted = stack.get("threads")
    if counted is None:
        return None
    asked = section(stack, "variables").get("OMP_NUM_THREADS", "")
    asked, ran = str(asked).split(",")[0].strip(), str(facts.get("threads_used", ""))
    beside = []
    if ran.isdecimal() and ran != str(counted):
        beside.append(f"{ran} ran")
    if asked.isdecimal() and asked != str(counted):
        beside.append(f"OMP_NUM_THREADS asks for {asked}")
    return f"{counted} ({', '.join(beside)})" if beside else str(counted)


def _go_on(run: RunFile, beside_record: bool) -> str:
    """How the rest of a plan is measured: by the same record where that can go on."""
    if of_server(run.run):
        return "run the same command again."
    budget = run.end is not None and run.end.reason == "budget"
    if run.run.command[:2] != ("accelmark", "run"):
        return f"run again{' with more time' * budget}: {again(run.run)}"
    longer = " and with a longer budget or none" * budget
    typed = _typed(run, beside_record)
    return f"go on with it, where it was made{longer}: accelmark run --resume {typed}"


def _typed(run: RunFile, beside_record: bool) -> str:
    """The record, as its reader may type it."""
    path = run.path if beside_record else Path(run.path).name
    return "RECORD" if run.passing else shlex.quote(path)

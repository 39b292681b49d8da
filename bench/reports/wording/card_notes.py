"""What is said below a report card: why there is no figure, what was flagged, what words mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from bench import stats
from bench.judging.clocks import CLOCKS_SET
from bench.judging.curves import curves
from bench.judging.load import BURST, SUSTAINED_SECONDS
from bench.judging.ranks import links
from bench.judging.ranks.links import sweeps
from bench.judging.ranks.scaling import scalings
from bench.judging.row import UNDISTURBED, Row
from bench.judging.tracks import settings, tuned
from bench.planning.instead import cause, in_place
from bench.planning.tuning import in_words
from bench.planning.usual import usual_of
from bench.records.run import RunFile
from bench.reports.wording import endpoint, memory, scaling
from bench.reports.wording.labels import Label, listed, name_of
from bench.reports.wording.notes import Note, grouped
from bench.reports.wording.rows import (
    ABOUT,
    SHARED_HOST,
    about,
    energy_of,
    first_step,
    load_words,
    packed,
    whose,
    word_of,
)
from bench.telemetry.flags import HINDERED

FLAGS = {
    "NO_STEADY_STATE": "a launch never became steady",
    "DRIFT": "step times moved by more than 5 % within a launch",
    "FAR_OUT": "a launch stands far from the others, and nothing was seen that explains it",
    "HOST_GAP": "the host's wall time and the device's events differ by more than 2 %",
    "SHORT_BLOCKS": "operands were used up before a block was as long as was asked for",
    "CONTENDED": "other work on the host slowed a launch",
    "QUOTA": "the CPU quota of this container held a launch back",
    "STOPPED": "a launch's process, or the machine, stood still while it was timed",
    "THROTTLED": "heat, the power supply or protection slowed a launch",
    "POWER_CAPPED": "the device held its clock to its power limit, as it does under heavy load",
    CLOCKS_SET: "a setting held the device's clocks, as by a lock: the figure is of those",
    "SHARED_DEVICE": "others had the device open too",
    "ENERGY_DISAGREES": "energy by the counter and by the power differ by more than 5 %",
}
"""What a launch's flag means. NO_STEADY_STATE of many launches is the verdict, said before."""
GRAVE = "bold red"
COLLECTIVES = (
    "Collectives: throughput is algorithm bandwidth, bus is bus bandwidth (both as in nccl-tests), "
    "latency is the mean time of one"
)
COUNTS = re.compile(r"in \d+ of \d+ (?=looks\)$|launches: )")
"""How often nobody could see it, in a reason."""
FEW_LAUNCHES = re.compile(r"in \d+ of \d+ launches(?=: )")
LATE = "not reached: "
"""Before a reason of what is called UNREACHED already."""


def notes(rows: Sequence[Row], names: Mapping[str, Label], *, wide: bool) -> Iterator[Note]:
    """The gravest first. wide: with what else is found of sweeps and tuned cases."""
    measured = [row for row in rows if row.measured]
    yield from _without_number(rows, names)
    for said, some in grouped(measured, lambda r: f"{r.verdict}\n{_disturbed(r)}"):
        if reason := said.partition("\n")[2]:
            yield Note(word_of(some[0]), f"{reason}: {_called(some, names)}", GRAVE)
    for _, some in grouped([row for row in rows if row.instead], lambda row: cause(row.instead)):
        said = in_place(row.instead for row in some)
        yield Note("PRECISION", f"{said}: {_called(some, names)}", "bold")
    yield from _unscaled(rows)
    yield from _slow(measured, names)
    yield from joined(rows, wide=wide)
    yield from _found(rows, names, wide=wide)
    for said, some in grouped(measured, _left_out):
        word, _, why = said.partition("\n")
        yield Note(word, f"{why}: {_called(some, names)}")
    for flag, meaning in FLAGS.items():
        told = [
            row for row in measured if row.verdict == flag or (flag in HINDERED and row.hindrance)
        ]
        flagged = [row for row in measured if flag in row.flags and row not in told]
        if flagged:
            cases = [f"{names[r.case.fingerprint].short}{whose(r, flag)}" for r in flagged]
            yield Note(flag, f"{meaning}: {listed(cases)}")
    yield from _loads(measured, names)
    for said, some in grouped(measured, lambda r: r.optimizer_passed_over):
        yield Note("OPTIMIZER", f"{said}: {_called(some, names)}")
    yield from endpoint.notes(rows)
    yield from _asides(measured, names, wide=wide)


def _loads(rows: Sequence[Row], names: Mapping[str, Label]) -> Iterator[Note]:
    """Which figures of arithmetic are for a moment, and which for good, with what was seen."""
    brief, kept = (
        [
            f"{names[row.case.fingerprint].short} ({load_words(row.load)})"
            for row in rows
            if row.load is not None and row.load.sustained is sustained
        ]
        for sustained in (False, True)
    )
    if brief:
        yield Note("NOT SUSTAINED", f"under {SUSTAINED_SECONDS:.0f} s of load: {listed(brief)}")
    if kept:
        yield Note("sustained", f"under load: {listed(kept)}", dim=True)
    if bursts := [row for row in rows if row.case.mode == BURST]:
        said = f"of a device that has rested, and no ceiling: {_called(bursts, names)}"
        yield Note("burst", said, dim=True)


def _called(rows: Sequence[Row], names: Mapping[str, Label]) -> str:
    return listed([names[row.case.fingerprint].short for row in rows])


def _without_number(rows: Sequence[Row], names: Mapping[str, Label]) -> Iterator[Note]:
    """Why; what is not reached comes last, for it is nobody's fault."""
    absent = [row for row in rows if not row.measured]
    for late in (False, True):
        some = [row for row in absent if row.reached is not late]
        for said, of_it in grouped(some, lambda row: f"{word_of(row)}\n{row.reason}"):
            word, _, reason = said.partition("\n")
            style = GRAVE if word in ("FAILED", "VOID") else "yellow"
            yield Note(word, f"{_called(of_it, names)}: {reason.removeprefix(LATE)}", style)


def _left_out(row: Row) -> str:
    """By the flags for which it was, so that they can be looked up."""
    words = [flag for flag in FLAGS if flag in HINDERED and flag in row.flags and row.hindrance]
    return f"{', '.join(words) or 'LEFT OUT'}\n{row.left_out}" if row.left_out else ""


def _disturbed(row: Row) -> str:
    return "" if row.verdict in UNDISTURBED else row.reason


def _slow(rows: Sequence[Row], names: Mapping[str, Label]) -> Iterator[Note]:
    """Which rank of whom is slow; ranks that share a host are told of as such."""
    apart = [row for row in rows if row.ranks is not None and not row.shared_host]
    for said, some in grouped(apart, lambda row: row.ranks.words if row.ranks else ""):
        found = any(row.ranks and row.ranks.slow for row in some)
        word, style = ("SLOW", GRAVE) if found else ("slow", "")
        yield Note(word, f"{said}: {_called(some, names)}", style, dim=not found)


def joined(rows: Sequence[Row], *, wide: bool) -> Iterator[Note]:
    """What joins the devices, by each sweep of a collective over sizes."""
    found = [(sweep[0].case, link) for _, sweep in sweeps(rows) if (link := sweep[0].link)]
    if wide:
        for case, link in found:
            yield Note("LINK", f"{name_of(case)}: {links.in_words(link)}", "bold")
    elif found:
        parts = [f"{name_of(case)} {links.in_short(link)}" for case, link in found]
        yield Note("LINK", f"latency and bus bandwidth over sizes: {'; '.join(parts)}", "bold")
    for row in rows:
        if row.pairs is not None:
            yield Note("LINK", f"{name_of(row.case)}: {row.pairs.words}", "bold")


def _unscaled(rows: Sequence[Row]) -> Iterator[Note]:
    """Of which work over devices no efficiency is given, and why."""
    for why, some in grouped(scalings(rows), lambda curve: curve.absent):
        names = listed(list(dict.fromkeys(map(scaling.name, some))))
        yield Note("SCALING", f"no efficiency: {why}: {names}")


def _found(rows: Sequence[Row], names: Mapping[str, Label], *, wide: bool) -> Iterator[Note]:
    """What sweeps and tuned cases came to."""
    found = [one for one in curves(rows) if wide or sum(row.measured for row in one.points) > 1]
    if wide:
        yield from (Note("SWEEP", f"{curve.title}: {curve.words}", "bold") for curve in found)
        for one in tuned(rows):
            yield Note("TUNED", f"{one.title}: {one.words}", "bold")
        return
    best = [curve.best for curve in found]
    parts = [
        f"{names[row.case.fingerprint].short} (best of {curve.ranked}: {row.rate})"
        for curve, row in zip(found, best, strict=True)
        if row is not None
    ]
    if parts:
        yield Note("SWEEP", f"the fastest batch, which reads high: {', '.join(parts)}", "bold")
    parts = [
        f"{names[row.case.fingerprint].short}: {in_words(row.choice)}"
        + (f" (when tried: {each})" if (each := settings(row)) else "")
        for row in rows
        if row.choice is not None
    ]
    if parts:
        yield Note("TUNED", f"the best choice of {'; of '.join(parts)}", "bold")


def _asides(rows: Sequence[Row], names: Mapping[str, Label], *, wide: bool) -> Iterator[Note]:
    """What is paid once, who shares what, whose the energy is, and what nobody could see."""
    shared = [row for row in rows if row.shared_host]
    if shared:
        yield Note("shared host", f"{SHARED_HOST}: {_called(shared, names)}", dim=True)
    for said, some in grouped(rows, packed):
        yield Note("packages", f"{said}: {_called(some, names)}", dim=True)
    for said, some in grouped(rows, lambda r: r.in_cache):
        yield Note("cache", f"{_called(some, names)}: {said}", dim=True)
    for said, some in grouped(rows, lambda r: r.spread):
        yield Note("spread", f"{said}: {_called(some, names)}", dim=True)
    first = [
        f"{names[row.case.fingerprint].short} {first_step(row)}" for row in rows if first_step(row)
    ]
    if first and not wide:  # there it stands with each case
        yield Note("first step", listed(first), dim=True)
    energies = list(grouped([r for r in rows if r.items_per_joule is not None], energy_of))
    for said, some in energies:
        yield Note(
            "energy", said if len(energies) == 1 else f"{said}: {_called(some, names)}", dim=True
        )
    yield from unseen(rows, names, wide=wide)


def unseen(rows: Sequence[Row], names: Mapping[str, Label], *, wide: bool) -> Iterator[Note]:
    """What nobody could see of the devices, and of which cases if not of all.

    With the reasons if wide, or if there is only one; and how often, where that is alike in all.
    """
    whys = {why for row in rows for why in row.not_observable.values()}
    found: dict[tuple[str, str], list[tuple[Row, str]]] = {}
    for row in rows:
        for what, why in row.not_observable.items():
            full = wide or len(whys) == 1
            key = (what, COUNTS.sub("in some ", why)) if full else (_at_times(what, why), "")
            found.setdefault(key, []).append((row, why))
    alike: dict[str, list[str]] = {}
    for (what, usual), some in found.items():
        exact = {why for _, why in some}
        why = usual and f" ({exact.pop() if len(exact) == 1 else usual})"
        cases = "" if len(some) == len(rows) else f": {_called([row for row, _ in some], names)}"
        alike.setdefault(why + cases, []).append(what)
    if parts := [f"{', '.join(whats)}{rest}" for rest, whats in alike.items()]:
        yield Note("not observable", "; ".join(parts), dim=True)


def _at_times(what: str, why: str) -> str:
    """A quantity, and that in some looks, or in how many launches, nobody could see it."""
    if what == "looks":
        return "some looks"
    few = FEW_LAUNCHES.match(why)
    some = "in some looks" if why.endswith(" looks)") else few[0] if few else ""
    return f"{what} ({some})" if some else what


def legend(run: RunFile, rows: Sequence[Row], left_out: Sequence[str], *, wide: bool) -> str:
    """What the words of the card mean, as far as they stand on it, and where the rest is."""
    measured = [row for row in rows if row.measured]
    sentences = []
    if any(row.limit for row in measured):
        links = ["transfer"] if any(r.transfer_fraction is not None for r in measured) else []
        ceilings = ", ".join(["matmul", "memory", *links])
        said = limit_words(measured, every=wide)
        sentences.append(
            "; ".join(
                [f"Limit: share of the nearest ceiling this run measured ({ceilings})", *said]
            )
        )
    if measured:
        sentences.append(_verdicts(run, measured))
    if "latency" not in left_out and any(row.latency for row in measured):
        sentences.append("Latency, TTFT, TPOT: median")
    if any(row.operation_seconds for row in measured):
        sentences.append(COLLECTIVES)
    sentences += scaling.legend([one for one in scalings(rows) if not one.absent])
    if "memory" not in left_out and (counted := memory.scopes(measured)):
        sentences.append(f"Memory: peak, {memory.words(counted)}")
    if not wide:
        sentences.append(f"Not shown: {', '.join([*left_out, usual_of(run.run.suite)])} (--wide)")
    return "".join(f"{one}. " for one in sentences).rstrip()


def limit_words(rows: Sequence[Row], *, every: bool) -> list[str]:
    """What the words for limits mean that are on the card; every: whether it has all shares, and
    not only that of the nearest ceiling."""
    words = {row.limit[0] for row in rows if row.limit}
    widths = [row.limit_half_width for row in rows]
    if every:
        widths += [width for row in rows for width in row.share_half_widths.values()]
    unsure = [ABOUT] if any(map(about, widths)) else []
    return [text for word, text in LIMITS.items() if word in words] + unsure


LIMITS = {
    "kernels": "kernels: under half of each that is counted for it, so look at its kernels",
    "power": "power: matmul, at the device's power limit",
    "host": "host: time to queue a step, over that of the step",
    "input": "input: the time that a step waits for it",
}
"""What a word for a limit means, other than a ceiling."""


def _verdicts(run: RunFile, rows: Sequence[Row]) -> str:
    level = next((row.interval.level for row in rows if row.interval), stats.FIXED_LEVEL)
    target = f"±{100 * run.run.settings.target_half_width:g}%"
    count = {row.launches for row in rows}
    each = min(count) if len(count) == 1 else 0
    launches = f"{each} launches" if each >= stats.MINIMUM_LAUNCHES else "launches"
    words = [f"OK: {level:.0%} interval over {launches} within {target}"]
    verdicts = {row.verdict for row in rows}
    if "NOISY" in verdicts:
        words.append("NOISY: wider")
    if "FEW_LAUNCHES" in verdicts:
        words.append(f"FEW LAUNCHES: under {stats.MINIMUM_LAUNCHES}")
    return "; ".join(words)

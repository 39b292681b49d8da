"""What was seen of every device of a launch, joined: flags by their ranks, energy once a card.

Of several devices each has its own look, its own flags and its own energy over the same steady
blocks. The launch's energy is their sum, where every one of them has one. Two devices on one card
or package, whose power is the card's, have one figure between them: it is counted once.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench import units
from bench.records.observed import Telemetry, Watched
from bench.records.outcome import Flag, Measured, Share
from bench.records.run import Launch
from bench.telemetry.energy import with_energy, with_fault
from bench.telemetry.flags import own_clocks, steady_readings, with_flags

APART = 0.10
"""Two readings of one card's energy further apart than this are of no one thing. Each is made of
few readings at other moments, so they differ by more than a counter from its own power does."""
UNCLEAR = "not observable: two hosts are one machine, and each calls a card so; it may be the same"
Where = tuple[int, int]
"""A device of a launch: its host, and its index there."""


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one device during a launch; a plain value, which may come from afar."""

    index: int
    telemetry: Telemetry | str
    """Or why there is none."""
    card: str = ""
    card_devices: int | None = None
    """As `bench.telemetry.source.Source` has them."""
    machine: str = ""
    """By whatever tells the machine from others. Two hosts of a launch may be one: containers, say,
    each of which may call another card by the same name."""


NOBODY = Sight(index=0, telemetry="nobody looked")


def observed(outcome: Measured, sights: Mapping[Where, Sight]) -> tuple[Measured, Telemetry | str]:
    """The outcome with the energy and the flags of its devices; and what was seen of the first.

    sights: of each device of the launch, the first one's first. One that is missing was not looked
    at, which is said.
    """
    places = list(dict.fromkeys((share.host, share.device) for share in outcome.ranks))
    places = places or list(sights)[:1]
    first = sights.get(places[0], NOBODY).telemetry if places else NOBODY.telemetry
    if isinstance(first, Telemetry):
        first = with_fault(outcome, first)
    if len(places) < 2:
        return with_flags(with_energy(outcome, first), first), first
    found, shares = together(outcome, outcome.ranks, sights)
    return msgspec.structs.replace(found, ranks=shares), first


def together(
    outcome: Measured, parts: Sequence[Share], sights: Mapping[Where, Sight], noun: str = "rank"
) -> tuple[Measured, tuple[Share, ...]]:
    """The outcome with the energy and the flags of all its parts' devices; and each part with its
    device's. noun: what the part of a device is called."""
    shares = _watched(outcome, parts, sights)
    flags: dict[Flag, dict[int, str]] = {}
    for before, share in zip(parts, shares, strict=True):
        for flag in share.flags[len(before.flags) :]:
            flags.setdefault(flag, {})[share.rank] = share.causes.get(flag, flag)
    causes = {flag: of_ranks(by_rank, len(shares), noun) for flag, by_rank in flags.items()}
    outcome = msgspec.structs.replace(
        outcome,
        flags=(*outcome.flags, *(flag for flag in flags if flag not in outcome.flags)),
        causes={**outcome.causes, **causes},
    )
    return _summed(outcome, shares, noun), shares


def _watched(
    outcome: Measured, parts: Sequence[Share], sights: Mapping[Where, Sight]
) -> tuple[Share, ...]:
    """Each part, with what was seen of its device."""
    alone = msgspec.structs.replace(outcome, ranks=(), causes={})
    cards: dict[tuple[int, str], int] = {}
    unclear = _unclear(sights)
    found = []
    for share in parts:
        sight = sights.get((share.host, share.device), NOBODY)
        telemetry = sight.telemetry
        if isinstance(telemetry, Telemetry):
            telemetry = with_fault(alone, telemetry)
        own = with_flags(with_energy(alone, telemetry), telemetry)
        seen = _figures(alone, telemetry)
        if (sight.machine, sight.card) in unclear:
            own = msgspec.structs.replace(own, energy_joules=None, energy_absent=UNCLEAR)
        elif sight.card:
            number = cards.setdefault((share.host, sight.card), len(cards))
            seen = msgspec.structs.replace(seen, card=number, card_devices=sight.card_devices)
        seen = msgspec.structs.replace(
            seen,
            energy_joules=own.energy_joules,
            energy_method=own.energy_method,
            energy_absent=own.energy_absent,
        )
        found.append(
            msgspec.structs.replace(
                share,
                watched=seen,
                flags=(*share.flags, *own.flags[len(outcome.flags) :]),
                causes={**share.causes, **own.causes},
            )
        )
    return tuple(found)


def _unclear(sights: Mapping[Where, Sight]) -> set[tuple[str, str]]:
    """Cards of machines that are several hosts, of which more than one has a card of that name."""
    hosts: dict[tuple[str, str], set[int]] = {}
    for (host, _), sight in sights.items():
        if sight.machine and sight.card:
            hosts.setdefault((sight.machine, sight.card), set()).add(host)
    return {name for name, of in hosts.items() if len(of) > 1}


def _figures(outcome: Measured, telemetry: Telemetry | str) -> Watched:
    """Readings of the steady blocks in figures."""
    if isinstance(telemetry, str):
        return Watched(absent_because=telemetry)
    readings = steady_readings(outcome, telemetry)
    clocks = [] if telemetry.scope == "shared" else own_clocks(readings)
    return Watched(
        source=telemetry.source,
        scope=telemetry.scope,
        readings=len(readings),
        power_watts=median(r.power_watts for r in readings),
        clock_mhz=median(clocks),
        clocks=len(clocks),
        temperature_celsius=max(
            (r.temperature_celsius for r in readings if r.temperature_celsius is not None),
            default=None,
        ),
        utilisation_percent=median(r.utilisation_percent for r in readings),
        memory_used_bytes=max(
            (r.memory_used_bytes for r in readings if r.memory_used_bytes), default=None
        ),
        reasons=dict(Counter(word for r in readings for word in r.reasons or ())),
        absent=telemetry.absent,
        idle_watts=telemetry.idle_watts,
        others=telemetry.others,
        others_bytes=telemetry.others_bytes,
    )


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _summed(outcome: Measured, shares: Sequence[Share], noun: str) -> Measured:
    """With the energy of all its cards, each counted once; or why there is none, and by whom."""
    cards: dict[str, list[Share]] = {}
    for share in shares:
        cards.setdefault(_whose(share), []).append(share)
    found = [_of_card(of, noun) for of in cards.values()]
    lacking = {why.rank: why.reason for why in found if isinstance(why, _Lacking)}
    scopes = sorted({share.watched.scope for share in shares if share.watched})
    if not lacking and len(scopes) > 1:
        why = f"not observable: the power is of several scopes: {', '.join(scopes)}"
        lacking = {shares[0].rank: why}
    if lacking:
        rank, why = next(iter(lacking.items()))
        whole = len(lacking) == len(cards) and set(lacking.values()) == {why}
        return msgspec.structs.replace(
            outcome, energy_absent=why if whole else f"{noun} {rank}: {why}"
        )
    methods = {share.watched.energy_method for share in shares if share.watched}
    return msgspec.structs.replace(
        outcome,
        energy_joules=sum(joules for joules in found if not isinstance(joules, _Lacking)),
        energy_absent=None,
        energy_method="counter" if methods == {"counter"} else "power",
    )


class _Lacking(NamedTuple):
    """A rank, and why its card has no energy."""

    rank: int
    reason: str


def _whose(share: Share) -> str:
    """What its device's power is of."""
    seen = share.watched
    alone = seen is None or seen.card is None or seen.scope == "chip"
    return f"rank {share.rank}" if alone or seen is None else f"card {seen.card}"


def _nobodys(seen: Watched) -> bool:
    """Whether its power may be that of another's device too, and nobody says whose."""
    return seen.card is None and seen.scope != "chip"


def _of_card(shares: Sequence[Share], noun: str) -> float | _Lacking:
    """Joules of a card, by the ranks whose it is."""
    known = [(s, s.watched) for s in shares if s.watched and s.watched.energy_joules is not None]
    if not known:
        seen = shares[0].watched
        return _Lacking(shares[0].rank, (seen and seen.energy_absent) or "not observable")
    first, seen = known[0]
    if _nobodys(seen):
        why = f"not observable: {seen.source} does not say which card its power is of"
        return _Lacking(first.rank, why)
    joules = [seen.energy_joules or 0.0 for _, seen in known]
    if max(joules) > (1 + APART) * min(joules):
        said = f"{min(joules):.4g} to {max(joules):.4g} J"
        return _Lacking(first.rank, f"neither is believed: the {noun}s of its card read {said}")
    return statistics.fmean(joules)


def of_ranks(causes: Mapping[int, str], ranks: int, noun: str = "rank") -> str:
    """A cause with the rank that has it first, and the others that have it too.

    ranks: how many the launch has.
    """
    (first, cause), *others = causes.items()
    said = f"{noun} {first}: {cause}"
    if not others:
        return said
    if len(causes) == ranks:
        return f"{said}; all other {noun}s too"
    return f"{said}; {units.ranks([rank for rank, _ in others], noun)} too"


def packages_of(outcomes: Sequence[Measured]) -> int | None:
    """How many whole cards or packages did the step in each of these; None where that is not known,
    or one of them was not in a launch with all its devices."""
    found = {_packages(outcome) for outcome in outcomes}
    return found.pop() if len(found) == 1 else None


def _packages(outcome: Measured) -> int | None:
    seen = [share.watched for share in outcome.ranks]
    taken = Counter(one.card for one in seen if one is not None)
    whole = all(
        one is not None and one.card is not None and one.card_devices == taken[one.card]
        for one in seen
    )
    return len(taken) if seen and whole else None


def idle_watts(launches: Sequence[Launch]) -> float | None:
    """Of all devices before the run's first worker had one, once a card; None where that is not
    known of one of them. By the first launch that was watched."""
    launch = next((x for x in launches if x.telemetry is not None), None)
    if launch is None or launch.telemetry is None:
        return None
    ranks = launch.outcome.ranks if isinstance(launch.outcome, Measured) else ()
    cards: dict[str, list[float]] = {}
    for share in ranks:
        if share.watched is not None:
            watts = None if _nobodys(share.watched) else share.watched.idle_watts
            cards.setdefault(_whose(share), []).extend([] if watts is None else [watts])
    if not cards:
        return launch.telemetry.idle_watts
    return sum(map(statistics.fmean, cards.values())) if all(cards.values()) else None

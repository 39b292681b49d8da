"""What a framework other than torch reaches, asked in its interpreter, a process for each backend.

`python -m bench.running.probe FRAMEWORK@BACKEND` is such a process. A framework may keep to the
first kind of device that it was told of, and a runtime that breaks takes no other with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench import catalogue
from bench.errors import DeviceUnavailable
from bench.running import probe
from bench.running.elsewhere import TORCH, Elsewhere, elsewhere
from bench.running.probe import HOST, Chosen, Found


def by_frameworks() -> list[Found]:
    """What each framework but torch reaches; why not an accelerator whose software is here; and
    where it reaches nothing, why."""
    others = [name for name in catalogue.plug_ins("frameworks") if name != TORCH]
    return [found for name in others for found in _of_note(_asked_where_it_is(name))]


def _of_note(found: Sequence[Found]) -> list[Found]:
    some = any(one.devices for one in found)
    return [one for one in found if one.devices or one.installed or not some]


def _asked_where_it_is(framework: str) -> list[Found]:
    try:
        return ask(elsewhere(framework, None))
    except DeviceUnavailable as error:  # a variable that names no program
        return [Found(backend=HOST, reason=f"{framework}: {error}", framework=framework)]


def ask(where: Elsewhere, names: Sequence[str] = ()) -> list[Found]:
    """What a framework reaches of these backends, by default of all; of one whose devices it does
    not know at all, nothing. Where it reaches none of them, why not the host, if that was asked."""
    asked = probe.in_order(names or catalogue.plug_ins("backends"))
    asked = [name for name in asked if _may_reach(where.framework, name)]
    found = [_told(where, one) for one in probe.side_by_side(asked, where)]
    if any(one.devices for one in found):
        return found
    return [probe.not_to_the_host(one) for one in found if one.backend == HOST] or found


def _may_reach(framework: str, backend: str) -> bool:
    try:
        there = catalogue.backend(backend)
    except Exception:  # noqa: BLE001 - a package's backend that does not load spoils no other
        return False
    return catalogue.framework(framework).reaches(there)


def _told(where: Elsewhere, found: Found) -> Found:
    """What its child said; or, where that did not come to answer, why, by its name."""
    if found.framework == where.framework:
        return found
    backend = found.backend
    of = where.framework if backend == HOST else f"{where.framework} on {backend}"
    reason = f"{of}: {found.reason.removeprefix(f'{backend}: ')}"
    return Found(backend=backend, reason=reason, framework=where.framework)


def choose_by(where: Elsewhere, address: str | None) -> Chosen:
    """`probe.choose_of`, among what a framework reaches."""

    def asked(names: Sequence[str]) -> list[Found]:
        mine = [_news_of_the_host(one) for one in ask(where, names) if one.backend in names]
        return mine or [_not_reached(names[0], where.framework, ask(where))]

    return probe.chosen(address, asked)


def _news_of_the_host(found: Found) -> Found:
    """It is what a framework reaches if anything: why not is always news."""
    return msgspec.structs.replace(found, installed=True) if found.backend == HOST else found


def _not_reached(backend: str, framework: str, found: Sequence[Found]) -> Found:
    """Why a framework has no device of that backend."""
    here = [device.address for one in found for device in one.devices]
    reason = f"{framework} reaches no {backend} here. Reached: {', '.join(here)}."
    return Found(backend=backend, reason=reason if here else found[-1].reason, framework=framework)

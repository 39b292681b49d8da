"""Which rank of a launch is on which host, and on which of its devices: host by host, evenly."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bench import catalogue
from bench.backend import DeviceInfo
from bench.errors import DeviceUnavailable
from bench.measuring.messages import Request
from bench.planning.spread import FEWEST
from bench.records.case import Case

MOST_ON_A_HOST = 64
"""Ranks that share a host's cores: enough to try any parallelism."""


class Hosts(NamedTuple):
    """How many take part in a run."""

    total: int = 1
    each: int = 1
    """Devices of each."""
    cores: int | None = None
    """Usable ones of the host with fewest, where hosts differ; see `messages.Place`."""


ONE = Hosts()


class Seat(NamedTuple):
    """Where one rank of a launch is."""

    host: int
    local_rank: int
    """On an accelerator host the device's index."""
    local_size: int
    """Ranks on its host."""


def seats(count: int, hosts: Hosts, *, own_devices: bool) -> list[Seat]:
    """Of so many ranks each one's, in their order; empty where the hosts have no room for them, or
    where the ranks do not divide over those that they take.

    own_devices: whether each rank has a device of its own. Then no more hosts take part than have
    the devices; ranks that compute on the hosts' cores go to as many as there are.
    """
    taken = min(hosts.total, count)
    if own_devices and hosts.total > 1:
        taken = -(-count // hosts.each)
    if taken > hosts.total or count % taken:
        return []
    local = count // taken
    return [Seat(host, rank, local) for host in range(taken) for rank in range(local)]


def size(asked: int | None, device: DeviceInfo, here: int, hosts: Hosts = ONE) -> int:
    """Over how many devices a run goes. asked: as the user says; here: devices of its kind, on all
    hosts together.

    Raises `DeviceUnavailable` where there are not so many. On the host itself any number of ranks
    share its cores, so that everything can be tried anywhere.
    """
    is_host = catalogue.backend(device.backend).is_host
    wanted = _of_hosts(asked, hosts) if is_host else _of_devices(asked, device, here, hosts)
    if not seats(wanted, hosts, own_devices=not is_host):
        why = uneven(wanted, hosts, own_devices=not is_host)
        raise DeviceUnavailable(f"--devices {wanted}: {why}")
    return wanted


def _of_hosts(asked: int | None, hosts: Hosts) -> int:
    most = MOST_ON_A_HOST * hosts.total
    if asked is not None and asked > most:
        raise DeviceUnavailable(
            f"--devices {asked}: at most {MOST_ON_A_HOST} ranks share the cores of one host. Give "
            f"a number from 2 to {most}."
        )
    return asked or (FEWEST if hosts.total == 1 else hosts.total)


def _of_devices(asked: int | None, device: DeviceInfo, here: int, hosts: Hosts) -> int:
    if device.index and (asked or here) > 1:
        raise DeviceUnavailable(
            f"--device {device.address}: a run over {asked or here} devices takes the first ones. "
            f"Write --device {device.backend}, or --devices 1."
        )
    if asked is not None and asked > here:
        last = here // hosts.total - 1
        where = f" on each of {hosts.total} hosts" if hosts.total > 1 else ""
        raise DeviceUnavailable(
            f"--devices {asked}: there are {here} here: {device.backend}:0 to "
            f"{device.backend}:{last}{where}. Give a number up to {here}, or leave it out for all."
        )
    return asked or here


def require_first(
    cases: Sequence[Case], device: DeviceInfo, left_out: Collection[str] = ()
) -> None:
    """Raises `DeviceUnavailable` where a case goes over several devices, and so over the first
    ones, and the device that is named is another. left_out: fingerprints of those not tried."""
    if not device.index or catalogue.backend(device.backend).is_host:
        return
    for case in cases:
        if case.devices > 1 and case.fingerprint not in left_out:
            raise DeviceUnavailable(
                f"--device {device.address}: {case.name} over {case.devices} devices takes the "
                f"first ones. Run it with --device {device.backend}, or the others with --only."
            )


def uneven(count: int, hosts: Hosts, *, own_devices: bool) -> str:
    """That so many ranks do not divide over the hosts that they take, and the next that do."""
    taken = -(-count // hosts.each) if own_devices else hosts.total
    fits = functools.partial(seats, hosts=hosts, own_devices=own_devices)
    ways = range(count - 1, 0, -1), range(count + 1, 2 * count)
    less, more = (next(filter(fits, way), 0) for way in ways)
    return (
        f"{count} ranks do not divide evenly over {taken} hosts with {hosts.each} "
        f"device{'s' * (hosts.each > 1)} each. Give {less} or {more}."
    )


def lacking(request: Request, hosts: Hosts = ONE) -> str:
    """Why a case cannot be run for want of devices; empty where there are enough."""
    count = request.case.devices
    own_devices = not catalogue.backend(request.backend).is_host
    if own_devices and count > request.here:
        here = f"{request.here} {'is' if request.here == 1 else 'are'} here"
        return f"it takes {count} {request.backend} devices; {here}"
    if not own_devices and count > MOST_ON_A_HOST * hosts.total:
        return f"it takes {count} ranks; at most {MOST_ON_A_HOST} share one host"
    if seats(count, hosts, own_devices=own_devices):
        return ""
    return uneven(count, hosts, own_devices=own_devices)

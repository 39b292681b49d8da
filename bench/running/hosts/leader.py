"""The process of rank 0 among several hosts: it has the others come, and sees that they are alike.

It runs the session as ever; its launches have workers on the others too
(`bench.running.hosts.remote`).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.backend import DeviceInfo
from bench.errors import EXIT_BAD_INPUT, EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, HostsError
from bench.measuring.ranks.joining import machine
from bench.records.cpu_limits import usable_cores
from bench.running.hosts import alike
from bench.running.hosts.alike import Host
from bench.running.hosts.door import Door
from bench.running.hosts.greeting import join_seconds
from bench.running.hosts.placement import Placement, few_cores
from bench.running.hosts.remote import RemoteHost
from bench.running.hosts.seating import Hosts

Say = Callable[[str], None]


@dataclass(eq=False)
class Leader:
    """The hosts that have come, this one first. `gather` has them come."""

    placement: Placement
    _facts: Mapping[str, Any]
    """`alike.software` of this host."""
    _say: Say
    """Tells the user."""

    def __post_init__(self) -> None:
        self.host = Host(0, socket.gethostname())
        self.others: list[RemoteHost] = []
        self.hosts = Hosts()
        """How many take part, and with how many devices."""
        self.machines: list[str] = []
        """Of each host the kernel that it runs on; see `joining.machine`."""
        self.address = ""
        """By which the others reach this host."""

    def gather(self) -> None:
        """Waits until all hosts are there; raises `HostsError` where one does not come, where two
        have one rank, or where one has other software."""
        seconds = join_seconds()
        with Door(self.placement, seconds) as door:
            try:
                self.others = door.greet(seconds)
            except BaseException as error:
                door.refuse_all(str(error) if isinstance(error, HostsError) else "")
                raise
        self.address = door.address
        self.machines = [machine(), *(other.machine for other in self.others)]
        told = [(self.host, self._facts), *((other.host, other.facts) for other in self.others)]
        self._require(alike.differences(told))
        names = ", ".join(str(host) for host, _ in told)
        self.hosts = Hosts(len(told))
        count = len(set(self.machines))
        on = f" on {count} machine{'s' * (count > 1)}" * (count < len(told))
        self._say(f"hosts: {len(told)} ({self.placement.launcher}){on}: {names}{few_cores()}")

    def agree(self, device: DeviceInfo, here: int) -> int:
        """How many devices there are on all hosts; raises `HostsError` where hosts differ.

        device: the one chosen here; here: how many there are of its kind on this host.
        """
        for other in self.others:
            other.look(device.backend)
        own = alike.conditions(device.backend)
        told = [(self.host, {"devices": f"{here} x {device.name}", **own})]
        cores = [usable_cores()]
        for other in self.others:
            found = other.found()
            if found.problem or not found.devices:
                raise HostsError(f"{other.host}: {device.backend}: {found.problem or 'no device'}")
            devices = f"{len(found.devices)} x {found.devices[0].name}"
            told.append((other.host, {"devices": devices, **found.conditions}))
            cores.append(found.cores or cores[0])
        self._require(alike.differences(told))
        self.hosts = Hosts(len(told), here, min(cores) if len(set(cores)) > 1 else None)
        return here * len(told)

    @property
    def lost(self) -> str:
        """Which host is gone, and why; empty while all are there."""
        return "; ".join(f"{o.host} is gone: {o.lost}" for o in self.others if o.lost)

    def require_all(self) -> None:
        """Raises `HostsError` where a host is gone; hears what they said meanwhile."""
        with selectors.DefaultSelector() as selector:
            for other in self.others:
                if not other.lost:
                    selector.register(other, selectors.EVENT_READ, other)
            for key, _ in selector.select(0):
                key.data.hear()
        if self.lost:
            raise HostsError(
                f"{self.lost}. What was measured is in the record: go on with it on all hosts by "
                "`accelmark run --resume`."
            )

    def over(self, code: int, said: str = "") -> None:
        """Tells every host that the run has ended."""
        for other in self.others:
            other.over(code, said)

    def _require(self, differences: Sequence[str]) -> None:
        if differences:
            listed = "".join(f"\n  - {difference}" for difference in differences)
            raise HostsError(
                f"the hosts are not alike, and nothing is measured:{listed}\nGive all hosts the "
                "same, and the same command."
            )


@contextlib.contextmanager
def leading(placement: Placement, facts: Mapping[str, Any], say: Say) -> Iterator[Leader]:
    """The other hosts are here; whatever comes of it they hear, and end as this process does."""
    leader = Leader(placement, facts, say)
    code, said = EXIT_INCOMPLETE, ""
    try:
        leader.gather()
        yield leader
        code = EXIT_OK
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else EXIT_INCOMPLETE
        said = leader.lost or ("interrupted" if code == EXIT_INTERRUPTED else "")
        raise
    except KeyboardInterrupt:
        code, said = EXIT_INTERRUPTED, "interrupted"
        raise
    except Exception as error:
        code = EXIT_BAD_INPUT
        said = str(error)
        raise
    finally:
        leader.over(code, said)

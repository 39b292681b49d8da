"""Ranks that compute on one host share its memory: whether a case fits is of all of them there."""

from __future__ import annotations

import functools
import io
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.measuring.launch import Launch
from bench.measuring.messages import Channel, Place, Request
from bench.planning import memory_fit
from bench.ranks import Ranks
from bench.records.parallelism import parse
from bench.records.run import Settings
from bench.tests.planning.test_memory_fit import Shared, site
from bench.tests.values import make_case
from bench.workload import Site, Unsupported, Workload
from bench.workloads.collective import WORKLOAD as COLLECTIVE
from bench.workloads.collective import Exchanged

GIB = 2**30


@pytest.fixture(autouse=True)
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever limits the tests themselves."""
    monkeypatch.setattr(memory_fit, "memory_limit", lambda: None)


class Large(Workload):
    """Needs 4 GiB on each rank."""

    name, version, modes = "large", 1, {}
    work = twin = build = None  # type: ignore[assignment]

    def peak_bytes(self, mode: str, parameters: Any, site: Site) -> int:
        return 4 * GIB


def require(
    workload: Workload,
    parameters: Any,
    capacity: int,
    ranks: int,
    *,
    hosts: int = 1,
    mode: str = "train",
    backend: str = "cpu",
    left: int | None = None,
) -> Launch:
    """A rank's look at whether a case fits; left: of the host's memory, where that is shared."""
    kind = parse(f"fsdp{ranks}")
    place = Place(
        rank=0,
        size=ranks,
        local_rank=0,
        local_size=ranks // hosts,
        hosts=hosts,
        parallelism=str(kind),
        address="127.0.0.1",
        port=1,
    )
    case = make_case(mode=mode, devices=ranks, parallelism=str(kind))
    asked = Request(
        case=case, backend=backend, index=0, settings=Settings(), samples=10, seed=0, place=place
    )
    launch = Launch(asked, Channel(io.BytesIO()))
    launch.backend = catalogue.backend(backend)
    there: Any = {"rank": 0, "size": ranks, "group": None, "control": None}
    at = msgspec.structs.replace(site(), ranks=Ranks(parallelism=kind, **there))
    info = SimpleNamespace(memory_bytes=capacity)
    device: Any = SimpleNamespace(
        capacity_bytes=lambda: left or capacity, info=info, shares_host_memory=left is not None
    )
    launch._require_memory(workload, parameters, at, device, None)
    return launch


def test_ranks_of_a_host_are_counted_together() -> None:
    """Eight of 4 GiB each were once found to fit into 24 GiB, and the kernel ended them."""
    with pytest.raises(Unsupported) as refusal:
        require(Large(), None, 24 * GIB, 8)
    needed = "needs about 32.0 GiB (8 ranks of this host, 4.0 GiB each)"
    assert str(refusal.value) == f"does not fit: {needed}, the device has 24.0 GiB"
    assert require(Large(), None, 24 * GIB, 6).estimated_peak_bytes == 4 * GIB, "of one of them"
    assert require(Large(), None, 24 * GIB, 8, hosts=4)
    assert require(Large(), None, 6 * GIB, 8, backend="cuda"), "each has a device of its own"


def test_a_device_that_shares_the_hosts_memory_is_asked_for_what_fits_surely() -> None:
    """A fourth more than was estimated to fit was tried, and the machine stood still. What takes
    nearly all of a host that is free was then refused for ever, as what does not fit."""
    here = functools.partial(require, Large(), None, ranks=2, backend="cuda")
    assert here(6 * GIB, left=5 * GIB)
    said = "needs about 4.0 GiB, to be safe 5.0 GiB, and the host has 4.9 GiB available now"
    with pytest.raises(RuntimeError, match=said):
        here(6 * GIB, left=int(4.9 * GIB))
    for whole, free in ((4.0, 4.0), (4.2, 4.0), (4.8, 4.4)):
        assert here(int(whole * GIB), left=int(free * GIB)), "all that it ever has"
    for whole, too_little in ((4.2, 3.9), (4.8, 4.3)):
        with pytest.raises(RuntimeError, match="available now"):
            here(int(whole * GIB), left=int(too_little * GIB))
    with pytest.raises(Unsupported, match=r"needs about 4.0 GiB, the device has 3.9 GiB"):
        here(int(3.9 * GIB), left=3 * GIB)
    assert require(Large(), None, int(3.9 * GIB), 2, backend="cuda"), "its own: it says itself"


def test_more_ranks_of_a_host_are_no_remedy() -> None:
    """A device more has its memory with it; a rank more has not."""
    given = catalogue.workload("bert").modes["train"].parameters(batch_size=12)
    room = 16 * 2**20
    with pytest.raises(Unsupported, match='it would fit: parallelism = "fsdp6"'):
        require(Shared(), given, room, 2, backend="cuda")
    with pytest.raises(Unsupported, match=r"the device has 16 MiB$"):
        require(Shared(), given, room, 2)


@pytest.mark.parametrize(
    ("seconds", "counted", "said"),
    [(5.0, [2, 3, 4, 6], 'parallelism = "fsdp6"'), (20.0, [2, 3], "has 16 MiB$")],
)
def test_the_search_for_a_remedy_ends_before_the_phase_does(
    monkeypatch: pytest.MonkeyPatch, seconds: float, counted: list[int], said: str
) -> None:
    """A large model's memory takes long to count: the case that does not fit was a time-out."""
    now, sizes = [0.0], []

    class Slow(Shared):
        def peak_bytes(self, mode: str, parameters: Any, site: Site) -> int:
            assert site.ranks is not None
            now[0] += seconds
            sizes.append(site.ranks.size)
            return super().peak_bytes(mode, parameters, site)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    given = catalogue.workload("bert").modes["train"].parameters(batch_size=12)
    with pytest.raises(Unsupported, match=said):
        require(Slow(), given, 16 * 2**20, 2, backend="cuda")
    assert sizes == counted


def test_a_collective_is_counted_where_its_ranks_are() -> None:
    """Of four hosts with a rank each, each was once held to the memory of all four."""
    given = Exchanged(size_bytes=GIB)
    fits = require(COLLECTIVE, given, 2 * GIB, 4, hosts=4, mode="all-gather")
    assert fits.estimated_peak_bytes == GIB + GIB // 4 + 65_521 * 4
    with pytest.raises(Unsupported, match=r"4 ranks of this host, 1\.3 GiB each"):
        require(COLLECTIVE, given, 2 * GIB, 4, mode="all-gather")

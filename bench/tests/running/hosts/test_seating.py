"""How many ranks a run takes, and how many a host can bear."""

from __future__ import annotations

import re

import msgspec
import pytest

from bench.backend import DeviceInfo
from bench.errors import DeviceUnavailable
from bench.running.hosts import seating
from bench.running.hosts.seating import Hosts
from bench.tests.running.scripted_workers import request
from bench.tests.values import make_case

CPU = DeviceInfo(backend="cpu", index=0, name="CPU", memory_bytes=None)
GPU = DeviceInfo(backend="cuda", index=0, name="GPU", memory_bytes=None)


def test_a_run_takes_all_that_there_are() -> None:
    assert seating.size(None, GPU, 8) == 8
    assert seating.size(4, GPU, 8) == 4
    assert seating.size(None, CPU, 1) == 2
    assert seating.size(8, CPU, 1) == 8


@pytest.mark.parametrize(
    ("asked", "device", "here", "message"),
    [
        (9, GPU, 8, "--devices 9: there are 8 here: cuda:0 to cuda:7. Give a number up to 8"),
        (65, CPU, 1, "--devices 65: at most 64 ranks share the cores of one host"),
        (2, msgspec.structs.replace(GPU, index=3), 8, "--device cuda:3: a run over 2 devices"),
    ],
)
def test_more_than_there_are_is_refused(
    asked: int, device: DeviceInfo, here: int, message: str
) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        seating.size(asked, device, here)
    assert str(caught.value).startswith(message)


def test_a_host_starts_no_more_ranks_than_it_can_bear() -> None:
    """A scheme that a suite names by itself is not bounded by what a run takes."""
    crowd = msgspec.structs.replace(
        request(), backend="cpu", case=make_case(devices=1024, parallelism="dp1024")
    )
    assert seating.lacking(crowd) == "it takes 1024 ranks; at most 64 share one host"


@pytest.mark.parametrize("device", [GPU, CPU])
@pytest.mark.parametrize("hosts", [Hosts(3, 8), Hosts(4, 8), Hosts(6, 8)])
def test_what_is_advised_instead_of_an_uneven_number_is_taken(
    hosts: Hosts, device: DeviceInfo
) -> None:
    """Of 4 hosts with 8 devices 20 was refused, and 20 advised."""
    here = hosts.total * hosts.each
    refused = 0
    for asked in range(1, here + 1):
        try:
            seating.size(asked, device, here, hosts)
        except DeviceUnavailable as why:
            refused += 1
            advised = [int(n) for n in re.findall(r"\d+", str(why).rpartition("Give ")[2])]
            assert advised and all(
                seating.size(n, device, here, hosts) == n != asked for n in advised
            )
    assert refused


def test_the_hosts_that_are_taken_are_named() -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        seating.size(20, GPU, 32, Hosts(4, 8))
    assert str(caught.value) == (
        "--devices 20: 20 ranks do not divide evenly over 3 hosts with 8 devices each. Give 18 or "
        "21."
    )

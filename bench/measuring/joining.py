"""A rank's own side of a world: its place as the parent gave it, and how it joins the others."""

from __future__ import annotations

import os
import re
import socket
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.measuring.messages import Place
from bench.ranks import Ranks
from bench.records.parallelism import parse

if TYPE_CHECKING:
    from bench.backend import Backend, Device

LAUNCHERS = ("TORCHELASTIC_", "GROUP_", "ROLE_", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
"""Variables of the launcher around us, which a fresh group must not take for its own."""
CLOSED = re.compile(
    r"closed by peer|connection (reset|refused|was closed|closed)|broken pipe|timed out|socket|"
    r"remote process|\bpeer\b|[a-z]CCL|aborted",
    re.IGNORECASE,
)
"""What a collective library says when somebody else is gone."""
JOIN_SECONDS = 45.0
"""Within which all ranks must have come: those that wait longer say so."""


def variables(size: int, cores: int, shared: bool) -> dict[str, str]:
    """Environment of each of `size` ranks on one host. shared: they compute on its cores.

    Raises nothing. What the user has set goes before it.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, cores // size))} if shared else {}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return threads | ({"GLOO_SOCKET_IFNAME": loopback} if loopback else {})


def join(place: Place, backend: Backend, device: Device, limit_seconds: float) -> Ranks:
    """Enters the launch's fresh groups. Rank 0 serves the store on the socket the parent opened.

    limit_seconds: how long a collective may take before the library gives it up.
    """
    import torch.distributed as dist

    for name in [n for n in os.environ if n.startswith(LAUNCHERS)]:
        del os.environ[name]
    own: dict[str, Any] = {}
    if place.listener is not None:
        own["master_listen_fd"] = place.listener
    store = dist.TCPStore(  # type: ignore[attr-defined]
        *(place.address, place.port, place.size, place.rank == 0),
        timeout=timedelta(seconds=JOIN_SECONDS),
        **own,
    )
    limit = timedelta(seconds=limit_seconds)
    library = backend.collective_library(device.torch_device.type)
    dist.init_process_group(
        library, store=store, rank=place.rank, world_size=place.size, timeout=limit
    )
    control = dist.new_group(backend="gloo", timeout=limit)
    assert dist.group.WORLD is not None
    return Ranks(
        rank=place.rank,
        size=place.size,
        parallelism=parse(place.parallelism),
        group=dist.group.WORLD,
        control=control,
    )


def blames_peer(error: BaseException) -> bool:
    """Whether an error is what a rank sees of another's end, and none of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = any("/torch/distributed/" in frame.filename for frame in frames)
    return inside or (isinstance(error, RuntimeError) and CLOSED.search(str(error)) is not None)


def described(place: Place, backend: Backend, device: Device) -> dict[str, Any]:
    """What the record says of the world: its size, the library, its version, the links it found."""
    kind = device.torch_device.type
    return {
        "devices": place.size,
        "library": backend.collective_library(kind),
        "shared_host": device.synchronous,
        **backend.fabric(place.size),
    }

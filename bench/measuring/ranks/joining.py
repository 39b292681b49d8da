"""A rank's own side of a world: its place as the parent gave it, and how it joins the others."""

from __future__ import annotations

import contextlib
import re
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measuring.messages import Place
from bench.ranks import Ranks, nowhere
from bench.records.environment import is_common, threads_each
from bench.records.parallelism import parse

if TYPE_CHECKING:
    import torch

    from bench.backend import Backend, Device

CLOSED = re.compile(
    r"closed by peer|connection (reset|refused|was closed|closed)|broken pipe|timed out|socket|"
    r"remote process|\bpeer\b|[a-z]CCL|aborted",
    re.IGNORECASE,
)
"""What a collective library says when somebody else is gone."""
OWN = ("RANK", "LOCAL_RANK")
"""Variables in which ranks differ by rights."""
JOIN_SECONDS = 45.0
"""Within which all ranks must have come: those that wait longer say so."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """Of the kernel that this process runs on: containers and namespaces share one."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def card(device: torch.device) -> str:
    """See `Ranks.card`. Only ever compared, never recorded."""
    import torch

    with contextlib.suppress(Exception):  # then it does not say
        found = torch.get_device_module(device).get_device_properties(device)
        # Cards without a number of their own have one uuid between them.
        return f"{machine()} {found.uuid} {getattr(found, 'pci_bus_id', '')}"
    return ""


def variables(
    given: Mapping[str, str],
    place: Place,
    cores: int,
    shared: bool,
    interface: str | None = None,
) -> dict[str, str]:
    """The environment of one of the ranks of one host, from a worker's (without a launcher's
    variables: `environment.worker_variables`). What the user has set stays.

    shared: they compute on the host's cores; ranks that have devices do in the numerics gate alone,
    all at once. cores: of this host, where its place says none. interface: by which this host
    reaches the others, by its name; None where there are none.
    """
    if place.hosts == 1:
        interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    several = shared or place.local_size > 1 or place.cores is not None
    threads = threads_each(place.cores or cores, place.local_size) if several else {}
    wanted = threads | ({"GLOO_SOCKET_IFNAME": interface} if interface else {})
    return {
        **wanted,
        **given,
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_WORLD_SIZE": str(place.local_size),
    }


def join(
    place: Place,
    backend: Backend,
    device: Device,
    limit_seconds: float,
    arrive: Callable[[], None] = nowhere,
) -> Ranks:
    """Enters the launch's fresh groups. Rank 0 serves the store on the socket the parent opened.

    limit_seconds: how long a collective may take before the library gives it up; arrive: tells the
    parent that this rank waits for the others.
    """
    import torch.distributed as dist

    own: dict[str, Any] = {}
    if place.listener is not None:
        own["master_listen_fd"] = place.listener
    store = dist.TCPStore(  # type: ignore[attr-defined]
        *(place.address, place.port, place.size, place.rank == 0),
        timeout=timedelta(seconds=JOIN_SECONDS),
        **own,
    )
    limit = timedelta(seconds=limit_seconds)
    # Libraries make their communicators with it in the first collective that needs one, which ranks
    # that build or compile for a while come to at other times.
    store.set_timeout(limit)
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
        arrive=arrive,
        host=place.host,
        card=card(device.torch_device),
    )


SAME = ("torch", "python", "packages", "plug_ins", "threads", "interop_threads", "cpu_capability")
"""What a worker's environment says that must be the same of all ranks of a launch."""
OF_THE_HOST = ("interop_threads", "cpu_capability")
"""Of those what follows from a host's cores, and matters where they compute."""


def unlike(ranks: Ranks, environment: Mapping[str, Any], device: str, shared: bool) -> str:
    """Which rank has another environment or device than most, and in what; empty if none has.

    A figure of unlike devices, or of two versions of a library, would be nobody's. Which of its
    devices a host gives is its own; so is what follows from its cores, unless ranks compute on them
    (shared). All ranks say the same.
    """
    variables = {
        f"variable {name}": value
        for name, value in environment["variables"].items()
        if name not in OWN and is_common(name, value)
    }
    names = [name for name in SAME if shared or name not in OF_THE_HOST]
    told = ranks.told(
        {"device": device, **{name: environment.get(name) for name in names}, **variables}
    )
    for name in dict.fromkeys(name for facts in told for name in facts):
        values = [repr(facts[name]) if name in facts else "not set" for facts in told]
        usual, count = Counter(values).most_common(1)[0]
        if count < len(values):
            rank = next(k for k, value in enumerate(values) if value != usual)
            return (
                f"rank {rank} differs in its {name}: {values[rank]}, the others {usual}. Give all "
                "ranks the same, and run again"
            )
    return ""


def blames_peer(error: BaseException) -> bool:
    """Whether an error is what a rank sees of another's end, and none of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = any("/torch/distributed/" in frame.filename for frame in frames)
    return inside or (isinstance(error, RuntimeError) and CLOSED.search(str(error)) is not None)


def described(place: Place, backend: Backend, device: Device) -> dict[str, Any]:
    """What the record says of the world: its size, the library, its version, the links it found."""
    kind = device.torch_device.type
    hosts: dict[str, Any] = {}
    shares = 0 < place.machines < place.hosts
    if place.hosts > 1:
        hosts = {"hosts": place.hosts, "devices_per_host": place.local_size}
        hosts["launcher"] = place.launcher
        if shares:
            hosts["machines"] = place.machines
        if place.cores is not None:
            hosts["cores"] = place.cores
    alone = place.local_size == 1 and not shares
    return {
        "devices": place.size,
        **hosts,
        "library": backend.collective_library(kind),
        "shared_host": device.synchronous and not alone,
        **backend.fabric(kind, place.local_size),
    }

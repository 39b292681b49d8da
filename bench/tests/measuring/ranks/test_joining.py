"""What a rank is told of its world, and what the record says of it."""

from __future__ import annotations

import io
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
import torch
import torch.distributed as dist

from bench import catalogue
from bench.measuring.launch import Launch
from bench.measuring.messages import Channel, Place, Request
from bench.measuring.ranks import joining
from bench.records.environment import threads_given
from bench.records.run import Settings
from bench.tests.values import make_case


def placed(local_size: int = 1, **fields: Any) -> Place:
    return Place(
        rank=1,
        size=2,
        local_rank=0,
        local_size=local_size,
        parallelism="dp2",
        address="10.0.0.1",
        port=1,
        **fields,
    )


def test_ranks_of_several_hosts_talk_by_the_interface_that_joins_them() -> None:
    place = placed(host=1, hosts=2)
    given = joining.variables({"HOME": "h"}, place, 8, True, "ib0")
    assert given["GLOO_SOCKET_IFNAME"] == "ib0" and given["HOME"] == "h"
    assert (given["RANK"], given["LOCAL_RANK"], given["LOCAL_WORLD_SIZE"]) == ("1", "0", "1")
    assert given["OMP_NUM_THREADS"] == "8", "its host has no other rank"
    own = joining.variables({"GLOO_SOCKET_IFNAME": "eth7"}, place, 8, True, "ib0")
    assert own["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "GLOO_SOCKET_IFNAME" not in joining.variables({}, place, 8, True, None)
    alone = joining.variables({}, placed(2), 8, True, "ib0")
    assert alone["GLOO_SOCKET_IFNAME"] != "ib0" and alone["OMP_NUM_THREADS"] == "4"


def test_ranks_of_one_host_share_its_cores_whatever_they_compute_on() -> None:
    """Those that have devices compute the gate's float64 on the host, all at once."""
    assert joining.variables({}, placed(8), 96, False)["OMP_NUM_THREADS"] == "12"
    own = joining.variables({"OMP_NUM_THREADS": "3"}, placed(8), 96, False)
    assert own["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in joining.variables({}, placed(1, hosts=2), 96, False)


@pytest.mark.parametrize(("ranks", "threads"), [(8, "8"), (1, "64")])
def test_hosts_with_other_numbers_of_cores_give_their_ranks_equal_threads(
    ranks: int, threads: str
) -> None:
    """Those of the host that has fewest: of unlike ranks no launch has a figure."""
    for host, cores in enumerate((64, 128)):
        place = placed(ranks, hosts=2, host=host, cores=64)
        assert joining.variables({}, place, cores, False)["OMP_NUM_THREADS"] == threads
        own = joining.variables({"OMP_NUM_THREADS": "3"}, place, cores, False)
        assert own["OMP_NUM_THREADS"] == "3"
        world = joining.described(place, BACKEND, DEVICE)
        assert threads_given({"world": world | {"devices": 2 * ranks}}, cores, False) == {
            "OMP_NUM_THREADS": threads
        }
    assert "cores" not in joining.described(placed(ranks, hosts=2), BACKEND, DEVICE)


def test_a_collective_may_take_its_time_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some libraries ask the store within it, long after all have come."""
    stores: list[Any] = []
    made = dist.TCPStore  # type: ignore[attr-defined]

    def kept(*args: Any, **options: Any) -> Any:
        stores.append(made(*args, **options))
        return stores[-1]

    monkeypatch.setattr(dist, "TCPStore", kept)
    device: Any = SimpleNamespace(torch_device=torch.device("cpu"))
    place = msgspec.structs.replace(placed(), rank=0, size=1, address="127.0.0.1", port=0)
    try:
        joining.join(place, catalogue.backend("cpu"), device, 100.0)
        assert [store.timeout for store in stores] == [timedelta(seconds=100)]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("place", "shared"),
    [
        (placed(2), True),
        (placed(1, hosts=2, host=1), False),
        (placed(1, hosts=2, host=1, machines=1), True),
        (placed(2, hosts=2, host=1), True),
    ],
)
def test_hosts_that_compute_for_one_rank_alone_are_not_shared(place: Place, shared: bool) -> None:
    device: Any = SimpleNamespace(torch_device=SimpleNamespace(type="cpu"), synchronous=True)
    backend: Any = SimpleNamespace(
        collective_library=lambda kind: "gloo", fabric=lambda kind, count: {"links of": count}
    )
    said = joining.described(place, backend, device)
    assert said["links of"] == place.local_size, "what joins the devices of one host"
    assert said["shared_host"] is shared
    hosts = {name: said.get(name) for name in ("hosts", "devices_per_host")}
    assert hosts["hosts"] == (2 if place.hosts == 2 else None)
    assert hosts["devices_per_host"] == (place.local_size if place.hosts == 2 else None)


DEVICE: Any = SimpleNamespace(torch_device=SimpleNamespace(type="cuda"), synchronous=False)
BACKEND: Any = SimpleNamespace(collective_library=str, fabric=lambda kind, count: {})


def test_containers_of_one_machine_are_recorded_as_such() -> None:
    """Two pods with four GPUs each, on one node: a link between them never left it."""
    apart, together, alone = (
        joining.described(place, BACKEND, DEVICE)
        for place in (placed(1, hosts=2), placed(1, hosts=2, machines=1), placed(2, machines=1))
    )
    assert together == {**apart, "machines": 1}
    assert "machines" not in alone


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"RANK": "1", "NVIDIA_VISIBLE_DEVICES": "GPU-5"}, ""),  # each pod names its own
        ({"RANK": "1", "TRITON_CACHE_DIR": "triton-node2", "TORCH_HOME": "node2"}, ""),
        ({"RANK": "1", "NCCL_IB_HCA": "mlx5_2", "UCX_NET_DEVICES": "mlx5_2:1"}, ""),
        ({"RANK": "1", "ZE_AFFINITY_MASK": "3"}, ""),
        ({"RANK": "1", "ZE_AFFINITY_MASK": "3.1"}, "rank 1 differs in its variable ZE_AFFINITY"),
        (
            {"RANK": "1", "NCCL_ALGO": "Ring", "TRITON_CACHE_DIR": "triton-node2"},
            "rank 1 differs in its variable NCCL_ALGO: 'Ring', the others not set. Give all",
        ),
    ],
)
def test_ranks_may_differ_in_their_hosts_devices_and_folders(
    there: dict[str, str], said: str
) -> None:
    folder = {"TRITON_CACHE_DIR": "triton-node1"}
    given = [{"RANK": "0", "NVIDIA_VISIBLE_DEVICES": "GPU-4", **folder}, there]
    words: list[Any] = []

    def told(mine: Any) -> list[Any]:
        words.append(mine)
        return words

    def asked(variables: dict[str, str]) -> str:
        ranks: Any = SimpleNamespace(told=told)
        return joining.unlike(ranks, {"variables": variables}, "NVIDIA X", shared=False)

    assert asked(given[0]) == "", "alone"
    found = asked(given[1])
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("interop_threads", 32, 64), ("cpu_capability", "AVX512", "AVX2")],
)
@pytest.mark.parametrize("shared", [False, True])
def test_what_a_host_has_decides_only_where_it_computes(
    shared: bool, name: str, first: object, second: object
) -> None:
    """torch's threads between operators, and what its cores can."""
    told: list[Any] = []

    def asked(value: object) -> str:
        def all_say(mine: Any) -> list[Any]:
            told.append(mine)
            return told

        ranks: Any = SimpleNamespace(told=all_say)
        environment = {"variables": {}, "threads": 8, name: value}
        return joining.unlike(ranks, environment, "NVIDIA X", shared=shared)

    assert asked(first) == ""
    found = asked(second)
    assert bool(found) == shared and (f"its {name}: " in found) == shared


def test_a_card_is_one_name_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {0: SimpleNamespace(uuid="ab", pci_bus_id=5), 1: SimpleNamespace(name="unnamed")}
    module = SimpleNamespace(get_device_properties=lambda device: properties[device.index])
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(joining, "machine", lambda: "this one")
    assert joining.card(torch.device("meta:0")) == "this one ab 5"
    assert joining.card(torch.device("meta:1")) == "", "nothing tells it from others"
    assert joining.card(torch.device("meta:2")) == "", "it does not answer"


def test_memory_and_a_lost_device_are_a_ranks_own_wherever_they_are_noticed() -> None:
    """FSDP2 allocates inside torch.distributed; an error of a link between cards speaks of a
    peer."""

    def blames(error: Exception) -> bool:
        asked = Request(
            case=make_case(), backend="cuda", index=0, settings=Settings(), samples=10, seed=0
        )
        launch = Launch(asked, Channel(io.BytesIO()))
        launch.backend, launch.ranks = catalogue.backend("cuda"), Mock()
        inside = compile("raise error", "/lib/torch/distributed/fsdp/collectives.py", "exec")
        with pytest.raises(type(error)) as caught:
            exec(inside, {"error": error})
        launch._outcome_of(caught.value)
        return launch.blames_peer

    assert not blames(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not blames(RuntimeError("CUDA error: Invalid access of peer GPU memory over nvlink"))
    assert blames(RuntimeError("Connection closed by peer [127.0.0.1]:1"))
    assert blames(ValueError("of somebody else's end"))

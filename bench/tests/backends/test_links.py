"""What joins devices, as the vendors' software says it: fakes of torch, NVML and pyACL."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import catalogue
from bench.backends import _links, _nvml, ascend
from bench.records import environment


def module(reach: Any, version: Any = (2, 27, 5)) -> Any:
    return SimpleNamespace(
        can_device_access_peer=reach, nccl=SimpleNamespace(version=lambda: version)
    )


def test_peer_access_is_counted_both_ways() -> None:
    assert _links.peers(module(lambda a, b: True), 4) == "peer access in 6 of 6 pairs"
    assert _links.peers(module(lambda a, b: a < b), 4) == "peer access in 0 of 6 pairs"
    assert _links.peers(module(lambda a, b: a + b == 1), 3) == "peer access in 1 of 3 pairs"


def test_what_a_runtime_does_not_say_is_said() -> None:
    def fail(first: int, second: int) -> bool:
        raise RuntimeError("no such call\nand more")

    assert _links.peers(module(fail), 2) == "peer access not observable: no such call"
    assert _links.peers(SimpleNamespace(), 2).startswith("peer access not observable: torch")


def test_the_librarys_version() -> None:
    assert _links.version(module(None)) == "2.27.5"
    assert _links.version(SimpleNamespace()) == ""


class Nvml(SimpleNamespace):
    """Four GPUs of a server: two pairs with NVLink between them."""

    class NVMLError(Exception):
        pass

    NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK = 2, 0
    NVML_NVLINK_MAX_LINKS, NVML_FEATURE_ENABLED = 4, 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return int(uuid)

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:  # noqa: N802
        if link > 2:
            raise self.NVMLError("no such link")
        return int(link < 2)

    def nvmlDeviceGetP2PStatus(self, first: int, second: int, index: int) -> int:  # noqa: N802
        assert index == 2
        return 0 if first // 2 == second // 2 else 5

    def nvmlDeviceGetTopologyCommonAncestor(self, first: int, second: int) -> int:  # noqa: N802
        return 50 if {first, second} == {0, 3} else 40


def test_nvml_tells_links_and_levels() -> None:
    said = _nvml.links(Nvml(), ["0", "1", "2", "3"])
    assert said == (
        "one NUMA node in 3 pairs, NVLink in 2, the link between sockets in 1; 2 NVLinks up on each"
    )


def test_nvml_that_does_not_say() -> None:
    def refuse(*_: Any) -> int:
        raise Nvml.NVMLError("Not Supported")

    nvml = Nvml(nvmlDeviceGetP2PStatus=refuse)
    assert _nvml.links(nvml, ["0", "1"]) == "links not observable: Not Supported"


def test_ascendcl_tells_what_joins_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages of two dies."""
    topo = {(0, 1): 0x20, (2, 3): 0x20}
    runtime = SimpleNamespace(get_devices_topo=lambda a, b: (topo.get((a, b), 0x40), 0))
    monkeypatch.setitem(sys.modules, "acl", SimpleNamespace(rt=runtime))
    assert ascend.acl_links(4) == "an HCCS switch in 4 pairs, SIO (one package) in 2"
    runtime.get_devices_topo = lambda a, b: (0, 507899)
    assert ascend.acl_links(2) == "links not observable: aclrtGetDevicesTopo gives 507899"
    monkeypatch.setitem(sys.modules, "acl", None)
    assert ascend.acl_links(2).startswith("links not observable: ")


@pytest.mark.parametrize(
    ("backend", "kind", "library"),
    [("cpu", "cpu", "gloo"), ("cuda", "cuda", "nccl"), ("rocm", "cuda", "nccl")],
)
def test_each_backend_has_its_library(backend: str, kind: str, library: str) -> None:
    assert catalogue.backend(backend).collective_library(kind) == library


@pytest.mark.parametrize(("name", "library"), [("cuda", "nccl"), ("rocm", "rccl")])
def test_what_a_library_reads_from_its_files_is_among_a_workers_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    """Which it sets by itself, unseen by Python; what is set goes before its files."""
    backend = catalogue.backend(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def seen(**given: str) -> dict[str, str]:
        return environment.variables(backend.recorded_variables(), backend.heeded(given))

    assert seen(NCCL_ALGO="Ring") == {"NCCL_ALGO": "Ring"}
    users = tmp_path / f".{library}.conf"
    users.write_text("#NCCL_DEBUG=INFO\nNCCL_ALGO=Tree\nNCCL_PROTO=LL\nno line\nHOME=planted\n")
    assert seen(NCCL_ALGO="Ring") == {"NCCL_ALGO": "Ring", "NCCL_PROTO": "LL"}
    other = tmp_path / "other.conf"
    other.write_text("NCCL_PROTO=Simple")
    chosen = {"NCCL_CONF_FILE": str(other)}
    assert seen(**chosen) == {"NCCL_CONF_FILE": "other.conf", "NCCL_PROTO": "Simple"}
    assert catalogue.backend("cpu").heeded(chosen) == chosen

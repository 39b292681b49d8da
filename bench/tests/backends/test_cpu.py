"""The CPU: what it lacks, how its memory is kept and its peak read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import catalogue
from bench.backend import DeviceInfo, supported_precisions
from bench.precision import PRECISIONS


def test_cpu_refuses_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.backends import cpu

    device = cpu.CpuDevice(DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1))
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2"})
    narrow = {"fp8-row", "fp8-block128", "mxfp8", "mxfp4", "nvfp4"}  # torch has no operator here
    answers = supported_precisions(cpu.BACKEND, device.info)
    assert {name for name, reason in answers.items() if reason} == {
        *("fp16", "tf32", "fp8"),
        *narrow,
    }
    assert "no fp16 arithmetic" in str(answers["fp16"])
    assert "no fp8 arithmetic" in str(answers["fp8"])
    assert device.facts() == {"instructions": "avx2"}
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"amx_fp16", "amx_fp8"})
    answers = supported_precisions(cpu.BACKEND, device.info)
    assert {name for name, reason in answers.items() if reason} == {"tf32", *narrow} - {"fp8-row"}


@pytest.mark.parametrize("kind", ["fp16", "fp8"])
def test_what_a_system_does_not_say_of_a_cpu_is_not_known(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is not that the CPU has none."""
    from bench.backends import cpu

    info = DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1)
    monkeypatch.setattr(cpu, "cpu_flags", set)
    said = cpu.BACKEND.unsupported(info, PRECISIONS[kind])
    assert said and said.startswith(f"whether this CPU has {kind} arithmetic")
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"fphp"})
    assert bool(cpu.BACKEND.unsupported(info, PRECISIONS[kind])) == (kind == "fp8")


def test_cpu_keeps_big_blocks_in_the_heap() -> None:
    """Or page faults cost ResNet-50 half its speed; the torch plug-ins of vendors stay away."""
    found = catalogue.backend("cpu").worker_environment()
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) >= 2**30
    assert int(found["MALLOC_TRIM_THRESHOLD_"]) > int(found["MALLOC_MMAP_THRESHOLD_"])
    assert found["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_a_peak_that_cannot_be_reset_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without /proc/self/clear_refs, or another system."""
    from bench.backends import cpu

    device = cpu.CpuDevice(DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1))

    def refused(*_: Any, **__: Any) -> int:
        raise PermissionError("clear_refs")

    monkeypatch.setattr(Path, "write_text", refused)
    device.reset_peak_memory()
    assert device.memory().scope == "process RSS since its start"


GIB = 2**30


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": 8, "memory.current": 5, "memory.stat": "inactive_file {}"}, 4),
        ({"memory.max": 8, "memory.current": 7, "memory.stat": "active_file {}\nsock {}"}, 2),
        (
            {
                "memory.limit_in_bytes": 8,
                "memory.usage_in_bytes": 5,
                "memory.stat": "inactive_file 0\ntotal_inactive_file {}\ntotal_rss {}",
            },
            4,
        ),
        ({"memory.max": 8}, 8),
        ({"memory.max": 8, "memory.current": 9, "memory.stat": "anon {}"}, 0),
        ({"memory.max": "max", "memory.current": 5, "memory.stat": "anon {}"}, 200),
    ],
    ids=["v2", "what was read lately", "v1", "only a limit", "above it", "no limit"],
)
def test_what_a_container_uses_already_is_not_left(
    files: dict[str, int | str], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GiB, of a host that has 200 of them; what the kernel would give up for the asking is left."""
    import psutil

    from bench.backends import cpu

    for name, text in files.items():
        filled = text.replace("{}", str(GIB)) if isinstance(text, str) else str(text * GIB)
        (tmp_path / name).write_text(f"{filled}\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * GIB))
    monkeypatch.setattr(cpu, "groups", lambda controller: [(0, tmp_path)])
    device = cpu.CpuDevice(DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1))
    assert device.capacity_bytes() == left * GIB

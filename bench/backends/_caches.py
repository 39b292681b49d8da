"""How large an accelerator's last-level cache is, by torch or by the driver of who makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

NODES = Path("/sys/class/kfd/kfd/topology/nodes")
NAMES = ("L2_cache_size", "last_level_cache_size")
"""In torch's properties of a device: of CUDA and torch_npu, and of XPU. Bytes."""


def said(properties: Any) -> dict[str, str]:
    """By torch, as a fact of the device: `last_level_cache_bytes`; nothing where it is not said.

    properties: of `get_device_properties`, or None.
    """
    sizes = (getattr(properties, name, None) for name in NAMES)
    return _fact(max((size for size in sizes if isinstance(size, int)), default=0))


def of_kfd(nodes: Path = NODES) -> dict[str, str]:
    """The same of AMD's: the largest of the highest level that any GPU here has, which torch's
    properties leave out. Source: Linux, amdkfd/kfd_topology.c, kfd_cache_show; sizes in KiB."""
    return _fact(max(_caches(nodes), default=(0, 0))[1] * 2**10)


def _caches(nodes: Path) -> Iterator[tuple[int, int]]:
    """Level and KiB of each cache of the GPUs: a CPU's node has the id 0."""
    for node in nodes.glob("*"):
        with suppress(OSError, ValueError):  # none that we may read
            if int((node / "gpu_id").read_text(encoding="ascii")):
                for path in node.glob("caches/*/properties"):
                    of = dict(re.findall(r"^(\w+) (\d+)$", path.read_text(encoding="ascii"), re.M))
                    yield int(of.get("level", 0)), int(of.get("size", 0))


def _fact(size: int) -> dict[str, str]:
    return {"last_level_cache_bytes": str(size)} if size > 0 else {}

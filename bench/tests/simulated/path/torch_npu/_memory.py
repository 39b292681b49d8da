"""The memory of a device, counted: a caching allocator with a limit, and what it says when full.

Blocks are rounded up to 512 bytes. Freed memory stays reserved for the process until it is wanted
or `empty_cache` hands it back, as in torch's own caching allocators. What is taken while a graph is
recorded comes of the graph's own pool: freed, it is reserved for as long as the graph lives, and
nobody else's.
"""

from __future__ import annotations

import threading

import torch

from ._settings import SETTINGS

BLOCK_BYTES = 512


class Pool:
    """Bytes that are taken apart from others."""

    def __init__(self, of_graph: bool) -> None:
        self.of_graph = of_graph
        """Whether a graph that lives keeps what is reserved."""
        self.allocated = self.reserved = 0

    @property
    def needed(self) -> int:
        """What cannot be handed back."""
        return self.reserved if self.of_graph else self.allocated


class Memory:
    """Bytes of one device."""

    def __init__(self, index: int, total: int) -> None:
        self.index = index
        self.total = total
        self.shared = Pool(of_graph=False)
        self._pools = [self.shared]
        self.allocated_peak = self.reserved_peak = 0
        self.out_of_memory = 0
        """How often it was."""
        self._lock = threading.RLock()  # a garbage collection within `allocate` may free

    @property
    def allocated(self) -> int:
        """What tensors have."""
        return sum(pool.allocated for pool in self._pools)

    @property
    def reserved(self) -> int:
        """What the process has."""
        return sum(pool.reserved for pool in self._pools)

    def new_pool(self) -> Pool:
        """Of a graph that is to be recorded."""
        with self._lock:
            self._pools.append(pool := Pool(of_graph=True))
        return pool

    def let_go(self, pool: Pool) -> None:
        """Its graph has ended: what is free of it can be handed back."""
        with self._lock:
            pool.of_graph = False

    def allocate(self, size: int, pool: Pool) -> int:
        """Takes a block of a pool; gives its rounded size. Raises torch.OutOfMemoryError."""
        block = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        with self._lock:
            more = max(pool.needed, pool.allocated + block) - pool.needed
            if sum(one.needed for one in self._pools) + more > self.total:
                self.out_of_memory += 1
                if "oom-words" in SETTINGS.broken:
                    raise RuntimeError("no room [simulated]")
                raise torch.OutOfMemoryError(self._full(block))
            pool.allocated += block
            pool.reserved = max(pool.reserved, pool.allocated)
            # The cache is given up before an allocation fails, so it never counts against one.
            if self.reserved > self.total:
                self._hand_back()
            if "fixed-peaks" not in SETTINGS.broken:
                self.allocated_peak = max(self.allocated_peak, self.allocated)
                self.reserved_peak = max(self.reserved_peak, self.reserved)
        return block

    def free(self, block: int, pool: Pool) -> None:
        """Back into the cache, or to the graph."""
        with self._lock:
            pool.allocated -= block

    def empty_cache(self) -> None:
        """What is free goes back to the system, but for what graphs keep."""
        with self._lock:
            if "kept-cache" not in SETTINGS.broken:
                self._hand_back()

    def _hand_back(self) -> None:
        for pool in self._pools:
            pool.reserved = pool.needed
        self._pools = [p for p in self._pools if p is self.shared or p.of_graph or p.reserved]

    def reset_peaks(self) -> None:
        """Peaks start again from what is in use."""
        with self._lock:
            if "kept-peaks" not in SETTINGS.broken:
                self.allocated_peak, self.reserved_peak = self.allocated, self.reserved

    def statistics(self) -> dict[str, int]:
        """In torch's own words, as `torch.accelerator.memory_stats` gives them."""
        counters = {
            "allocated_bytes.all": (self.allocated, self.allocated_peak),
            "reserved_bytes.all": (self.reserved, self.reserved_peak),
        }
        found = {"num_ooms": self.out_of_memory}
        for name, (now, peak) in counters.items():
            found[f"{name}.current"], found[f"{name}.peak"] = now, peak
        return found

    def _full(self, block: int) -> str:
        def size(count: int) -> str:
            big = count >= 2**30
            return f"{count / (2**30 if big else 2**20):.2f} {'GiB' if big else 'MiB'}"

        return (
            f"NPU out of memory. Tried to allocate {size(block)} (NPU {self.index}; "
            f"{size(self.total)} total capacity; {size(self.allocated)} already allocated; "
            f"{size(self.allocated)} current active; {size(self.total - self.reserved)} free; "
            f"{size(self.reserved)} reserved in total by PyTorch) If reserved memory is >> "
            "allocated memory try setting max_split_size_mb to avoid fragmentation."
        )

"""The memory of a device, counted: a caching allocator with a limit, and what it says when full.

Blocks are rounded up to 512 bytes. Freed memory stays reserved for the process until it is wanted
or `empty_cache` hands it back, as in torch's own caching allocators.
"""

from __future__ import annotations

import threading

import torch

from ._settings import SETTINGS

BLOCK_BYTES = 512


class Memory:
    """Bytes of one device."""

    def __init__(self, index: int, total: int) -> None:
        self.index = index
        self.total = total
        self.allocated = self.allocated_peak = 0
        self.reserved = self.reserved_peak = 0
        self.out_of_memory = 0
        """How often it was."""
        self._lock = threading.RLock()  # a garbage collection within `allocate` may free

    def allocate(self, size: int) -> int:
        """Takes a block; gives its rounded size. Raises torch.OutOfMemoryError."""
        block = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        with self._lock:
            if self.allocated + block > self.total:
                self.out_of_memory += 1
                if "oom-words" in SETTINGS.broken:
                    raise RuntimeError("no room [simulated]")
                raise torch.OutOfMemoryError(self._full(block))
            self.allocated += block
            # The cache is given up before an allocation fails, so it never counts against one.
            self.reserved = min(max(self.reserved, self.allocated), self.total)
            if "fixed-peaks" not in SETTINGS.broken:
                self.allocated_peak = max(self.allocated_peak, self.allocated)
                self.reserved_peak = max(self.reserved_peak, self.reserved)
        return block

    def free(self, block: int) -> None:
        """Back into the cache."""
        with self._lock:
            self.allocated -= block

    def empty_cache(self) -> None:
        """What is free goes back to the system."""
        with self._lock:
            if "kept-cache" not in SETTINGS.broken:
                self.reserved = self.allocated

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

"""How many threads a float64 reference is computed with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.workload import Workload


def needs_one(workload: Workload) -> bool:
    """Whether it is made of convolutions, which torch's float64 kernels compute image by image: the
    reference of ResNet-50 takes a second and a half on one thread, and eight seconds on two."""
    return "channels_last" in workload.memory_formats


@contextlib.contextmanager
def for_reference(workload: Workload) -> Iterator[None]:
    """One thread, where more are slower; then as many as before."""
    import torch

    before = torch.get_num_threads()
    if not needs_one(workload) or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

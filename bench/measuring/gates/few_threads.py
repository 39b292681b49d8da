"""How many threads a float64 reference is computed with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.workload import Workload


@contextlib.contextmanager
def for_reference(workload: Workload) -> Iterator[None]:
    """One thread for what is made of convolutions, which torch's float64 kernels compute image by
    image: the reference of ResNet-50 takes a second and a half on one thread, and eight seconds on
    two. Then as many as before."""
    import torch

    before = torch.get_num_threads()
    if "channels_last" not in workload.memory_formats or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""How a float64 reference is computed: as the libraries do it without a vendor's software.

diffusers and transformers ask in places whether a vendor's package is installed, and take its
functions where it is, whatever device the tensors at hand are on. A reference on the CPU then fails
in a function that has no kernel there, or has the vendor's own approximation in it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from bench.workload import Workload


@contextmanager
def answered_no(names: Collection[str]) -> Iterator[None]:
    """Has every loaded module's function of these names return False.

    So, too, where a module has kept the answer, under the name with an underscore before it: as a
    value, in `_name`.
    """
    held: list[tuple[ModuleType, str, Any]] = []
    for module in [m for m in sys.modules.values() if isinstance(m, ModuleType)]:
        for name in names:
            for word in (name, f"_{name}"):
                before = vars(module).get(word)  # no getattr: a lazy module would import
                if callable(before) or isinstance(before, bool):
                    held.append((module, word, before))
    for module, word, before in held:
        setattr(module, word, (lambda *_, **__: False) if callable(before) else False)
    try:
        yield
    finally:
        for module, word, before in held:
            setattr(module, word, before)


@contextmanager
def few_threads(workload: Workload) -> Iterator[None]:
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

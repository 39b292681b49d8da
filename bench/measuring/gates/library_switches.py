"""Libraries' questions after a vendor's software, answered no while a reference is computed.

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

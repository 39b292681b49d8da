"""What torch_npu says by C++: written to descriptor 2, so that Python's `warnings` sees nothing."""

from __future__ import annotations

import os
import time

_said: set[str] = set()


def warn_once(place: str, text: str, function: str) -> None:
    """One line in the form of c10's warnings, the first time that `text` comes up.

    Like the real one, silent under TORCH_NPU_WARNING_DISABLE=1 or TORCH_NPU_DISABLED_WARNING=1.
    """
    disabled = ("TORCH_NPU_WARNING_DISABLE", "TORCH_NPU_DISABLED_WARNING")
    if text in _said or any(os.environ.get(name) == "1" for name in disabled):
        return
    _said.add(text)
    now = time.time()
    stamp = time.strftime("%-m%d %H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}"
    os.write(2, f"[W{stamp} {place}] Warning: {text} (function {function})\n".encode())

"""Versions of the matrix libraries that this process has loaded, as they say themselves; and the
library that a process lacks.

torch's version does not tell them: its packages take whichever is installed.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

MAPS = Path("/proc/self/maps")
LONGEST = 256
"""Bytes of a version in words."""
MISSING_LIBRARY = re.compile(r"(\S+\.so[\w.]*): cannot open shared object file")


def versions(**calls: str) -> dict[str, str]:
    """`cublas="cublasGetProperty"`: `{"cublas": "13.4.1"}`, the library being libcublas; of those
    that are loaded, have that call, and answer it."""
    found = {}
    for fact, call in calls.items():
        with suppress(Exception):  # a vendor's library is as it likes; nothing else depends on it
            found[fact] = _version(f"lib{fact}", call)
    return found


def _version(name: str, call: str) -> str:
    """Raises whatever it raises where it cannot be said."""
    (path,) = {*re.findall(rf"/.*/{name}\.so[.\d]*$", MAPS.read_text(), re.MULTILINE)}
    ask = getattr(ctypes.CDLL(path), call)
    if call.endswith("_string"):
        text = ctypes.create_string_buffer(LONGEST)
        failed = ask(text, ctypes.c_size_t(LONGEST))
        said = text.value.decode()
    else:
        parts = [ctypes.c_int() for _ in range(3)]  # libraryPropertyType: major, minor, patch
        failed = any(ask(which, ctypes.byref(part)) for which, part in enumerate(parts))
        said = ".".join(str(part.value) for part in parts)
    if failed:
        raise OSError(call)
    return said


def missing_library(error: BaseException | None) -> str | None:
    """The shared library for want of which an import failed, by the error or one that caused it."""
    while error is not None:
        if found := MISSING_LIBRARY.search(str(error)):
            return found[1]
        error = error.__cause__ or error.__context__
    return None

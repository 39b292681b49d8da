"""What the libraries of a CPU did, read from what they say of a small job: nothing has a getter.

A variable may forbid instructions that the machine has, and give fewer threads than torch counts:
the machine's flags and torch's numbers are what could be, not what is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

INSTRUCTIONS = "instructions_used"
ABSENT = "not observable"
LOOP_SECONDS = 0.1
SETTLE_SECONDS = 0.02
LEAST_SHARE = 0.1
"""A thread that ran for less than this share of what the busiest did had no part in the loop."""
PRIMITIVE = re.compile(r"^onednn_verbose,.*?exec,cpu,(matmul|convolution|inner_product),([^,]*),")
SOURCE = re.compile(r"[, ]src(?:_|:)(\w+?):")
"""The type of what a primitive reads, in versions 2 (`src_f32::`) and 3 (`src:f32::`)."""
CHOSEN = re.compile(r"^onednn_verbose,.*?info,cpu,isa:(.*)$")
NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
"""oneDNN's name of a type, and ours."""


def libraries() -> dict[str, str]:
    """The instructions that oneDNN chose for each precision, the widest that it may use, and the
    threads that ran. What cannot be read says why.

    (Products of float32 go to another library on many a machine, which does not say.) Runs a
    product and a convolution of each precision; changes this
    process's stdout meanwhile.
    """
    found: dict[str, str] = {}
    try:
        found |= instructions(_said_of_a_small_job())
    except Exception as error:  # noqa: BLE001 - whatever a library does, it is no figure
        found[INSTRUCTIONS] = f"{ABSENT}: {type(error).__name__}: {error}".splitlines()[0]
    try:
        found["threads_used"] = str(_threads_of_a_loop())
    except (OSError, ValueError, IndexError, ImportError):
        found["threads_used"] = f"{ABSENT}: this system does not say how long each thread ran"
    return found


def instructions(lines: Iterable[str]) -> dict[str, str]:
    """Facts from oneDNN's verbose lines; `not observable` where it says nothing."""
    used: dict[str, dict[str, None]] = {name: {} for name in NAMES.values()}
    facts: dict[str, str] = {}
    for line in lines:
        if chosen := CHOSEN.match(line):
            facts["onednn_isa"] = chosen[1].strip()
        primitive, source = PRIMITIVE.match(line), SOURCE.search(line)
        if primitive and source and source[1] in NAMES:
            used[NAMES[source[1]]][_instructions_of(primitive[2])] = None
    if not facts:
        return {INSTRUCTIONS: f"{ABSENT}: oneDNN says nothing of itself"}
    words = [f"{name} {' '.join(chosen) or 'not by oneDNN'}" for name, chosen in used.items()]
    return {INSTRUCTIONS: ", ".join(words), **facts}


def _instructions_of(implementation: str) -> str:
    """`avx512_core` of `brg_matmul:avx512_core`; of `ref:any`, which names none, all of it."""
    name, _, instructions = implementation.rpartition(":")
    return implementation if instructions in ("any", "") or not name else instructions


def _said_of_a_small_job() -> list[str]:
    import torch

    mkldnn = torch.backends.mkldnn
    if not mkldnn.is_available():
        raise RuntimeError("this torch has no oneDNN")
    with _stdout() as lines, mkldnn.verbose(mkldnn.VERBOSE_ON):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with contextlib.suppress(RuntimeError):  # a precision that this torch does not multiply
                square = torch.ones(128, 128, dtype=dtype)
                torch.mm(square, square)
                images = torch.ones(4, 32, 16, 16, dtype=dtype)
                torch.conv2d(images, torch.ones(32, 32, 3, 3, dtype=dtype))
    return lines


def _threads_of_a_loop() -> int:
    """How many threads had a share in a loop of torch's own, by the time that each ran.

    Every thread of such a loop has the same to do. Pools may have been made before, and not for it.
    """
    import torch

    values = torch.ones(2**22)
    before = _ran_ns()
    end = time.monotonic() + LOOP_SECONDS
    while time.monotonic() < end:
        values.add_(1)
    time.sleep(SETTLE_SECONDS)  # a thread that spins until now is counted at the kernel's next tick
    rises = [ran - before.get(thread, 0) for thread, ran in _ran_ns().items()]
    return sum(rise > LEAST_SHARE * max(rises) for rise in rises)


@contextlib.contextmanager
def _stdout() -> Iterator[list[str]]:
    """What is written to file descriptor 1 meanwhile, C libraries included; filled at the end."""
    lines: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode("utf-8", errors="replace").splitlines()


def _ran_ns() -> dict[str, int]:
    """First figure of schedstat, of each thread of this process: nanoseconds that it ran."""
    tasks = Path("/proc/self/task")
    return {t.name: int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()}

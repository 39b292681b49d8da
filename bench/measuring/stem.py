"""A process that has imported what launches need, and is forked into one of each case.

Importing takes longer than many a measurement, and every launch of a model would do it again. A
launch that is forked from here holds what it would have imported itself, and nothing else: no
device is opened here, no tensor made, no thread of torch started. Layout of memory and order of
hashes are drawn when a process starts; so that a case's launches stay independent draws of them,
no two launches of a case come from one stem, nor from two of which one grew from the other
(`bench.running.stems`).

Started with a descriptor of a socket; hears an `Order` and says `Ready`, or ends where importing
left something behind that a fork would share: a descriptor, a variable. Then at each word it forks
a launch that gets the descriptors that came with it: stdin, stdout, stderr, and its lifeline; or
another stem, which imports more and has a socket and a lifeline of its own. It says the process id
of each, and later how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import socket
import sys
import time
import warnings
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import msgspec

from bench import catalogue, lifeline
from bench.measuring import kept, worker
from bench.measuring.surroundings import hide_plug_ins
from bench.records import environment

AVAILABLE = lifeline.tells_ends()
COMMON = {
    "torch": ("torch",),
    "torch._dynamo": ("torch", "torch._dynamo"),
    "transformers": ("torch", "torch._dynamo", "transformers.modeling_utils"),
    "diffusers": ("torch", "torch._dynamo", "diffusers.models.transformers.dit_transformer_2d"),
}
"""What is imported here for a library, each in a stem that grows from the one before: what the last
one imports is what it would import alone, and stems of others share the way to it. The launch
imports the rest. Of several libraries the last of these counts."""
OWN = ("bench.measuring.gates.numerics", "bench.measuring.gates.rank_numerics")
"""What a launch imports of this program after the libraries."""
FORK, GROW = b"fork", b"grow"
STREAMS = 3
PAGE = 4096 if not AVAILABLE else os.sysconf("SC_PAGE_SIZE")
MESSAGE_BYTES = 4096


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a stem is to import."""

    backend: str
    libraries: tuple[str, ...]
    scratch: str | None = None


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """It has."""


class Born(msgspec.Struct, frozen=True, kw_only=True, tag="born"):
    """A launch."""

    pid: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """A launch, with its exit code; less than nothing where a signal ended it."""

    pid: int
    code: int


Word = Ready | Born | Ended


def common(libraries: tuple[str, ...]) -> tuple[str, ...]:
    """What is imported for a launch that needs these, stem by stem; nothing where that is not worth
    one."""
    found: tuple[str, ...] = ()
    for library, modules in COMMON.items():
        if any(f"{name}.".startswith(f"{library}.") for name in libraries):
            found = modules
    return found


def main() -> NoReturn:
    """The process: `python -m bench.measuring.stem DESCRIPTOR`."""
    own = lifeline.hold()
    gc.disable()
    parent = socket.socket(fileno=int(sys.argv[1]))
    serve(parent, own, dict(os.environ), 0.0)


def serve(
    parent: socket.socket, own: tuple[int, ...], variables: dict[str, str], before: float
) -> NoReturn:
    """A stem, until its parent closes the socket.

    own: ends of its lifeline; variables: those that a launch is to have; before: seconds that
    importing took of those that this one grew from.
    """
    seconds = imported(msgspec.json.decode(parent.recv(MESSAGE_BYTES), type=Order))
    if seconds is None:
        os._exit(1)
    seconds += before
    gc.collect()
    gc.freeze()  # forks need not look through it, and do not copy what would be marked
    pages = file_pages()
    say(parent, Ready())
    held = {parent.fileno(), *own}
    left: list[int] = []
    """Children that have ended, and keep their process ids until the parent asks for another."""
    with selectors.DefaultSelector() as selector:
        selector.register(parent, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not parent:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    say(parent, ended(key.data))
                    left.append(key.data)
                    continue
                word, descriptors, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, STREAMS + 1)
                if not word:
                    with contextlib.suppress(ChildProcessError):  # PID 1 may reap nobody else's
                        while os.waitpid(-1, os.WNOHANG)[0]:
                            pass
                    os._exit(0)
                while left:
                    os.waitpid(left.pop(), 0)
                pid = fork()
                if not pid:
                    watched = {k.fd for k in selector.get_map().values()}
                    for descriptor in (held | watched | {selector.fileno()}) - set(descriptors):
                        os.close(descriptor)
                    if word == FORK:
                        become(descriptors, variables, seconds, pages)
                    grow(descriptors, variables, seconds, pages)
                for descriptor in descriptors:
                    os.close(descriptor)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                say(parent, Born(pid=pid))


def grow(
    descriptors: list[int], variables: dict[str, str], seconds: float, pages: list[int]
) -> NoReturn:
    """A stem of its own, in this fork. descriptors: its socket, and its lifeline's end if any."""
    os.setsid()
    for end in descriptors[1:]:
        os.environ[lifeline.VARIABLE] = str(end)
    own = lifeline.hold()
    touch(pages)
    serve(socket.socket(fileno=descriptors[0]), own, variables, seconds)


def imported(order: Order) -> float | None:
    """Seconds that it took; None where it failed, or a fork would share what it left behind."""
    backend = catalogue.backend(order.backend)
    hide_plug_ins(backend)
    kept.keep_compiled(order.scratch)
    before = dict(os.environ), _descriptors()
    start = time.perf_counter()
    try:
        for library in order.libraries:
            importlib.import_module(library)
    except Exception:  # noqa: BLE001 - a launch of its own says it better
        return None
    seconds = time.perf_counter() - start
    environment.package_versions()  # kept, for all that is forked from here
    for module in OWN:
        importlib.import_module(module)
    return seconds if before == (dict(os.environ), _descriptors()) else None


def _descriptors() -> dict[str, str]:
    """That are open, and on what."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that this is read by
            found[path.name] = str(path.readlink())
    return found


def say(parent: socket.socket, word: Word) -> None:
    """Tells the parent, if it is there."""
    try:
        parent.send(msgspec.json.encode(word))
    except OSError:
        os._exit(0)


def ended(pid: int) -> Ended:
    """How a launch ended, which goes on to have its process id."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    return Ended(pid=pid, code=code)


def fork() -> int:
    """As `os.fork`. Threads that libraries of numbers keep for themselves are theirs to start anew
    in a fork, and they do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def file_pages() -> list[int]:
    """Addresses of the pages of libraries' files that this process has touched.

    A fork has what the process wrote, and must touch these anew: until then they count neither as
    its memory, as those of other processes do, nor are they at hand.
    """
    found: list[int] = []
    with contextlib.suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as map_:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, *_, file = [*line.split(maxsplit=5), ""][:6]
            if not file.startswith("/") or rights[:2] != "r-":
                continue
            first, last = (int(end, 16) // PAGE for end in span.split("-"))
            map_.seek(first * 8)
            words = array("Q", map_.read((last - first) * 8))
            found += [(first + k) * PAGE for k, word in enumerate(words) if word >> 63]
    return found


def touch(pages: Iterable[int]) -> None:
    """Maps the pages that a fork does not have of what it was forked from; see `file_pages`."""
    for page in pages:
        ctypes.string_at(page, 1)


def become(
    descriptors: list[int], variables: dict[str, str], seconds: float, pages: list[int]
) -> NoReturn:
    """A launch, in this fork.

    variables: those that the first stem was started with; pages: see `file_pages`.
    """
    os.setsid()
    for number, descriptor in enumerate(descriptors[:STREAMS]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(variables)
    for end in descriptors[STREAMS:]:
        os.environ[lifeline.VARIABLE] = str(end)
    touch(pages)
    worker.main(seconds)
    os._exit(0)


if __name__ == "__main__":
    main()

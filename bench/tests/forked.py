"""Python processes that a test starts, forked from one that has imported torch once: a tenth of
the time, the same code.

While the fixture `forked` holds, `subprocess.Popen` of this interpreter (`-m` or `-c`), here and in
the processes that are started so, asks a nursery for a fork instead of starting an interpreter. The
fork gets the streams, folder, variables, session and arguments that the process would have had;
`import torch`, of which nothing is seen before, then only loads the plug-ins that the variables
name. What an interpreter or a library reads from its variables when it is loaded (the locale,
OpenMP's but for the number of threads, one by default) is the nursery's, but for PYTHONIOENCODING:
tests of that start real ones (`Real`). Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

AVAILABLE = sys.platform == "linux"
ERRORS = ("-W", "error")
"""Words before `-m` or `-c` that a fork can follow."""
READY_SECONDS = 120.0
FREE = 200
"""File descriptors from here on are nobody's."""
ALREADY = (
    *("torch._dynamo", "numpy", "psutil", "typer", "rich.live", "rich.table"),
    *("bench.cli", "bench.api", "bench.commands.run", "bench.reports.table"),
    *(
        "bench.running.probe",
        "bench.running.sampler",
        "bench.backends.cpu",
        "bench.backends.ascend",
    ),
    *("bench.measuring.worker", "bench.conformance.worker", "bench.workloads.gemm"),
)
"""What a nursery has imported. (The first step of any optimizer imports torch._dynamo.)"""
HEAVY = "torch"
"""What is imported once, and only shown to a fork that imports it."""
Real = subprocess.Popen
PLACES: list[str] = []
"""Where the nursery listens, in this process and in those that come from it."""


class Popen(Real[Any]):
    """A process that the nursery forks, if it can; its waiter tells how it ended."""

    _waiter: socket.socket | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _executable, preexec, _close, pass_fds, cwd, env, *_windows, shell = rest[:9]
        streams, (*_ids, new_session, _group) = rest[9:15], rest[15:]
        words = [] if isinstance(args, (str, bytes)) else [os.fsdecode(word) for word in args]
        if preexec or shell or not _can(words):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        read, _, _, write, _, error = streams
        ends = [end if end != -1 else number for number, end in enumerate((read, write, error))]
        request = {
            "words": words[1:],
            "folder": os.fspath(cwd or Path.cwd()),
            "variables": dict(os.environ if env is None else env),
            "session": new_session,
            "descriptors": [0, 1, 2, *pass_fds],
        }
        waiter = socket.socket(socket.AF_UNIX)
        try:
            waiter.connect(PLACES[-1])
            text = json.dumps(request).encode()
            waiter.sendall(len(text).to_bytes(4, "big"))
            socket.send_fds(waiter, [text[:1]], [*ends, *pass_fds])
            waiter.sendall(text[1:])
            self.pid = int.from_bytes(_exactly(waiter, 4), "big")
        except BaseException:
            waiter.close()
            raise
        self._waiter = waiter
        self._child_created = True
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._waiter is None:
            answer: tuple[int, int] = super()._try_wait(wait_flags)  # type: ignore[misc]
            return answer
        if wait_flags & os.WNOHANG and not select.select([self._waiter], [], [], 0)[0]:
            return 0, 0
        status = int.from_bytes(_exactly(self._waiter, 4), "big")
        self._waiter.close()
        return self.pid, status

    def _internal_poll(self, *rest: Any, **named: Any) -> int | None:
        if self._waiter is None:
            code: int | None = super()._internal_poll(*rest, **named)  # type: ignore[misc]
            return code
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def _can(words: Sequence[str]) -> bool:
    if not words or words[0] != sys.executable:
        return False
    rest = words[3:] if tuple(words[1:3]) == ERRORS else words[1:]
    return len(rest) > 1 and rest[0] in ("-m", "-c")


def _exactly(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            raise EOFError("the nursery is gone")
        read += more
    return read


@contextlib.contextmanager
def nursery() -> Iterator[None]:
    """One is there, and `Popen` of this process knows where."""
    with starting() as place, known(place):
        yield


@contextlib.contextmanager
def starting() -> Iterator[str]:
    """One starts, to be there until the end: its place, for `known`."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/nursery"
        code = f"from bench.tests import forked; forked.serve({place!r})"
        with Real(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"},
        ) as process:
            assert process.stdin is not None
            try:
                yield place
            finally:
                process.stdin.close()


@contextlib.contextmanager
def known(place: str) -> Iterator[None]:
    """`Popen` of this process asks the nursery at that place, once that is there."""
    end = time.monotonic() + READY_SECONDS
    while not Path(place).exists():
        assert time.monotonic() < end, "the nursery did not start"
        time.sleep(0.02)
    PLACES.append(place)
    try:
        yield
    finally:
        PLACES.remove(place)


def serve(place: str) -> NoReturn:
    """The nursery, until its stdin ends: forks a waiter for each request."""
    for name in ALREADY:
        importlib.import_module(name)
    for finalizer in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        finalizer.atexit = False  # torch's own, 30 ms of each fork that ends
    gc.collect()
    gc.freeze()
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [entry for entry in sys.path if entry and entry not in own]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}.soon")
        listener.listen(64)
        Path(f"{place}.soon").rename(place)
        PLACES.append(place)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            assert ready
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _wait_for_one(connection)
            connection.close()
            _reap()
    _reap()
    os._exit(0)


def _reap() -> None:
    """Waiters that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _wait_for_one(connection: socket.socket) -> NoReturn:
    """Forks what is asked for; tells its id, then its status; it is gone when that was heard."""
    size = int.from_bytes(_exactly(connection, 4), "big")
    first, descriptors, _, _ = socket.recv_fds(connection, 1, 16)
    request = json.loads(first + _exactly(connection, size - 1))
    pid = os.fork()
    if not pid:
        _become(request, descriptors)
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)
    with contextlib.suppress(OSError):
        connection.sendall(pid.to_bytes(4, "big"))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    status = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))
        connection.recv(1)
    os.waitpid(pid, 0)
    os._exit(0)


def _become(request: dict[str, Any], received: Sequence[int]) -> NoReturn:
    """What was asked for, in this fork."""
    if request["session"]:
        os.setsid()
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FREE) for descriptor in received]
    wanted = request["descriptors"]
    for number in set(range(FREE)) - {0, 1, 2}:
        with contextlib.suppress(OSError):
            os.close(number)
    for descriptor, number in zip(high, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    code = 1
    try:
        code = _run(request["words"])
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - told, as the interpreter tells it
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    """As the interpreter does with its arguments; the exit code."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(  # noqa: SIM115 - as long as the process
            number,
            "w" if number else "r",
            encoding=encoding or "utf-8",
            errors="backslashreplace" if number == 2 else errors or "strict",
            closefd=False,
            buffering=1 if number == 2 or os.isatty(number) else -1,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if tuple(words[:2]) == ERRORS:
        warnings.simplefilter("error")
        words = words[2:]
    option, target, *arguments = words
    extra = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:0] = [str(Path.cwd()) if option == "-m" else "", *extra]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    _hide()
    subprocess.Popen = Popen  # type: ignore[misc]
    sys.argv = [option, *arguments]
    if any((Path(entry) / "sitecustomize.py").exists() for entry in extra):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    code = 0
    try:
        if option == "-m":
            sys.modules.pop(target, None)
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            exec(compile(target, "<string>", "exec"), main.__dict__)
    except SystemExit as error:
        if isinstance(error.code, int | None):
            code = error.code or 0
        else:
            print(error.code, file=sys.stderr)
            code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code


def _hide() -> None:
    """`import torch` shows what is loaded, with the plug-ins of this process's variables."""
    module = sys.modules.pop(HEAVY)
    sys.meta_path.insert(0, _Loaded(module))


class _Loaded(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, which is loaded."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != HEAVY:
            return None
        spec = importlib.machinery.ModuleSpec(HEAVY, self, origin=self._module.__file__)
        spec.submodule_search_locations = list(self._module.__path__)
        spec.has_location = True
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        sys.meta_path.remove(self)
        threads = os.environ.get("OMP_NUM_THREADS", "")
        module.set_num_threads(int(threads) if threads.isdecimal() else 1)
        if module._is_device_backend_autoload_enabled():
            module._import_device_backends()

"""The nursery: a process that has imported torch once, and becomes what `forked.py` asks it for."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench import catalogue
from bench.lifeline import OWN
from bench.tests.forked import ERRORS, PLACES, SAFE, WIDE, Popen, exactly, target_of

FREE = 500
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


def serve(place: str, only: str = "") -> NoReturn:
    """The nurseries, until their stdin ends; one, where it imports only some modules."""
    PLACES.append(place)
    _import(only.split() or ALREADY)
    if not (wide := -1 if only else os.fork()):
        _import(_libraries(), ImportError)  # of which a launch of its own says more
        place += WIDE
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [entry for entry in sys.path if entry and entry not in own]
    _serve(place)
    if wide > 0:
        os.waitpid(wide, 0)
    os._exit(0)


def _libraries() -> set[str]:
    """What launches of any workload import, as far as it is installed."""
    workloads = [catalogue.workload(name) for name in catalogue.plug_ins("workloads")]
    named = [workload.libraries for workload in workloads]
    named += [mode.libraries for workload in workloads for mode in workload.modes.values()]
    return {name for libraries in named for name in libraries}


def _import(names: Iterable[str], *passed_over: type[Exception]) -> None:
    """All of them, for whatever is forked from here on."""
    for name in names:
        with contextlib.suppress(*passed_over):
            importlib.import_module(name)
    for finalizer in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        finalizer.atexit = False  # torch's own, 30 ms of each fork that ends
    gc.collect()
    gc.freeze()


def _serve(place: str) -> None:
    """One nursery, until its stdin ends: forks what is asked for, tells its id, then its status.

    A process that has ended keeps its id until that was heard, or nobody is there to hear it."""
    asked: dict[int, socket.socket] = {}
    """Who asked for each process, and has not heard how it ended."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(f"{place}.soon")
        listener.listen(64)
        Path(f"{place}.soon").rename(place)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError, EOFError):
                        pid = _forked(connection)
                        asked[pid] = connection.dup()
                        selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                        connection.sendall(pid.to_bytes(4, "big"))
                    continue
                selector.unregister(key.fileobj)
                if isinstance(key.fileobj, int):
                    os.close(key.fileobj)
                    _tell(key.data, asked[key.data])
                    selector.register(asked[key.data], selectors.EVENT_READ, key.data)
                else:  # it has heard, or is gone
                    asked.pop(key.data).close()
                    os.waitpid(key.data, 0)


def _forked(connection: socket.socket) -> int:
    """The process that is asked for."""
    size = int.from_bytes(exactly(connection, 4), "big")
    first, descriptors, _, _ = socket.recv_fds(connection, 1, 16)
    request = json.loads(first + exactly(connection, size - 1))
    pid = os.fork()
    if not pid:
        _become(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _tell(pid: int, connection: socket.socket) -> None:
    """How a process has ended."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    status = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))


def _become(request: dict[str, Any], received: Sequence[int]) -> NoReturn:
    """What was asked for, in this fork."""
    if request["session"]:
        os.setsid()
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FREE) for descriptor in received]
    wanted = request["descriptors"]
    os.closerange(3, FREE)
    for descriptor, number in zip(high, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"].encode("latin-1"))
    os.environ.clear()
    for name, value in request["variables"].items():
        os.environb[name.encode("latin-1")] = value.encode("latin-1")
    code = 1
    try:
        words = [os.fsdecode(word.encode("latin-1")) for word in request["words"]]
        code = _run(words, request["forks"])
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - told, as the interpreter tells it
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(words: list[str], forks: bool) -> int:
    """As the interpreter does with its arguments; the exit code."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    errors = errors or (not encoding and sys.stdout.errors) or "strict"
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(  # noqa: SIM115 - as long as the process
            number,
            "w" if number else "r",
            encoding=encoding or getattr(sys, name).encoding,
            errors="backslashreplace" if number == 2 else errors,
            closefd=False,
            buffering=1 if number == 2 or os.isatty(number) else -1,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if tuple(words[:2]) == ERRORS:
        warnings.simplefilter("error")
    option, target, *arguments = target_of(words)
    extra = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = [] if words[0] == SAFE else [str(Path.cwd()) if option == "-m" else ""]
    sys.path[:0] = [*own, *extra]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    _hide()
    if forks:
        subprocess.Popen = Popen  # type: ignore[misc]
    else:
        _forget()
    sys.argv = [option, *arguments]
    if any((Path(entry) / "sitecustomize.py").exists() for entry in extra):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    code = 0
    try:
        if option == "-m":
            sys.modules.pop(target, None)
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif option == OWN:
            sys.argv.insert(1, target)
            runpy.run_path(OWN, run_name="__main__")
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


def _forget() -> None:
    """Packages of pytest's plug-ins, this program among them: pytest rewrites what it imports."""
    plug_ins = importlib.metadata.entry_points(group="pytest11")
    theirs = {plug_in.module.partition(".")[0] for plug_in in plug_ins}
    for name in [name for name in sys.modules if name.partition(".")[0] in theirs]:
        del sys.modules[name]
    gc.unfreeze()  # libraries look for who refers to what


def _hide() -> None:
    """`import torch` shows what is loaded, with the plug-ins of this process's variables."""
    if module := sys.modules.pop(HEAVY, None):
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

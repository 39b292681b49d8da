"""Which devices are here, asked in child processes: a broken runtime cannot hurt the parent.

`python -m bench.running.probe BACKEND` imports that backend's runtime and prints a `Found` as JSON;
of devices that are here a second one, with what a small job on them showed. What another framework
reaches of it, FRAMEWORK@BACKEND asks (`bench.running.reached`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench import catalogue
from bench.backend import Backend, DeviceInfo, supported_precisions
from bench.errors import (
    AccelmarkError,
    DeviceUnavailable,
    NothingInstalled,
    UnknownName,
    suggestion,
)
from bench.framework import Framework
from bench.lifeline import Lifeline, command, hold
from bench.precision import PRECISIONS
from bench.records import cpu_limits
from bench.records.encoding import encoded
from bench.running.elsewhere import HERE, TORCH, Elsewhere

NOTHING: Mapping[str, str] = {}
LIMIT_SECONDS = 120.0
"""A runtime that takes longer to load is taken for broken."""
REPAIR = "Repair or uninstall it, or pass --device cpu."
"""The next act where a runtime fails in a way of its own."""
TO_THE_HOST = re.compile(r",? or (?:pass|use) --device cpu| (?:Pass|Use) --device cpu\.")
"""Advice that helps nobody where the CPU is what failed."""
MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)'")
VERSION = re.compile(r"Python (\d\S*)")
UNKNOWN = b"Unknown option: -P"
"""What a Python before 3.11 says of how it is started."""
HOST = "cpu"
OF = "@"
"""Between a framework and the backend of which it is asked what it reaches."""
LAST = ("generic", HOST)
"""Asked last, in this order: a backend made for a device goes before one for any, the host is the
last resort."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one backend found: devices, or the reason there are none and what to do next."""

    backend: str
    devices: tuple[DeviceInfo, ...] = ()
    reason: str = ""
    installed: bool = True
    """False where nothing here is made for such a device, which is no news."""
    framework: str = TORCH
    """By which the devices are reached."""


def probe(
    names: Sequence[str], python: str = sys.executable, forced: Mapping[str, str] = NOTHING
) -> list[Found]:
    """Asks the named backends, each in its own child process, all at once.

    python: the interpreter that asks; forced: what its environment must say.
    """
    found = side_by_side(names, Elsewhere(python=python), forced)
    if any(one.backend == HOST and not one.devices for one in found):
        return [not_to_the_host(one) for one in found]
    return found


def side_by_side(
    names: Iterable[str], where: Elsewhere, forced: Mapping[str, str] = NOTHING
) -> list[Found]:
    """What children say of these, one each; where: what is asked, and in which interpreter."""
    with contextlib.ExitStack() as stack:
        children = [(name, start(name, where, forced, stack)) for name in names]
        return [c if isinstance(c, Found) else finish(name, c, where) for name, c in children]


def not_to_the_host(found: Found) -> Found:
    """Without the advice to take the host."""
    return msgspec.structs.replace(found, reason=TO_THE_HOST.sub("", found.reason))


def start(
    name: str, where: Elsewhere, forced: Mapping[str, str], stack: contextlib.ExitStack
) -> subprocess.Popen[bytes] | Found:
    """A child in a group of its own, which goes with this process; or why there is none.

    where: of which framework it asks what that reaches of the backend's devices, and by which
    interpreter.
    """
    asked = name if where.framework == TORCH else f"{where.framework}{OF}{name}"
    try:
        variables = catalogue.backend(name).worker_environment()
    except AccelmarkError as error:  # a package's backend that does not load spoils no other
        return Found(backend=name, reason=str(error))
    except Exception as error:  # noqa: BLE001 - nor does one that fails as soon as it is asked
        return Found(backend=name, reason=f"{name}: its backend fails ({error}). {REPAIR}")
    lifeline = Lifeline()
    stack.callback(lifeline.cut)
    try:
        return lifeline.start(
            [*command("bench.running.probe", where.python), asked],
            {**variables, **os.environ, **forced},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return Found(
            backend=name,
            reason=f"{name}: no process starts that asks it ({error.strerror}). End other work and "
            "run again.",
        )


def finish(name: str, child: subprocess.Popen[bytes], where: Elsewhere = HERE) -> Found:
    """What a child said; the reason where it did not come to it.

    where: what was asked, and in which interpreter.
    """
    late = False
    try:
        output, complaint = child.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(child)
        output, complaint = child.communicate()
        late = True
    except BaseException:
        _kill(child)
        raise
    for line in reversed(output.splitlines()):  # the last one says most
        with contextlib.suppress(msgspec.DecodeError):
            found = msgspec.json.decode(line, type=Found)
            ended = f"{LIMIT_SECONDS:.0f} s were over" if late else f"exit {child.returncode}"
            return _not_read_back(found, ended) if late or child.returncode else found
    last = complaint.decode("utf-8", errors="replace").strip().splitlines()[-1:]
    said = f": {last[0]}" if last else ""
    python = where.python
    if late:
        why = f"its runtime did not load in {LIMIT_SECONDS:.0f} s. {REPAIR}"
    elif UNKNOWN in complaint:
        why = (
            f"{python} is {_version(python)}, and accelmark takes 3.11 or later. Name one with "
            f"{where.framework} that is: --python PATH."
        )
    elif missing := MISSING.search(said):
        why = (
            f"{python} has no {missing[1]}. Install it there: {python} -m pip install {missing[1]}"
        )
    else:
        why = f"its runtime fails (exit {child.returncode}{said}). {REPAIR}"
    return Found(backend=name, reason=f"{name}: {why}")


def _version(python: str) -> str:
    """Of an interpreter, as it says it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([python, "-V"], capture_output=True, timeout=LIMIT_SECONDS)
        words = (said.stdout or said.stderr).decode("utf-8", errors="replace")  # 2: on stderr
        if version := VERSION.match(words):
            return version[0]
    return "an older Python"


def _not_read_back(found: Found, ended: str) -> Found:
    """Its devices, and that the job that was to show what the libraries do ended the process."""
    facts = {"read_back": f"not observable: a small job on it ended its process ({ended})"}
    devices = (msgspec.structs.replace(d, facts={**d.facts, **facts}) for d in found.devices)
    return msgspec.structs.replace(found, devices=tuple(devices))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """With its children, which would hold its output open."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()


class Chosen(NamedTuple):
    """A device, what is to be said of the choice, and how many there are of its kind."""

    device: DeviceInfo
    remarks: list[str]
    here: int


def choose_of(
    address: str | None, python: str = sys.executable, forced: Mapping[str, str] = NOTHING
) -> Chosen:
    """The device that `--device` names, and what is to be said of the choice.

    address: `BACKEND` or `BACKEND:INDEX`; None takes the first accelerator, else the CPU, and says
    why each other backend was passed over for which something is installed. Raises `UnknownName` or
    `DeviceUnavailable`.
    """
    return chosen(address, lambda names: probe(names, python, forced))


def chosen(address: str | None, asked: Callable[[Sequence[str]], list[Found]]) -> Chosen:
    """Of what is asked for by the names of backends; see `choose_of`."""
    known = catalogue.plug_ins("backends")
    if address is None:
        found = asked(in_order(known))
        for one in found:
            if one.devices:
                passed_over = [f.reason for f in found[: found.index(one)] if f.installed]
                return Chosen(one.devices[0], passed_over, len(one.devices))
        listed = "".join(f"\n  - {one.reason}" for one in found if one.installed)
        raise DeviceUnavailable(f"no device can be used:{listed}")
    name, _, index_text = address.partition(":")
    if name not in known:
        raise UnknownName(
            f"--device {address}: unknown backend `{name}`."
            f"{suggestion(name, catalogue.usable('backends'))} "
            "`accelmark devices` shows what is here."
        )
    if index_text and not index_text.isdecimal():
        raise DeviceUnavailable(
            f"--device {address}: `{index_text}` is not a device index. Write {name}:0."
        )
    (one,) = asked([name])
    if not one.devices:
        raise DeviceUnavailable(f"--device {address}: {one.reason}")
    index = int(index_text or 0)
    for device in one.devices:
        if device.index == index:
            return Chosen(device, [], len(one.devices))
    here = ", ".join(d.address for d in one.devices)
    raise DeviceUnavailable(f"--device {address}: there is no such device. Here: {here}.")


def in_order(names: Iterable[str]) -> list[str]:
    """Backends in the order in which the default device is looked for."""
    return sorted(names, key=lambda name: LAST.index(name) if name in LAST else -1)


def _answer(name: str, framework: str = TORCH) -> Found:
    try:
        backend, by = catalogue.backend(name), catalogue.framework(framework)
        devices = tuple(_labelled(by, backend, by.devices(backend)))
        return Found(backend=name, devices=devices, framework=framework)
    except AccelmarkError as error:
        installed = not isinstance(error, NothingInstalled)
        return Found(backend=name, reason=str(error), installed=installed, framework=framework)


def _labelled(
    framework: Framework, backend: Backend, devices: Iterable[DeviceInfo]
) -> Iterator[DeviceInfo]:
    """With vendor and precisions, which only a process with the runtime can tell.

    Of parts with one name the first is asked: to ask may take a product on the device.
    """
    runs: dict[str, tuple[str, ...]] = {}
    slow: dict[str, dict[str, str]] = {}
    for info in devices:
        if info.name not in runs:
            ask = functools.partial(framework.unsupported, backend)
            answers = supported_precisions(backend, info, ask)
            runs[info.name] = tuple(name for name, reason in answers.items() if reason is None)
            slow[info.name] = _slow(framework, backend, info, runs[info.name])
        yield msgspec.structs.replace(
            info,
            vendor=info.vendor or backend.vendor,
            precisions=runs[info.name],
            slow=slow[info.name],
        )


def _slow(
    framework: Framework, backend: Backend, info: DeviceInfo, names: Iterable[str]
) -> dict[str, str]:
    """Which precisions it runs by reference code; what is multiplied alike is asked of once."""
    seen: dict[tuple[str, str | None], str | None] = {}
    found: dict[str, str] = {}
    for name in names:
        precision = PRECISIONS[name]
        kind = precision.arithmetic, precision.quantized
        if kind not in seen:
            seen[kind] = None
            with contextlib.suppress(Exception):  # a trial that fails shows nothing
                seen[kind] = framework.slow(backend, info, precision)
        if said := seen[kind]:
            found[name] = said
    return found


def _with_read_back(found: Found) -> Found:
    """With what the libraries did on each device: its last, as it may end this process."""
    backend = catalogue.backend(found.backend)
    devices = []
    for info in found.devices:
        try:
            facts = dict(backend.read_back(info.index))
        except Exception as error:  # noqa: BLE001 - a device that is there, and says no more
            facts = {"read_back": f"not observable: {error}".splitlines()[0]}
        devices.append(msgspec.structs.replace(info, facts={**info.facts, **facts}))
    return msgspec.structs.replace(found, devices=tuple(devices))


def _say(found: Found) -> None:
    sys.stdout.buffer.write(encoded(found) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """The child: `python -m bench.running.probe BACKEND`. A line with what is here, and where
    there are devices a second one that says more of them."""
    hold()
    framework, of, backend = sys.argv[1].partition(OF)
    if of:
        _say(_answer(backend, framework))
        return
    found = _answer(sys.argv[1])
    _say(found)
    if found.devices:
        _say(_with_read_back(found))


def held_back(device: DeviceInfo) -> str:
    """That the threads on this device exceed this process's CPU quota, and what helps; or nothing.

    Known of devices that say their threads: of those that are the host itself.
    """
    threads = device.facts.get("threads_used", "")
    return cpu_limits.warning(int(threads)) if threads.isdecimal() else ""


if __name__ == "__main__":
    main()

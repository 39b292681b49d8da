"""Operators: numbers against float64, times of the same order, and none of them on the host."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator

from bench import units
from bench.conformance.check import Check, Finding, Stand, after, failed, judged, passed, unseen
from bench.conformance.checks._chain import Chain
from bench.conformance.checks._operators import OPERATORS, Operator, values
from bench.measuring.gates.numerics import relative_error
from bench.precision import PRECISIONS

TOLERANCES = {
    # u = 2^-24. Sums of up to 800 terms, exponentials and error functions: measured 4e-7 on a CPU;
    # with the operands of products cut to 11 bits, 2e-4.
    "fp32": 1e-5,
    # u = 2^-8: a result rounded once is off by 1.7e-3 in root mean square. Gradients that pass
    # through one or two rounded intermediates: measured 4e-3 on a CPU; with 3 bits, as fp8, 4e-2.
    "bf16": 1.2e-2,
    # u = 2^-11, where a device has neither of the two: measured 1.1e-3 on a CPU.
    "fp16": 2e-3,
}
"""Largest relative error (norm of the difference over norm) of any result or gradient."""
SLOW_FACTOR = 30
SLOW_SECONDS = 0.1
"""An operator is out of line if it takes both 30 times the median operator's time and 100 ms, for
some thousand numbers: compiled at each call, or emulated."""
ROUNDS = 3
COMPILING_SECONDS = 600.0
"""Limit where a device may compile each operator at its first call."""
BLOCKED = 0.5
"""Share of a chain that a call must not wait for."""


def numerics(stand: Stand) -> Iterator[Finding]:
    """Each operator forward and backward, in float32 and bfloat16; in float16 for want of both."""
    for operator in OPERATORS:
        finding, lost = _compared(stand, operator)
        yield finding
        if lost:
            yield unseen("the operators after it", "the device was lost")
            return


def _compared(stand: Stand, operator: Operator) -> tuple[Finding, bool]:
    """A line, and whether the device was lost."""
    told, wrong, ran = [], [], 0
    for name, tolerance in TOLERANCES.items():
        if ran and name == "fp16":
            continue
        if stand.unsupported(PRECISIONS[name]) is not None:
            told.append(f"{name} not supported")
            continue
        try:
            error = _error(stand, operator, name)
        except Exception as raised:  # noqa: BLE001 - the other operators are still to be tried
            lost = stand.backend.failure_kind(raised) == "device_lost"
            return after(operator.name, stand.backend, raised), lost
        ran += 1
        told.append(f"{name} {error:.1e} (of {tolerance:g})")
        wrong += [name] if not error <= tolerance else []
    fallen = stand.ran_on_host()
    if fallen:
        reason = f"host fallback: {', '.join(fallen)}"
        next = "Implement the operator on the device"
        return failed(operator.name, ", ".join(told), reason, next), False
    if not ran:
        return unseen(operator.name, ", ".join(told)), False
    reason = f"{' and '.join(wrong)} differs from float64 on the CPU"
    next = "Compare results and gradients of this operator by hand; it voids what uses it"
    return judged(operator.name, not wrong, ", ".join(told), reason, next), False


def _error(stand: Stand, operator: Operator, precision: str) -> float:
    """The worst of its results and gradients; NaN and other shapes are infinitely wrong."""
    import torch

    dtype = PRECISIONS[precision].dtype
    stand.open(PRECISIONS[precision])
    floats, indices = operator.inputs(torch.Generator().manual_seed(0))
    inputs = [x.to(dtype) for x in floats], indices
    found = values(operator, inputs, stand.place, dtype)
    expected = values(operator, inputs, torch.device("cpu"), torch.float64)
    if len(found) != len(expected):
        return math.inf
    return max(relative_error(a.double(), b) for a, b in zip(found, expected, strict=True))


def _call(stand: Stand, operator: Operator) -> Callable[[], object]:
    """The operator on inputs that lie on the device, forward only, in float32."""
    import torch

    floats, indices = operator.inputs(torch.Generator().manual_seed(0))
    arguments = [x.to(stand.place) for x in (*floats, *indices)]
    return lambda: operator.call(*arguments)


def times(stand: Stand) -> Iterator[Finding]:
    """Whether an operator is slower than the others by orders of magnitude."""
    title = "no operator is out of line"
    taken: dict[str, float] = {}
    for operator in OPERATORS:
        with contextlib.suppress(Exception):  # its own line says it
            taken[operator.name] = _seconds(stand, operator)
    if not taken:
        yield unseen(title, "none of them runs")
        return
    median = statistics.median(taken.values())
    name, most = max(taken.items(), key=lambda item: item[1])
    observed = f"median {units.duration(median)}, longest {name} {units.duration(most)}"
    good = most < max(SLOW_SECONDS, SLOW_FACTOR * median)
    reason = f"{name} takes {most / median:,.0f} times the median operator's time"
    next = "Look at whether it is compiled at each call, emulated, or run on the host"
    yield judged(title, good, observed, reason, next)


def _seconds(stand: Stand, operator: Operator) -> float:
    """The shortest of some calls, the first left out."""
    call, taken = _call(stand, operator), []
    for _ in range(ROUNDS + 1):
        stand.device.synchronize()
        start = time.perf_counter()
        call()
        stand.device.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def fallback(stand: Stand) -> Iterator[Finding]:
    """Whether operators run on the host, announced or not, and whether that would be seen."""
    if stand.on_host:
        yield unseen("no standard operator runs on the host", "the host is the device")
        return
    yield _announced(stand)
    yield _silent(stand)
    yield _provoked(stand)


def _announced(stand: Stand) -> Finding:
    title = "no standard operator is said to fall back"
    fallen: dict[str, None] = {}
    ran = 0
    for operator in OPERATORS:
        try:
            _error(stand, operator, "fp32")
            ran += 1
        except Exception as error:  # noqa: BLE001 - the operators' own lines say it
            fallen |= dict.fromkeys(stand.backend.fallbacks(str(error).splitlines()))
        fallen |= dict.fromkeys(stand.ran_on_host())
    if not ran and not fallen:
        return unseen(title, "none of them runs")
    observed = f"{ran} operators, forward and backward: {len(fallen)} said to fall back"
    reason = f"host fallback: {', '.join(fallen)}"
    next = "Implement them on the device: what uses them is void"
    return judged(title, not fallen, observed, reason, next)


def _silent(stand: Stand) -> Finding:
    """A call that waits for the work queued before it has read from the device: why?"""
    title = "no standard operator makes the host wait"
    if stand.device.synchronous:
        return unseen(title, "a synchronous device: every call waits")
    chain = Chain(stand)
    stand.device.synchronize()
    waits = {name: wait for name, wait in _waits(stand, chain) if wait is not None}
    if not waits:
        return unseen(title, "the host takes as long to queue a chain as the device to run it")
    blocked = [name for name, wait in waits.items() if wait > BLOCKED]
    observed = f"{len(waits)} calls behind a chain: {len(blocked)} waited for it"
    reason = f"{', '.join(blocked)} waited for the device, as a silent host fallback does"
    next = "Look at whether its kernel copies to the host, and have the runtime say so"
    return judged(title, not blocked, observed, reason, next)


def _waits(stand: Stand, chain: Chain) -> Iterator[tuple[str, float | None]]:
    """Of each operator: the share of what was left of a chain for which its call took."""
    kernels = chain.kernels // 2
    whole = chain.time(kernels).waited
    for operator in OPERATORS:
        try:
            call, least = _call(stand, operator), None
            call()  # its first call may allocate and compile, which waits
            for _ in range(ROUNDS):
                chain.right()
                start = time.perf_counter()
                chain.queue(kernels)
                queued = time.perf_counter()
                call()
                end = time.perf_counter()
                left = whole - (queued - start)
                if left > BLOCKED * whole:
                    share = (end - queued) / left
                    least = share if least is None else min(least, share)
                    if least <= BLOCKED:
                        break
            yield operator.name, least
        except Exception:  # noqa: BLE001 - the operators' own lines say it
            continue


def _provoked(stand: Stand) -> Finding:
    """Tries operators that few devices have, to see a fallback said."""
    title = "a fallback would be seen"
    ran, refused = [], []
    for name, call in rare(stand).items():
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a refusal is an answer
            said = stand.backend.fallbacks(str(error).splitlines())
            if said:
                return passed(title, f"{name}: {', '.join(said)} was refused, by name")
            refused.append(name)
        else:
            said = stand.ran_on_host()
            if said:
                return passed(title, f"{name}: the runtime said that {', '.join(said)} fell back")
            ran.append(name)
    told = [f"ran without a word: {', '.join(ran)}"] if ran else []
    told += [f"refused: {', '.join(refused)}"] if refused else []
    reason = "none of the rare operators that were tried fell back"
    next = "Name an operator that your device lacks, and run it: does the runtime say so?"
    return unseen(title, reason, "; ".join(told), next)


def rare(stand: Stand) -> dict[str, Callable[[], object]]:
    """Operators that few devices have kernels for."""
    import torch

    x = torch.rand((8, 8), generator=torch.Generator().manual_seed(0)).to(stand.place)
    return {
        "linalg.eigvals": lambda: torch.linalg.eigvals(x),
        "geqrf": lambda: torch.geqrf(x),
        "special.airy_ai": lambda: torch.special.airy_ai(x),
        "special.zeta": lambda: torch.special.zeta(x + 2, x + 1),
        "histogram": lambda: torch.histogram(x, 4),
    }


CHECKS = (
    Check(
        name="operators",
        summary="numbers against float64",
        parts=(numerics, times),
        limit_seconds=COMPILING_SECONDS,
    ),
    Check(
        name="host fallback",
        summary="nothing runs on the host unseen",
        parts=(fallback,),
        limit_seconds=COMPILING_SECONDS,
    ),
)

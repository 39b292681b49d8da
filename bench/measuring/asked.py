"""Whether what was timed is what was asked for: looked at before and after, never within a block.

A switch of the process (a variable, a `sitecustomize`, a vendor's plug-in) can have a step do other
work than its case says, or do it in another way, and the step's times do not show it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.measuring.ranks import agreed
from bench.precision import PRECISIONS, Precision
from bench.records import environment
from bench.records.case import SEARCHED
from bench.records.executed import CONVERSIONS, HOST, Executed
from bench.records.execution import COMPILE, GRAPH
from bench.workload import Job, Look, Queued, Recorder

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.measuring.launch import Launch

COMPILE_SWITCHES = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""Variables by which torch.compile does nothing."""

MONITORING_TOOLS = 6
"""How many tools `sys.monitoring` has room for."""
STANDING = {
    "threads": "threads, as before the measurement",
    "interop_threads": "threads between operators, as before the measurement",
    "affinity": "cores, as before the measurement",
    "float32_reduced": "a short mantissa in float32 products, as before the measurement",
}
"""What a worker's environment says that must not change while it measures."""


def complaint(looks: Iterable[Look]) -> str:
    """What is not as it was asked for, with what to do next; empty if all is."""
    return "; ".join(
        f"{look.what}: asked for {look.asked}, got {look.seen}. {look.then}"
        for look in looks
        if look.asked != look.seen
    )


def late(launch: Launch, job: Job, device: Device, executed: Executed | None = None) -> str:
    """`complaint` of all that is looked at once everything is timed. executed: what a step ran
    through, if that was seen."""
    before = dict(launch.environment)
    launch.describe(device)
    looks = [
        *unmoved(before, launch.environment),
        *launch.framework.switches(device, PRECISIONS[launch.request.case.precision]),
        *launch.executed(),
        *job.looks(),
        *implementations(executed, job.facts),
        *places(executed, on_host=launch.backend.is_host),
    ]
    launch.environment["job"] = agreed.facts_of(launch.ranks, job.facts)
    return complaint(looks)


def switches(device: Device, precision: Precision) -> list[Look]:
    """The switches of this process that change what a step does, or how."""
    import torch

    return [
        *process(device.torch_device.type),
        *threads(torch.get_num_threads()),
        *float32(precision, device.float32_reduced()),
        *float16(precision, device.float16_sums()),
    ]


def process(device_type: str) -> list[Look]:
    """What is none of a case's to ask for, and costs time or changes the work.

    device_type: torch's name for the kind of device.
    """
    import torch

    readers: list[tuple[str, str, Callable[[], object]]] = [
        ("deterministic algorithms", "off", torch.are_deterministic_algorithms_enabled),
        ("anomaly detection", "off", torch.is_anomaly_enabled),
        ("the autograd profiler", "off", torch._C._autograd._profiler_enabled),
        ("autocast around the step", "off", lambda: torch.is_autocast_enabled(device_type)),
        ("gradients outside the step", "on", torch.is_grad_enabled),
        ("inference mode around the step", "off", torch.is_inference_mode_enabled),
        ("the default dtype", "torch.float32", torch.get_default_dtype),
        ("the default device", "cpu", torch.get_default_device),
        ("modes that see every operator", "0", _modes),
        ("hooks of every module", "0", _hooks),
        ("Python tracing", "off", traced),
    ]
    then = "Find what sets it in this process (sitecustomize, a plug-in, a variable) and remove it"
    return [
        Look(what=what, asked=asked, seen=_word(read()), then=then) for what, asked, read in readers
    ]


def traced() -> bool:
    """Whether Python calls somebody at each line, call or the like of this process: a tracer, a
    profiler, or a tool of `sys.monitoring` (Python 3.12, where coverage takes it by itself)."""
    get_tool = getattr(getattr(sys, "monitoring", None), "get_tool", lambda number: None)
    tools = any(get_tool(number) is not None for number in range(MONITORING_TOOLS))
    return bool(sys.gettrace() or sys.getprofile()) or tools


def threads(seen: int) -> list[Look]:
    """What OMP_NUM_THREADS asks for, where nothing else has a say in it; seen: torch's threads."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    others = ("MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_DYNAMIC")
    if not given.isdigit() or int(given) == 0 or any(name in os.environ for name in others):
        return []
    then = "Find what calls torch.set_num_threads in this process, or unset OMP_NUM_THREADS"
    return [Look(what="threads", asked=given, seen=str(seen), then=then)]


def float32(precision: Precision, reduced: bool) -> list[Look]:
    """Whether products of float32 have the mantissa that the precision says.

    Of precisions whose products are in float32 only: others may leave the switch where it is.
    reduced: as the device reads it back.
    """
    if precision.weights != "float32" or precision.autocast is not None:
        return []
    asked, seen = (f"a {'short' if x else 'full'} mantissa" for x in (precision.shortened, reduced))
    then = "Unset the variable or setting that overrides torch's float32 switches, and run again"
    return [Look(what=f"products of {precision.name}", asked=asked, seen=seen, then=then)]


def float16(precision: Precision, summed: bool) -> list[Look]:
    """Whether products of float16 have sums in float32. summed: in float16, as the device says."""
    if precision.weights != "float16":
        return []
    then = "Unset the switch of torch for that (allow_fp16_accumulation), and run again"
    seen = "float16" if summed else "float32"
    return [Look(what=f"sums of {precision.name}", asked="float32", seen=seen, then=then)]


def unmoved(before: dict[str, Any], after: dict[str, Any]) -> list[Look]:
    """Facts of the process that must be after the measurement what they were before it.

    before, after: a worker's environment; see `environment.stack`.
    """
    then = "Something changed it while the case ran: find it, and run again"
    return [
        Look(what=words, asked=str(before[name]), seen=str(after[name]), then=then)
        for name, words in STANDING.items()
        if name in before and name in after
    ]


def compiled(compiler: Mapping[str, int], execution: str = COMPILE) -> list[Look]:
    """Whether the compiler made anything, and went on with it; see `environment.compiler`.

    execution: as the case says it.
    """
    if not compiler["graphs"]:
        found = environment.variables(COMPILE_SWITCHES)
        set_here = " (" + ", ".join(f"{k}={v}" for k, v in found.items()) + ")" if found else ""
        seen = f"no graph from torch.compile{set_here}: it ran eagerly"
        then = "Unset what switches the compiler off" if found else "See the compiler's own words"
        then += ', or ask for execution = "eager"'
        return [Look(what="execution", asked=execution, seen=seen, then=then)]
    if compiler["limits"]:
        seen = f"{compiler['limits']} functions that ran eagerly after too many recompilations"
        then = 'See TORCH_LOGS=recompiles for the reason, or ask for execution = "eager"'
        return [Look(what="execution", asked=execution, seen=seen, then=then)]
    return []


def searched(graphs: int) -> list[Look]:
    """Whether the compiler that was to search for its kernels made any graph."""
    if graphs:
        return []
    then = f'Run again, or leave "{SEARCHED}" out of what may be chosen'
    return [Look(what="compiler", asked=SEARCHED, seen="no graph that it searched for", then=then)]


def implementations(executed: Executed | None, facts: Mapping[str, str]) -> list[Look]:
    """Whether a step ran through an operator of each kind that a job's facts name."""
    if executed is None or executed.absent:
        return []
    then = "A library went another way than it was told: see its own words, or try another version"
    return [
        Look(what=kind, asked=facts[kind], seen="no operator of that kind in a step", then=then)
        for kind in ("attention", "experts")
        if kind in facts and not executed.operators.get(kind)
    ]


def places(executed: Executed | None, *, on_host: bool) -> list[Look]:
    """Whether a step's kernels ran where they were to, and whether there were any, as far as the
    framework's profiler sees them. on_host: whether the device is the host."""
    if executed is None or executed.kernels is None:
        return []
    looks = []
    if not executed.kernels.keys() - {CONVERSIONS}:
        then = "Something else computed it: look at how the framework builds its jobs"
        looks.append(Look(what="kernels of a step", asked="some", seen="none", then=then))
    fallen = executed.kernels.get(HOST, ())
    if fallen and not on_host:
        then = "See the framework's own words for what its device has no kernel"
        looks.append(Look(what="host fallback", asked="none", seen=", ".join(fallen), then=then))
    return looks


class Watched:
    """A device's recorder, and what was made of it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.recordings = 0
        self.replays = 0
        """Counted before timing only: a timed replay is the device's own, with nothing around."""
        self.counting = True
        self.compiled_calls: Callable[[], int] | None = None
        """How often compiled code has run so far; None where none is to be recorded."""
        self.uncompiled = 0
        """Recordings of work that did not always run compiled code."""

    def __call__(self, work: Queued, prepare: Queued) -> Queued:
        """Records the work; gives its replay."""
        calls = self.compiled_calls
        if calls is None:
            replay = self._recorder(work, prepare)
        else:
            ran: list[int] = []

            def noted() -> None:
                before = calls()
                work()
                ran.append(calls() - before)

            replay = self._recorder(noted, prepare)
            self.uncompiled += min(ran, default=0) == 0
        self.recordings += 1
        if not self.counting:
            return replay

        def counted() -> None:
            self.replays += 1
            replay()

        return counted

    def timed(self) -> None:
        """From here on it is the timed job that records."""
        self.recordings, self.counting = 0, False


def replayed(watched: Watched | None, execution: str = GRAPH) -> list[Look]:
    """Whether a step was recorded, compiled where that was asked for too; and whether the gate's
    twin, the same code, replayed its own."""
    recordings, replays = (watched.recordings, watched.replays) if watched else (0, 0)
    uncompiled = watched.uncompiled if watched else 0
    if recordings and replays and not uncompiled:
        return []
    seen = f"{recordings} recordings and {replays} replays of them in the numerics gate"
    then = 'Its workload steps without what it recorded: ask for execution = "eager"'
    if recordings and replays:
        seen = f"{uncompiled} recordings of code that ran as it was written"
        then = 'See TORCH_LOGS=graph_breaks,recompiles for the reason, or ask for "graph"'
    return [Look(what="execution", asked=execution, seen=seen, then=then)]


def _word(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _modes() -> int:
    import torch

    return sum(
        getattr(torch._C, name)() if hasattr(torch._C, name) else 0
        for name in ("_len_torch_dispatch_stack", "_len_torch_function_stack")
    )


def _hooks() -> int:
    """Of forwards and backwards; those have no public name that tells how many there are."""
    from torch.nn.modules import module

    return sum(
        len(hooks)
        for name, hooks in vars(module).items()
        if re.match(r"_global_(forward|backward)\w*_hooks$", name)
    )

"""How long a suite takes on a class of devices: by the records that are shipped, else by shapes.

`configs/times.json` holds what the published runs took, launch by launch, and the rates that they
reached; it is made from `results/` by `python -m bench.tests.scripts.times`.
"""

from __future__ import annotations

import functools
import math

import msgspec

from bench import catalogue, stats
from bench.catalogue import configs_folder
from bench.planning.least_flop import required
from bench.planning.plan import parameters_of, plan
from bench.planning.shapes import LEAST_BLOCKS, Shapes
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.execution import is_compiled
from bench.records.limits import phase_limit
from bench.records.run import Settings

FILE = "times.json"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a class of devices."""

    launches: dict[str, tuple[float, float]] = {}
    """By a case's fingerprint: seconds of a run's first launch, and of each further one."""
    besides: tuple[float, float]
    """Seconds of the same besides blocks and warm-up, of any case."""
    flop_per_second: dict[str, float] = {}
    """By arithmetic: as cases reach it, not the best."""
    bytes_per_second: float = 0.0
    compiling: float = 0.0
    """Seconds besides, of the first launch of a case that is compiled."""
    under_load: bool = False
    """Whether the device needs the suite's time under load."""


class Expected(msgspec.Struct, frozen=True):
    """Of a suite, in seconds."""

    seconds: float
    estimated: int
    """Cases whose shapes alone say how long they take."""
    unknown: int
    """Cases of which nothing does, and which are not in the seconds."""
    open: bool
    """Whether its cases go on after these launches, until their intervals are narrow."""
    outlast: int = 0
    """Cases that take longer than a launch may: two are ended, and the case has failed."""
    capped: bool = False
    """Whether all time that the suite's budget gives is taken."""


ACCELERATOR = Known(
    besides=(25.0, 10.0),
    flop_per_second={
        **dict.fromkeys(("bf16", "fp16"), 2.5e14),
        **dict.fromkeys(("fp8", "int8"), 4e14),
        "tf32": 1.2e14,
        "fp32": 4e13,
    },
    bytes_per_second=3e12,
    compiling=80.0,
    under_load=True,
)
"""One of 40 GB or more, of which no run is published: half of what the fastest of 2024 reach."""
ACCELERATOR_NAME = "an accelerator"


@functools.cache
def classes() -> dict[str, Known]:
    """By name. Of devices that are not here nothing is known."""
    text = (configs_folder() / FILE).read_bytes()
    return {**msgspec.json.decode(text, type=dict[str, Known]), ACCELERATOR_NAME: ACCELERATOR}


def expected(suite: Suite, known: Known) -> Expected:
    """Of a run of a suite, on one device of that class."""
    settings = suite.settings
    count = stats.LOOKS[0] if settings.launches == "auto" else settings.launches
    most = phase_limit("measure", settings.launch_limit_seconds)
    seconds, estimated, unknown, outlast = 0.0, 0, 0, 0
    for case in plan(suite):
        launches = count
        if case.fingerprint in known.launches:
            first, further = known.launches[case.fingerprint]
        elif (blocks := _by_shapes(case, settings, known)) > 0:
            if blocks > most:
                outlast += 1
                blocks, launches = most, min(count, 2)
            first, further = (besides + blocks for besides in known.besides)
            first += known.compiling * is_compiled(case.execution)
            estimated += 1
        else:
            unknown += 1
            continue
        seconds += first + (launches - 1) * further
    budget = math.inf if suite.budget_minutes is None else 60 * suite.budget_minutes
    capped, opened = seconds >= budget, settings.launches == "auto"
    return Expected(min(seconds, budget), estimated, unknown, opened, outlast, capped)


def _by_shapes(case: Case, settings: Settings, known: Known) -> float:
    """Seconds of a launch's warm-up and blocks; 0 where nothing is known of its like."""
    if case.devices > 1 or case.space:
        return 0.0
    workload, precision = catalogue.workload(case.workload), PRECISIONS[case.precision]
    work = workload.work(case.mode, parameters_of(case, workload), precision)
    if required(work) and precision.arithmetic not in known.flop_per_second:
        return 0.0
    blocks = Shapes(settings, known.flop_per_second, known.bytes_per_second).least_seconds(case)
    if not blocks and not work.flop and not work.moved_bytes:  # short, as a launch or a copy is
        blocks = LEAST_BLOCKS * settings.block_seconds
    return blocks + known.under_load * settings.warmup_seconds if blocks else 0.0


def said(found: Expected) -> str:
    """In words: `about 6 min`, `about 2 hours by shapes`, `not known`."""
    minutes = found.seconds / 60
    if not found.seconds or (found.unknown and minutes < 1):
        return "not known"
    time = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} hours"
    time = "under a minute" if minutes < 1 else time
    more = (found.open or found.unknown) and not found.capped
    least = "at least" if more else "about"
    words = [f"{least} {time}" if minutes >= 1 else time]
    if found.estimated:
        words.append("estimated from shapes")
    if found.outlast:
        words.append(f"{found.outlast} of its cases longer than a launch may be")
    if found.unknown:
        words.append(f"{found.unknown} of its cases not known")
    return ", ".join(words)

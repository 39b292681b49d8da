"""Does the bare loop do as much as the harness, and no less? Operators of one step of each.

    python -m bench.tests.validation.same_operators [--only 'dlrm*'] [--precision fp32]

Beside `bench.tests.validation.agreement`, whose ratios need a quiet machine: how often a step calls
each operator needs none. For each case, eager, on the CPU, printed are the operators that the two
call otherwise, as torch's profiler counts them, with the time that each had of its step; largest
first. Views, of which neither computes anything, are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bench.records.case import Case
from bench.tests.validation import agreement
from bench.tests.validation.matching import matching

LEAST_SHARE = 0.002
"""Of a step, below which it makes no difference to a ratio how often an operator is called."""


class Calls(NamedTuple):
    """Of one operator in one step."""

    number: int
    share: float
    """Of the step's time, by the operator itself."""


class Unlike(NamedTuple):
    """An operator that the two sides do not call equally often."""

    operator: str
    ours: Calls
    theirs: Calls

    @property
    def words(self) -> str:
        """ "index_add_: ours 2 (9.8%), the bare loop 1 (10.1%)"."""
        sides = zip(("ours", "the bare loop"), (self.ours, self.theirs), strict=True)
        return f"{self.operator}: " + ", ".join(
            f"{who} {calls.number} ({calls.share:.1%})" for who, calls in sides
        )


NONE = Calls(0, 0.0)


def unlike(ours: Mapping[str, Calls], theirs: Mapping[str, Calls]) -> Iterator[Unlike]:
    """What is called otherwise and takes time, the largest first."""
    found = [
        Unlike(name, ours.get(name, NONE), theirs.get(name, NONE))
        for name in sorted({*ours, *theirs})
    ]
    found = [
        one
        for one in found
        if one.ours.number != one.theirs.number
        and max(one.ours.share, one.theirs.share) >= LEAST_SHARE
    ]
    yield from sorted(found, key=lambda one: -max(one.ours.share, one.theirs.share))


def calls_of(step: Callable[[], object]) -> dict[str, Calls]:
    """The operators of one step, by their names without the namespace."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        step()
    events = [event for event in seen.key_averages() if event.key.startswith("aten::")]
    total = sum(event.self_cpu_time_total for event in events)
    return {
        event.key.removeprefix("aten::"): Calls(event.count, event.self_cpu_time_total / total)
        for event in events
    }


def beside(case: Case) -> list[Unlike]:
    """Of one case: one step of each side after two that are not counted."""
    job, _, loop = agreement.sides(case)
    for _ in range(2):
        if loop.before_pass is not None:
            loop.before_pass()
            job.again()
        loop.step()
        job.step()
    return [*unlike(calls_of(job.step), calls_of(loop.step))]


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--precision", choices=agreement.INSTEAD, help="instead of each case's own")
    arguments = parser.parse_args()
    every = agreement.in_precision(agreement.compared("eager"), arguments.precision)
    for case in matching(parser, "--only", arguments.only, every, lambda case: case.label):
        found = beside(case)
        print(f"{case.label}: {'' if found else 'the same operators'}")
        for one in found:
            print(f"  {one.words}")


if __name__ == "__main__":
    main()

"""Does `explain` tell the truth here? What its users may demand, measured over quick's models.

    python -m bench.tests.scripts.explain_check [--only coverage,aa] [--cases GLOB] [--cpu-time]

Checks, each by itself with --only: `coverage` of each step; `shares` of the classes against
torch.profiler's; `counts` of operators against the profiler's; `planted`: an operator of known time
beside BERT; `layouts`: ResNet-50 in two memory formats, in turns, whose classes' differences must
be that of the steps; `advice`: what `--try` says of known remedies against turns apart from it;
`aa`: the timed launches of runs with and without `--explain`, in pairs. The first six are on the
CPU; the first three by the mean of three processes for each case, the others in one. Exit code 1
where any of it is not as it must be. About twenty minutes on two idle cores: ten for the first
three checks, which share what they measure, one to two for each other.

--cpu-time: one thread, by its CPU time, which is honest on a machine that has much else to do; but
for `shares`, as the profiler has the wall's clock only, and `aa`. By default torch's threads and
the wall clock, for an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import stats
from bench.judging.explaining.explained import ExplainedCase, changed_names
from bench.judging.explaining.explained_pairs import pair
from bench.judging.explaining.remedies import LEAST_GAIN, helped, said
from bench.records.case import Case
from bench.records.explained import Explained, Tried
from bench.tests.scripts import explain_measured
from bench.tests.scripts.explain_measured import PLANTED_SECONDS, Measurer, models
from bench.tests.validation.matching import matching

LEAST, MOST = 0.90, 1.03
"""Coverage of a model's step."""
OF_TEN = 9
"""Models of ten that must have it."""
SHARE_POINTS = 0.03
PLANTED_WITHIN = 0.10
SUM_WITHIN = 0.05
PLANTED_IN = "bert-infer"
LAID_OUT = "resnet50-infer"
LAID_OUT_IN = "bf16"
LAID_OUT_BATCH = 16
"""There they differ by a third of the step; in training, and in float32, by a tenth, and a
twentieth of that is less than coverage spreads. Where bfloat16 is multiplied by reference code they
differ by three quarters at any batch: at the suite's."""
LAID_OUT_LONGER = 10.0
"""Times the turns' seconds: what is judged is a twentieth of a difference of steps."""
ADVICE = {
    "resnet50-train": ("memory format channels_last", "batch_size 4, for the items of 2"),
    "dlrm-train": ("index_add_ as scatter_add_", "optimizer foreach"),
    "llama-train": ("optimizer foreach",),
}
"""Remedies that are tried of models, and measured apart from that."""
FEWEST_PIECES = 3
TOLD_WITHIN = 0.03
"""Of the step: what a remedy gives may differ by so much between two measurements of it."""
AA_SUITE = """
description = "One small model"

[settings]
warmup_limit_seconds = 4.0
steady_limit_seconds = 2.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = "512x512x512"
"""
AA_LEAST, AA_MOST = 5, 12
"""Pairs of runs, one that explains and one that does not: as many as make the interval narrow."""
AA_DRIFT = 0.02
"""What a machine may drift from one run to the next."""
AA_WITHIN = 0.10
"""Half of an A/A's interval: of a wider one nothing can be said."""


class Judged(NamedTuple):
    """A demand, and whether it was met."""

    what: str
    met: bool
    seen: str


def coverage(cases: Sequence[ExplainedCase]) -> Judged:
    """Nine of ten steps explained, and no more than there is."""
    within = [c for c in cases if c.coverage and LEAST <= c.coverage.value <= MOST]
    said = f"{len(within)} of {len(cases)} within {LEAST:.0%} to {MOST:.0%}"
    return Judged("coverage", len(within) * 10 >= OF_TEN * len(cases) > 0, said)


def shares(cases: Sequence[ExplainedCase]) -> Judged:
    """No class further from the profiler's share than three points."""
    apart = {
        f"{c.case.name} {row.kind}": row.replayed_share - row.profiled_share
        for c in cases
        for row in c.classes
        if row.profiled_share is not None and row.kind != "other"
    }
    worst = max(apart, key=lambda name: abs(apart[name]), default="")
    unseen = [c.case.name for c in cases if all(row.profiled_share is None for row in c.classes)]
    met = bool(apart) and not unseen and abs(apart[worst]) <= SHARE_POINTS
    seen = f"furthest: {worst} {apart.get(worst, 0.0):+.1%}"
    return Judged(
        "class shares", met, seen + (f"; not seen: {', '.join(unseen)}" if unseen else "")
    )


def counts(cases: Sequence[ExplainedCase], accounts: Mapping[str, Explained]) -> Judged:
    """Operators are called as often as the profiler saw, or flagged."""
    wrong = [
        c.case.name
        for c in cases
        if c.case.fingerprint not in accounts
        or (changed_names([accounts[c.case.fingerprint]]) and "CHANGED-BY-RECORDING" not in c.flags)
    ]
    flagged = sum("CHANGED-BY-RECORDING" in c.flags for c in cases)
    seen = f"{flagged} of {len(cases)} flagged; neither: {', '.join(wrong) or 'none'}"
    return Judged("counts", bool(cases) and not wrong, seen)


def planted(case: ExplainedCase) -> Judged:
    """The operator of 10 ms, with its time, in its class."""
    found = [row for row in case.operators if row.name == "planted::layer_norm" and row.ms]
    took = found[0].ms.value / 1e3 if found and found[0].ms else 0.0
    right = abs(took - PLANTED_SECONDS) <= PLANTED_WITHIN * PLANTED_SECONDS
    kind = found[0].kind if found else "not there"
    return Judged("planted operator", right and kind == "normalization", f"{took:.4f} s, {kind}")


def layouts(contiguous: ExplainedCase, channels_last: ExplainedCase) -> Judged:
    """Classes and freeing, without the host, make up the difference of the steps."""
    both = pair(contiguous, channels_last)
    parts = sum(part.difference_ms for part in both.parts if part.name != "host")
    off = abs(parts - both.difference_ms) / abs(both.difference_ms or 1.0)
    said = f"{parts:+.1f} ms of {both.difference_ms:+.1f} ms{both.reason and f'; {both.reason}'}"
    return Judged("layouts", off <= SUM_WITHIN and not both.reason, said)


def told(tried: Tried, before_ns: float, after_ns: float) -> bool | None:
    """Whether what is said of a remedy is so, None where it says that it does not know; before and
    after: of steps measured apart."""
    said_so = helped(tried)
    if said_so is None:
        return None
    gain = 1 - after_ns / before_ns
    near = abs(gain - LEAST_GAIN) <= TOLD_WITHIN
    return not tried.absent and (near or said_so == (gain >= LEAST_GAIN))


def advice(pieces: Sequence[tuple[Tried, float, float]]) -> Judged:
    """At least three pieces told truly, and none falsely."""
    each = [told(*piece) for piece in pieces]
    seen = f"{each.count(True)} of {len(each)} told truly, of {each.count(None)} not sure"
    return Judged("advice", False not in each and each.count(True) >= FEWEST_PIECES, seen)


def unchanged(pairs: Sequence[tuple[float, float]]) -> Judged:
    """The timed launches of runs that do not explain, and of runs that do; in pairs, each one after
    the other, as a machine's speed moves by more than this from one run to one much later."""
    found = stats.log_estimate([after / before for before, after in pairs], stats.FIXED_LEVEL)
    if found is None:
        return Judged("A/A", False, f"no interval of {len(pairs)} pairs")
    same = found.low <= 1 + AA_DRIFT and found.high >= 1 - AA_DRIFT
    seen = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}; {len(pairs)} pairs)"
    return Judged("A/A", narrow(pairs) and same, seen + ("" if narrow(pairs) else ": too wide"))


def narrow(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether the interval of their ratio says something."""
    found = stats.log_estimate([after / before for before, after in pairs], stats.FIXED_LEVEL)
    return found is not None and found.half_width <= AA_WITHIN


# --- The script ----------------------------------------------------------------------------------


class Checks:
    """Each check, by its name."""

    def __init__(self, measurer: Measurer, chosen: Sequence[Case]) -> None:
        """chosen: of `models`, those that the checks of all models look at."""
        self._measurer = measurer
        self._models = chosen
        self._by_name = {case.name: case for case in models()}

    def coverage(self) -> Judged:
        """Of each model."""
        return coverage([self._measurer.case(case) for case in self._models])

    def shares(self) -> Judged:
        """Of each model, by the wall's clock."""
        return shares([self._measurer.case(case, wall=True) for case in self._models])

    def counts(self) -> Judged:
        """Of each model."""
        cases = [self._measurer.case(case) for case in self._models]
        return counts(cases, self._measurer.accounts())

    def planted(self) -> Judged:
        """Beside one."""
        return planted(self._measurer.case(self._by_name[PLANTED_IN], "planted"))

    def layouts(self) -> Judged:
        """Of ResNet-50, at a batch where they differ."""
        case = msgspec.structs.replace(self._by_name[LAID_OUT], precision=LAID_OUT_IN)
        if LAID_OUT_IN not in explain_measured.host().slow:
            batch = {"batch_size": LAID_OUT_BATCH}
            case = msgspec.structs.replace(case, parameters={**case.parameters, **batch})
        return layouts(*self._measurer.layouts(case, times=LAID_OUT_LONGER))

    def advice(self) -> Judged:
        """Of some models."""
        pieces = []
        for model in self._models:
            for remedy in ADVICE.get(model.name, ()):
                tried, before, after = self._measurer.advice(model, remedy)
                pieces.append((tried, before, after))
                print(f"{model.name}: {said(tried)}; apart {before / 1e6:.4g} -> {after / 1e6:.4g}")
        return advice(pieces)

    def aa(self) -> Judged:
        """Runs with and without, in turns."""
        pairs: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            suite = Path(folder) / "one.toml"
            suite.write_text(AA_SUITE, encoding="utf-8")
            while len(pairs) < AA_LEAST or (len(pairs) < AA_MOST and not narrow(pairs)):
                order = (False, True) if len(pairs) % 2 == 0 else (True, False)
                took = {explains: explain_measured.timed(suite, explains) for explains in order}
                pairs.append((took[False], took[True]))
        return unchanged(pairs)


NAMES = ("coverage", "shares", "counts", "planted", "layouts", "advice", "aa")


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0, help="of turns, for each case")
    parser.add_argument("--launches", type=int, default=3, help="processes that explain a case")
    parser.add_argument("--only", default=",".join(NAMES), metavar="CHECKS")
    parser.add_argument("--cases", default="*", metavar="GLOB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all accounts")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of is not None:
        print(explain_measured.here(given.of), flush=True)
        return
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    begin = time.monotonic()
    measurer = Measurer(__spec__.name, given.seconds, given.launches, cpu_time=given.cpu_time)
    chosen = matching(parser, "--cases", given.cases, models(), lambda case: case.name)
    checks = Checks(measurer, chosen)
    results = []
    for name in wanted:
        start = time.monotonic()
        judged: Judged = getattr(checks, name)()
        results.append(judged)
        met = "met" if judged.met else "NOT MET"
        print(
            f"{met:<8}{judged.what}: {judged.seen} ({time.monotonic() - start:.0f} s)", flush=True
        )
        if given.json is not None:
            given.json.write_bytes(msgspec.json.encode(measurer.accounts()))
    print(f"{time.monotonic() - begin:.0f} s")
    sys.exit(0 if all(judged.met for judged in results) else 1)


if __name__ == "__main__":
    main()

"""The numerics gate of a twin that several ranks compute together; on every one of them.

Of training, each rank compares what lies on it:

- the sharded twin in float64, on the hosts, with one process: to 1e-10, so the split is right;
- the sharded twin in the timed precision on the timed devices: as near to float64 as one device
  comes by itself, within twice its error;
- the gradients that the devices have reduced, with the mean of what each rank computes of its own
  rows without the others: so what went over the wire is neither lost, doubled nor narrowed;
- the bits of what several ranks hold alike, after two steps.

Of copies of inference each its own rows, as one device does. All ranks then have one verdict, which
names the rank whose fault it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench.measuring.gates import numerics
from bench.measuring.gates.readings import Reading, full, read, truth_of
from bench.measuring.gates.references import answered_no, few_threads
from bench.measuring.kept import NOTHING, Kept
from bench.measuring.ranks.agreed import apart, named
from bench.precision import REFERENCE
from bench.ranks import WHOLE, Part, Ranks, each_alone
from bench.records.outcome import Check, Numerics
from bench.records.proof import BY_ROW, OTHER_INPUTS
from bench.records.tolerances import TOLERANCES
from bench.workload import Site, Workload

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-10
"""Of the sharded twin in float64: sums in another order, of thousands of values. Measured 2e-13."""
SHORT = 2e-6
"""Of what a library computes in float32 whatever it is given: measured 2e-7."""
IN_FLOAT64 = "in float64 "
LOGITS = ("logits", OTHER_INPUTS)
OF_ALL = ("loss", "gradient_norm", "loss after 2 steps", OTHER_INPUTS)
"""Quantities that are means or sums over the ranks, or come of those: wrong on all."""
TIMES_ALONE = 2.0
"""How much larger than one device's error that of several may be: measured 0.7 to 1.3."""
KINK = 3e-2
"""Error of a gradient that is allowed in any case where a rounding may turn what a model decides.
Measured of ResNet-50 in float32, by one device: 7e-3 or 3e-3 with some seeds, 4e-6 with others."""
LOST = 0.5
"""An update, or a gradient, that is missing makes 1."""
NEARLY_NONE = 0.1
"""Of the usual gradient: the update of an element whose gradient is smaller is not compared. A bias
of keys has no gradient at all (the softmax does not see it), and of the rounding that is there Adam
makes full steps."""
WIRE = {"float64": 1e-10, "float32": 5e-4, "bfloat16": 4e-3, "float16": 1e-3}
"""Largest error of reduced gradients against the mean of the ranks' own, by their dtype: that of a
sum, which is rounded once a rank (so times the root of their number). A wire of bfloat16 makes
1.7e-3; the same kernels for the same rows make at most some last bits' difference."""


class Judged(NamedTuple):
    """A verdict that all ranks have alike."""

    numerics: Numerics
    """Of the first rank that failed, else of the first."""
    complaint: str
    """Empty where all passed."""


def gate(
    workload: Workload,
    mode: str,
    parameters: Any,
    site: Site,
    switches: Collection[str] = (),
    kept: Kept = NOTHING,
) -> Judged:
    """Compares the twin at this rank's site, and exchanges verdicts. As `numerics.gate`.

    Each rank has as many rows as one device's twin has.
    """
    ranks = site.ranks
    assert ranks is not None
    twin: Any = workload.twin(mode, parameters)
    twin = msgspec.structs.replace(twin, batch_size=twin.batch_size * ranks.size)
    if ranks.parallelism.scheme == "replicas":
        verdict = numerics.gate(workload, mode, parameters, site, switches, kept, twin=twin)
        checks, between = verdict.checks, Between()
    else:
        checks, between = _training(workload, mode, twin, site, switches, kept)
    return _judged(ranks, checks, between, misplaced(ranks, site))


def _judged(ranks: Ranks, checks: tuple[Check, ...], between: Between, place: str) -> Judged:
    """What all are told. Blamed is who is wrong by itself: a sum over all is wrong on all."""
    mine = Numerics(reference=f"{REFERENCE.name} on cpu", checks=checks)
    own, shared = _findings(checks, of_all=False), _findings(checks, of_all=True)
    own = "; ".join(filter(None, (own, between.misplaced, place)))
    told = ranks.told((own, shared, mine))
    owns, shares = [one[0] for one in told], [one[1] for one in told]
    complaint = named(owns) or between.apart or named(shares)
    guilty = next((rank for rank, said in enumerate(owns) if said), 0)
    return Judged(told[guilty][2], "; ".join(filter(None, (between.blamed, complaint))))


def _findings(checks: Sequence[Check], of_all: bool) -> str:
    return "; ".join(
        check.finding
        for check in checks
        if not check.passed and (check.quantity.removeprefix(IN_FLOAT64) in OF_ALL) == of_all
    )


class Between(NamedTuple):
    """What no check of one rank says; empty where all is right."""

    misplaced: str = ""
    """Of this rank: where its weights lie, if that is elsewhere."""
    blamed: str = ""
    """Whose part a sum lacks; the same on all ranks, as is the next."""
    apart: str = ""
    """Which replicas differ."""


def _training(
    workload: Workload, mode: str, twin: Any, site: Site, switches: Collection[str], kept: Kept
) -> tuple[tuple[Check, ...], Between]:
    ranks = site.ranks
    assert ranks is not None
    at_one = msgspec.structs.replace(site, ranks=None, as_ranks=ranks.size)
    at_own = msgspec.structs.replace(site, ranks=each_alone(ranks))
    seen = read(workload, mode, twin, site)
    own = read(workload, mode, twin, at_own, first_step=True)
    alone = read(workload, mode, twin, at_one)
    with answered_no(switches), few_threads(workload):
        truth = truth_of(workload, mode, twin, numerics.reference_of(at_one), kept)
        exact = read(workload, mode, twin, numerics.reference_of(site))
        checks = _against(exact, truth, ranks, dict.fromkeys(truth.found, EXACT), IN_FLOAT64)
        checks += [
            Check(quantity=f"{IN_FLOAT64}{what}", error=error, tolerance=EXACT)
            for what, error in errors(exact, truth, exact.parts).items()
        ]
        if any(ranks.told(any(not check.passed for check in checks))):
            rows = read(workload, mode, twin, numerics.reference_of(at_own), first_step=True)
            checks = _by_rows(checks, exact, _mean(ranks, rows.gradients))
    checks += _against(seen, truth, ranks, TOLERANCES[site.precision.name], "")
    by_one = errors(alone, truth, (WHOLE,) * len(seen.parts))
    to_truth, to_one = errors(seen, truth, seen.parts), overall(seen, alone, seen.parts)
    for what, by_itself in by_one.items():
        limit = allowed(by_itself, seen.dtype, seen.kinks)
        # A narrow weight keeps little of an update: then all are held to what one device keeps.
        error, limit = (to_truth[what], limit) if limit < LOST else (to_one[what], LOST)
        checks.append(Check(quantity=what, error=error, tolerance=limit))
    mean = _mean(ranks, own.gradients)
    off = _worst(seen.gradients, _cut(mean, seen.parts), usual(mean))
    tolerance = WIRE[seen.dtype] * ranks.size**0.5
    checks.append(Check(quantity="reduced gradients", error=off, tolerance=tolerance))
    strays = [device for device in seen.devices if device != full(site)]
    off_everywhere = all(ranks.told(off > tolerance))
    return tuple(checks), Between(
        misplaced=f"its weights lie on {strays[0]}, not on {full(site)}" if strays else "",
        blamed=_lost_or_doubled(ranks, seen, own, mean) if off_everywhere else "",
        apart=apart(ranks.told(seen.digests)) or apart(ranks.told(exact.digests)),
    )


def _by_rows(checks: Sequence[Check], exact: Reading, mean: Sequence[Tensor | None]) -> list[Check]:
    """Where a library sums in float32 whatever it is given (a router's scores), float64 is not
    exact for another split of the batch; for the same one it is, and so gradients are held to it.
    """
    off = _worst(exact.gradients, _cut(mean, exact.parts), usual(mean))
    tolerance = SHORT if off <= EXACT else EXACT
    return [
        *(msgspec.structs.replace(check, tolerance=tolerance) for check in checks),
        Check(quantity=f"{IN_FLOAT64}gradients by rows", error=off, tolerance=EXACT),
    ]


def errors(seen: Reading, truth: Reading, parts: Sequence[Part]) -> dict[str, float]:
    """Of gradients and update, element by element: the largest relative error of any tensor.

    truth: whole; parts: of each tensor what `seen` has.
    """
    least = usual(truth.gradients)
    expected = _cut(truth.gradients, parts)
    moved = _cut(truth.update, parts)
    real = [None if g is None else g.abs() > NEARLY_NONE * least for g in expected]
    return {
        "gradients": _worst(seen.gradients, expected, least),
        "update": _worst(_only(seen.update, real), _only(moved, real), 0.0),
    }


def overall(seen: Reading, alone: Reading, parts: Sequence[Part]) -> dict[str, float]:
    """As `errors`, of all tensors together: of one alone the format may keep nothing at all."""
    import torch

    def joined(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [torch.cat([t.flatten() for t in tensors if t is not None])]

    gradients, update = _cut(alone.gradients, parts), _cut(alone.update, parts)
    return {
        "gradients": _worst(joined(seen.gradients), joined(gradients), 0.0),
        "update": _worst(joined(seen.update), joined(update), 0.0),
    }


def usual(gradients: Sequence[Tensor | None]) -> float:
    """What no gradient counts as smaller than: the root mean square of them all."""
    there = [g for g in gradients if g is not None]
    squares = sum(float(g.square().sum()) for g in there)
    return math.sqrt(squares / max(1, sum(g.numel() for g in there)))


def allowed(alone: float, dtype: str, kinks: bool = False) -> float:
    """Error that several devices may have where one has this; some last bits in any case.

    kinks: whether it may have had none of the jumps that others have.
    """
    import torch

    least = KINK if kinks else 8 * torch.finfo(getattr(torch, dtype)).eps
    return max(TIMES_ALONE * alone, least)


def misplaced(ranks: Ranks, site: Site) -> str:
    """Whether this rank has a device that is another's; of a host all share one.

    Hosts count theirs each from 0; those that are containers of one machine may share a card.
    """
    mine = (ranks.host, full(site), ranks.card)
    host, place, card = mine

    def is_mine(there: int, other: str, its_card: str) -> bool:
        return other == place if there == host else its_card == card != ""

    first = [is_mine(*one) for one in ranks.told(mine)].index(True)
    if site.device.type == "cpu" or first == ranks.rank:
        return ""
    return f"it is on {place}, which is the device of rank {first}"


def _against(
    seen: Reading, truth: Reading, ranks: Ranks, tolerances: dict[str, float], words: str
) -> list[Check]:
    """Of what the probe gives; logits of this rank's own rows. A rank's tells nothing of each
    gradient, as one device's does: those are compared whole."""
    found = []
    for quantity, value in truth.found.items():
        if quantity in BY_ROW:
            continue
        mine = value[ranks.part(len(value))] if quantity in LOGITS else value
        error = numerics.relative_error(seen.found[quantity], mine)
        tolerance = tolerances[quantity]
        found.append(Check(quantity=f"{words}{quantity}", error=error, tolerance=tolerance))
    return found


def _worst(
    found: Sequence[Tensor | None], expected: Sequence[Tensor | None], least: float
) -> float:
    """Largest relative error, in norm, of any tensor; infinite where one is not finite or lacks.

    least: root mean square that no tensor counts as smaller than.
    """
    worst = 0.0
    for one, right in zip(found, expected, strict=True):
        if one is None or right is None:
            if one is not right:
                return math.inf
            continue
        if one.shape != right.shape:
            return math.inf
        off = float((one - right).norm())
        size = max(float(right.norm()), least * right.numel() ** 0.5)
        if not math.isfinite(off):  # max() would let NaN pass
            return math.inf
        if off:
            worst = max(worst, off / size if size else math.inf)
    return worst


def _only(tensors: Sequence[Tensor | None], where: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(tensors, where, strict=True)
    return [t if t is None or mask is None else t[mask] for t, mask in pairs]


def _cut(whole: Sequence[Tensor | None], parts: Sequence[Part]) -> list[Tensor | None]:
    pairs = zip(whole, parts, strict=True)
    return [None if tensor is None else part.of(tensor) for tensor, part in pairs]


def _mean(ranks: Ranks, own: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean over the ranks of what each computed of its own rows."""
    return [None if tensor is None else ranks.mean(tensor) for tensor in own]


def _lost_or_doubled(
    ranks: Ranks, seen: Reading, own: Reading, mean: Sequence[Tensor | None]
) -> str:
    """Whose gradients the sum lacks, or has twice: told by what is over or missing of it."""
    import torch

    over, mine = [], []
    for reduced, part, right, ours in zip(
        seen.gradients, seen.parts, mean, own.gradients, strict=True
    ):
        if reduced is None or right is None or ours is None:
            continue
        excess = torch.zeros_like(right)
        part.of(excess).copy_((reduced - part.of(right)) * part.count)
        over.append(ranks.mean(excess).flatten() * ranks.size)
        mine.append(ours.flatten())
    excess, ours = torch.cat(over), torch.cat(mine)
    times = float(excess @ ours / (ours @ ours).clamp_min(1e-300))
    rest = float((excess - times * ours).norm() / excess.norm().clamp_min(1e-300))
    told = ranks.told((rest if math.isfinite(rest) else math.inf, times))
    rest, rank = min((one[0], rank) for rank, one in enumerate(told))
    if rest > 0.1:
        return ""
    times = 1 + told[rank][1]
    words = "missing from" if abs(times) < 0.5 else f"{times:.2g} times in"
    return f"the gradients of rank {rank} are {words} the sum"

"""What is said of two whole systems beside their ratio: count x chip x scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.system import Product
from bench.judging.interval import Interval
from bench.reports.wording.rows import ratio, share


def spreads(case: CaseComparison) -> str:
    """`dp8 | fsdp64`: how base and other spread the work; empty of two equal cases."""
    return "" if case.system is None else case.system.words


def one(comparison: Comparison) -> str:
    """What the ratio of one device to one device is called: the chip's only where nothing else can
    be why."""
    return "one device" if comparison.configured.chip_doubt else "chip"


def lines(case: CaseComparison, name: str) -> Iterator[str]:
    """The ratio as a product, and what else its factors say; name: of the second factor."""
    found = None if case.system is None else case.system.product
    if found is None:
        return
    count = f"= count {found.count:g}"
    if case.ratio is not None and not math.isclose(found.ratio, case.ratio, rel_tol=1e-9):
        count = f"{ratio(found.ratio)} in equal rounds {count}"
    each = f"{between(found.per_device)} a device"
    if found.chip is None or found.scaling is None:
        yield f"{count} x {each}; {name} and scaling not told apart: {found.unsplit}"
    else:
        factors = f"{name} {between(found.chip)} x scaling {between(found.scaling)}"
        yield f"{count} x {factors}; {each}"
    if efficiency := _efficiencies(found):
        yield efficiency


def factors(comparison: Comparison, case: CaseComparison) -> str:
    """What `lines` say, in one."""
    return "; ".join(lines(case, one(comparison)))


def _efficiencies(found: Product) -> str:
    """Of the sides that have one; nothing of one device, which is its own measure."""
    said = [
        f"{who} {one.said(share)}"
        for who, one in zip(("base", "other"), found.efficiencies, strict=True)
        if one is not None and one != Interval(value=1.0, low=1.0, high=1.0)
    ]
    return f"efficiency against one device: {', '.join(said)}" if said else ""


def between(one: Interval) -> str:
    """`0.778 (0.769-0.787)`, with an en dash."""
    return one.said(ratio, "\N{EN DASH}")


def legend(comparison: Comparison) -> Iterator[str]:
    """What the factors are."""
    products = [case.system.product for case in comparison.cases if case.system]
    if any(found is not None and found.chip is not None for found in products):
        name = one(comparison)
        yield (
            f"count x {name} x scaling: the ratio, as that of the numbers of devices, of one "
            "device to one device at the same global batch, and of the efficiencies"
        )
    if any("in equal rounds" in line for case in comparison.cases for line in lines(case, "")):
        yield (
            "In equal rounds: by the launches of the rounds that a side's one device and all its "
            "devices both have: others ended sooner, or were left out"
        )

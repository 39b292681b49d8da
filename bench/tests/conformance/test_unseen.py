"""What a check did not run, or cannot tell, is no pass of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.conformance.check import Stand
from bench.conformance.checks import operators
from bench.precision import Precision


class Denying(Stand):
    """The CPU, as one that has some precisions only, and notes those for which it is opened."""

    def __init__(self, has: Collection[str]) -> None:
        self.opened: list[str] = []
        super().__init__(catalogue.backend("cpu"), 0)
        kind: Any = type(self.backend)

        def unsupported(_: object, __: DeviceInfo, precision: Precision) -> str | None:
            return None if precision.name in has else "no unit for it"

        self.backend = type("Denying", (kind,), {"unsupported": unsupported})()
        self.opened.clear()

    def open(self, precision: Precision) -> Any:
        self.opened.append(precision.name)
        return super().open(precision)


@pytest.mark.parametrize(
    ("has", "ran", "verdict"),
    [
        ((), [], "not observable"),
        (("fp16",), ["fp16"], "pass"),
        (("bf16", "fp16"), ["bf16"], "pass"),
    ],
)
def test_an_operator_passes_only_in_what_it_ran_in(
    has: Collection[str], ran: list[str], verdict: str
) -> None:
    stand = Denying(has)
    for finding in operators.numerics(stand):
        assert finding.verdict == verdict, finding
        told = finding.observed or finding.reason
        assert "fp32 not supported" in told and all(f"{name} " in told for name in ran)
    assert stand.opened == ran * len(operators.OPERATORS)


def test_operators_that_do_not_run_are_not_said_to_fall_back_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "_error", lambda *_: 1 / 0)
    monkeypatch.setattr(Stand, "ran_on_host", lambda _: ())
    assert operators._announced(Denying(())).verdict == "not observable"

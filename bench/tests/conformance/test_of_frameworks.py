"""The kit for another framework: green on one that is honest, red for each fault of its own."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bench import catalogue
from bench.backend import Backend, DeviceInfo
from bench.conformance import examine, of_frameworks
from bench.conformance.check import Finding, Stand
from bench.conformance.checks import _chain
from bench.conformance.worker import checks
from bench.errors import DeviceUnavailable
from bench.precision import Precision
from bench.records.executed import Executed
from bench.records.outcome import Memory
from bench.records.proof import OUTPUT
from bench.running.elsewhere import Elsewhere
from bench.running.probe import Chosen
from bench.tests.conftest import Accelmark
from bench.tests.frameworks import plain
from bench.tests.frameworks.plain import FRAMEWORK, Place, Products
from bench.workload import Look

KIT = checks(FRAMEWORK.name)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of a few milliseconds: what is tried is the judgement."""
    monkeypatch.setattr(_chain, "KERNEL_SECONDS", 1e-4)
    monkeypatch.setattr(_chain, "CHAIN_SECONDS", 8e-3)


def found(check: str) -> dict[str, Finding]:
    """Of a check in this process, by title."""
    stand = Stand(catalogue.backend("cpu"), 0, FRAMEWORK, KIT[check].precision)
    findings = [finding for part in KIT[check].parts for finding in part(stand)]
    return {finding.title: finding for finding in findings}


def test_of_each_check_for_torch_there_is_the_like_or_why_not() -> None:
    of_torch = [*checks()]
    assert [*KIT] == [*of_torch, "draws", "shortened"]
    for name, check in KIT.items():
        assert bool(check.parts) is not bool(check.absent), name
        assert not check.absent or check.absent.startswith("not applicable: ")
    assert set(of_frameworks.WHY) <= set(checks())


HONEST = (
    *("formats", "transfers", "draws", "failures", "executions", "events", "declared"),
    "shortened",
)


@pytest.mark.parametrize("check", HONEST)
def test_an_honest_framework_passes(check: str) -> None:
    verdicts = {finding.verdict for finding in found(check).values()}
    assert "fail" not in verdicts and verdicts & {"pass", "not observable"}


@pytest.mark.parametrize("host", [True, False])
def test_out_of_memory_is_seen_by_nobody(monkeypatch: pytest.MonkeyPatch, host: bool) -> None:
    """Of a host it cannot be asked; of what has memory of its own it is not."""
    monkeypatch.setattr(Stand, "on_host", host)
    (finding,) = found("out of memory").values()
    assert finding.verdict == "not observable"
    assert finding.reason.startswith("not applicable: " if host else "not seen: ")


class Rounding(Products):
    """Multiplies in half the bits."""

    def step(self) -> None:
        super().step()
        self.product = self.product.astype(np.float16).astype(np.float32)


class Doubling(Products):
    """Holds other numbers than it was given."""

    def __init__(self, pairs: list[Any]) -> None:
        super().__init__([(2 * a, b) for a, b in pairs])


class Drawing(Products):
    """Adds noise."""

    def step(self) -> None:
        super().step()
        self.product = self.product + np.random.default_rng().standard_normal()


class Uncompiled(Products):
    """Says that it ran as it was written."""

    def looks(self) -> Iterator[Look]:
        yield Look(what="execution", asked="compile", seen="eager")


class Torn(Place):
    """Reads back what is not so."""

    def float32_reduced(self) -> bool:
        return True


FAULTS: Mapping[str, tuple[str, str, Any, str, str]] = {
    "short products": (
        *("formats", "Products", Rounding, "fp32 matmul keeps 23 bits"),
        "not as fp32",
    ),
    "wrong products": ("declared", "Products", Rounding, "fp32 is as declared", "another format"),
    "a switch that lies": (
        *("formats", "Place", Torn, "float32_reduced says what is computed"),
        "a run would say",
    ),
    "other operands": (
        *("draws", "Products", Doubling, "its operands are what was drawn"),
        "operand 1 is another",
    ),
    "noise": ("draws", "Products", Drawing, "two jobs of the same draws agree", "other bits"),
    "no compiler": (
        *("executions", "Products", Uncompiled, "compile is what runs, and computes the same"),
        "execution: eager",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, name, other, title, reason = FAULTS[fault]
    monkeypatch.setattr(plain, name, other)
    finding = found(check)[title]
    assert finding.verdict == "fail" and reason in finding.reason, finding


@pytest.mark.parametrize(
    ("kernels", "on_host", "verdict", "said"),
    [
        (None, True, "not observable", "functions of numpy's"),
        ({"host": ("MatMul",)}, True, "pass", "MatMul on host"),
        ({}, True, "fail", "kernels of a step: asked for some, got none"),
        ({"host": ("MatMul",)}, False, "fail", "host fallback: asked for none, got MatMul"),
    ],
)
def test_where_a_products_kernels_ran_is_told(
    monkeypatch: pytest.MonkeyPatch, kernels: Any, on_host: bool, verdict: str, said: str
) -> None:
    def executed(self: Any, step: Callable[[], object], device: Any, execution: str) -> Executed:
        step()
        return Executed(kernels=kernels)

    if kernels is not None:
        monkeypatch.setattr(plain.Plain, "executed", executed)
    monkeypatch.setattr(Stand, "on_host", on_host)
    findings = found("host fallback")
    assert [*findings] == [
        f"a product's kernels run on the device, {how}" for how in ("eager", "compile")
    ]
    for finding in findings.values():
        assert finding.verdict == verdict and said in finding.reason + finding.observed


def test_bits_that_are_lost_on_the_way_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain.Arrays, "rewrite", lambda self, tensor, words: None)
    finding = found("transfers")["copies to and fro change no bit"]
    assert finding.verdict == "fail" and "others came back" in finding.reason


class Counted(Place):
    """Says how much the jobs that are there hold, and the most since a reset."""

    jobs: weakref.WeakSet[Products]
    peak = 0
    stuck = False

    def reset_peak_memory(self) -> None:
        self.peak = 0

    def memory(self) -> Memory:
        now = sum(a.nbytes + b.nbytes for job in self.jobs for a, b in job.pairs)
        self.peak = 1 if self.stuck else max(self.peak, now)
        return Memory(peak_bytes=self.peak, scope="what jobs hold", host_rss_bytes=now)


@pytest.mark.parametrize("stuck", [False, True])
def test_the_peak_is_what_jobs_hold(monkeypatch: pytest.MonkeyPatch, stuck: bool) -> None:
    made: weakref.WeakSet[Products] = weakref.WeakSet()

    class Noted(Products):
        def __init__(self, pairs: list[Any]) -> None:
            super().__init__(pairs)
            made.add(self)

    monkeypatch.setattr(Counted, "jobs", made, raising=False)
    monkeypatch.setattr(Counted, "stuck", stuck)
    monkeypatch.setattr(plain, "Place", Counted)
    monkeypatch.setattr(plain, "Products", Noted)
    monkeypatch.setattr(of_frameworks, "PIECE", 128)
    failed = {title for title, finding in found("memory").items() if finding.verdict == "fail"}
    assert ("the peak grows with what is allocated" in failed) is stuck
    assert bool(failed) is stuck


@pytest.mark.parametrize("waits", [True, False])
def test_a_synchronization_that_does_not_wait_is_seen(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    queue: list[Future[None]] = []

    def flush() -> None:
        while queue:
            queue.pop().result()

    class Later(Products):
        def step(self) -> None:
            queue.append(pool.submit(super().step))

    def picked(self: Any, tensors: Any, positions: Any) -> Any:
        pairs = zip(tensors, positions, strict=True)
        return np.concatenate(
            [x().ravel()[at] if callable(x) else x.ravel()[at] for x, at in pairs]
        )

    def outputs(self: Products) -> Any:
        def product() -> Any:
            flush()
            return self.product

        return {OUTPUT: [product]}

    monkeypatch.setattr(_chain, "CHAIN_SECONDS", 2e-2)
    monkeypatch.setattr(plain, "Products", Later)
    monkeypatch.setattr(Later, "outputs", outputs)
    monkeypatch.setattr(plain.Arrays, "picked", picked)
    if waits:
        monkeypatch.setattr(Place, "synchronize", lambda self: flush())
    with ThreadPoolExecutor(1) as pool:
        finding = found("synchronize")["synchronize waits for the work"]
    assert finding.verdict == ("pass" if waits else "fail"), finding


def test_products_of_two_pieces_of_bfloat16_are_not_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pieces(wide: Any) -> tuple[Any, Any]:
        high = (wide.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return high, ((wide - high).view(np.uint32) & 0xFFFF0000).view(np.float32)

    class InPieces(Products):
        def step(self) -> None:
            a, b = self.pairs[self.turn % len(self.pairs)]
            super().step()
            (a1, a2), (b1, b2) = pieces(a), pieces(b)
            self.product = a1 @ b1 + a1 @ b2 + a2 @ b1

    monkeypatch.setattr(plain, "Products", InPieces)
    finding = found("formats")["fp32 matmul keeps 23 bits"]
    assert finding.verdict == "fail" and finding.observed == "15 bits of 23"


@pytest.mark.parametrize("works", [True, False])
def test_a_switch_that_a_process_sets_once_is_tried_in_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    at: list[bool] = []

    class Switched(Place):
        def float32_reduced(self) -> bool:
            return at == [True]

    class Shortening(Products):
        def step(self) -> None:
            a, b = self.pairs[self.turn % len(self.pairs)]
            super().step()
            if at == [True] and works:
                self.product = a.astype(np.float16).astype(np.float32) @ b

    def opened(backend: Backend, index: int, precision: Precision) -> Switched:
        if at not in ([], [precision.shortened]):
            raise DeviceUnavailable("it was set for another")
        at[:] = [precision.shortened]
        return Switched(FRAMEWORK.devices(backend)[0])

    def unsupported(backend: Backend, info: DeviceInfo, precision: Precision) -> str | None:
        return None if precision.name in ("fp32", "tf32") else "no"

    monkeypatch.setattr(plain, "Products", Shortening)
    monkeypatch.setattr(FRAMEWORK, "open", opened)
    monkeypatch.setattr(FRAMEWORK, "unsupported", unsupported)
    failed = {}
    for check in ("declared", "formats", "shortened"):
        at.clear()
        for finding in found(check).values():
            if finding.verdict == "fail":
                failed[finding.title] = finding.reason
    nothing = {"tf32 shortens what it multiplies", "float32_reduced says what is computed"}
    assert {*failed} == (set() if works else nothing), failed


@pytest.mark.parametrize(
    ("error", "verdict", "said"),
    [
        (TypeError("no such type"), "pass", "and refused (TypeError)"),
        (KeyError("a name that the kit has wrong"), "fail", "KeyError"),
    ],
)
def test_only_a_refusal_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, error: Exception, verdict: str, said: str
) -> None:
    class Refusing(Products):
        def step(self) -> None:
            raise error

    monkeypatch.setattr(plain, "Products", Refusing)
    finding = found("declared")["fp16 is as declared"]
    assert finding.verdict == verdict and said in finding.observed


def test_one_that_dies_is_a_row_and_what_does_not_apply_needs_no_process() -> None:
    device = DeviceInfo(backend="cpu", index=0, name="a host", memory_bytes=None)
    command = (sys.executable, "-c", "import os; os._exit(3)")
    where = Elsewhere("mindspore", sys.executable)
    wanted = [KIT["declared"], KIT["streams"]]
    died, absent = examine.examine(device, wanted, command, where)
    assert "left with exit code 3" in died.findings[0].reason and died.failures == 1
    assert absent.findings[0].reason.startswith("not applicable") and absent.failures == 0


def test_the_command_says_which_framework_is_meant(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = accelmark("check-backend", "cpu", "--framework", "minespore")
    assert code == 2 and "mindspore" in said
    device = DeviceInfo(
        backend="cpu", index=0, name="a host", memory_bytes=None, facts={"mindspore": "2.10.0"}
    )
    asked: list[Elsewhere] = []

    def chosen(where: Elsewhere, address: str) -> Chosen:
        asked.append(where)
        return Chosen(device, [], 1)

    monkeypatch.setattr("bench.running.reached.choose_by", chosen)
    given = ("check-backend", "cpu", "--framework", "mindspore", "--python", sys.executable)
    code, out, said = accelmark(*given, "--only", "streams")
    assert code == 0 and "mindspore 2.10.0" in out and "not applicable" in out
    assert "a host, by mindspore" in said
    code, out, _ = accelmark(*given, "--only", "operators", "--json")
    document = json.loads(out)
    assert code == 0 and document["framework"] == "mindspore"
    assert document["counts"]["not observable"] == 1
    assert [where.framework for where in asked] == ["mindspore"] * 2

"""What a check is, what a finding must say, and what single readings give away."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.commands import check_backend
from bench.conformance import examine
from bench.conformance.check import Finding, Stand, failed, note, passed, unseen
from bench.conformance.checks import arithmetic
from bench.conformance.checks import memory as checks_of_memory
from bench.conformance.checks.arithmetic import kept_bits, matmul
from bench.conformance.checks.memory import keeps
from bench.conformance.checks.telemetry import backwards, implausible
from bench.conformance.examine import Examined
from bench.records.observed import Reading
from bench.records.outcome import Memory


def test_every_check_is_named_once_and_says_what_it_is() -> None:
    found = examine.all_checks()
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.summary and check.parts and check.limit_seconds <= 600


@pytest.mark.parametrize(
    ("finding", "complaint"),
    [
        ({"title": "t", "verdict": "fail", "reason": "r"}, "without its reason and the next act"),
        ({"title": "t", "verdict": "fail", "next": "n"}, "without its reason and the next act"),
        ({"title": "t", "verdict": "not observable"}, "no reason"),
        ({"title": "t", "verdict": "pass"}, "nothing was observed"),
    ],
)
def test_a_finding_that_says_nothing_cannot_be_made(
    finding: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Finding(**finding)


def test_a_result_of_another_dtype_is_refused() -> None:
    stand = Stand(catalogue.backend("cpu"), 0)
    assert kept_bits(stand, "bfloat16", 7, matmul) == 7
    assert kept_bits(stand, "float32", 23, lambda a, b: (a.bfloat16() @ b.bfloat16()).float()) == 7
    with pytest.raises(TypeError, match=r"torch.bfloat16 asked for, torch.float32 given"):
        kept_bits(stand, "bfloat16", 7, lambda a, b: (a @ b).float())


@pytest.mark.parametrize("shared", [True, False])
def test_a_host_is_not_asked_for_more_memory_than_it_has(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Four times the memory of a device that shares the host's brought such machines to a stand."""
    stand, asked = Stand(catalogue.backend("cpu"), 0), list[int]()

    def refused(_: Stand, size: int) -> BaseException:
        asked.append(size)
        return MemoryError()

    monkeypatch.setattr(checks_of_memory, "_refusal", refused)
    monkeypatch.setattr(Stand, "on_host", False)
    monkeypatch.setattr(type(stand.device), "shares_host_memory", shared)
    verdicts = {finding.verdict for finding in checks_of_memory.out_of_memory(stand)}
    assert verdicts == ({"not observable"} if shared else {"pass"})
    assert len(asked) == (0 if shared else 2)


def test_an_operand_in_two_pieces_keeps_fewer_bits_than_float32() -> None:
    """1 + 2^-k is two pieces of bfloat16 for every k: the bits between must count."""
    import torch

    def pieces(wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        high = wide.bfloat16().float()
        return high, (wide - high).bfloat16().float()

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        (a1, a2), (b1, b2) = pieces(a), pieces(b)
        return a1 @ b1 + a1 @ b2 + a2 @ b1

    stand = Stand(catalogue.backend("cpu"), 0)
    assert kept_bits(stand, "float32", 23, product) == 16
    assert kept_bits(stand, "float32", 23, matmul) == 23
    assert kept_bits(stand, "float64", 52, matmul) == 52
    for keep in (10, 11):

        def shorter(a: torch.Tensor, b: torch.Tensor, keep: int = keep) -> torch.Tensor:
            one, two = ((x.view(torch.int32) >> 23 - keep << 23 - keep) for x in (a, b))
            return one.view(torch.float32) @ two.view(torch.float32)

        assert kept_bits(stand, "float32", 23, shorter) == keep


@pytest.mark.parametrize(
    ("bits", "verdict"), [(7, "fail"), (10, "pass"), (11, "pass"), (16, "pass"), (23, "fail")]
)
def test_tf32_is_neither_float32_nor_less_than_its_own_format(
    monkeypatch: pytest.MonkeyPatch, bits: int, verdict: str
) -> None:
    """In two pieces of bfloat16 it keeps 15 or 16 bits, and is the device's TF32."""
    stand = Stand(catalogue.backend("cpu"), 0)
    monkeypatch.setattr(type(stand.backend), "unsupported", lambda *_: None)
    monkeypatch.setattr(arithmetic, "kept_bits", lambda *_: bits)
    assert arithmetic._shortened(stand).verdict == verdict


def test_readings_that_cannot_be() -> None:
    assert implausible(Reading(power_watts=500, temperature_celsius=90), 300, None) == []
    assert implausible(Reading(power_watts=700, clock_mhz=20_000), 300, None) == [
        "power 700 W is outside 0 to 600",
        "clock 20,000 MHz is outside 0 to 10,000",
    ]
    assert implausible(Reading(utilisation_percent=101, memory_used_bytes=9), None, 8) == [
        "utilisation 101 % is outside 0 to 100",
        "memory 9 B is outside 0 to 8",
    ]
    fell = backwards(Reading(energy_joules=5), Reading(energy_joules=4))
    assert fell == ["the energy counter fell from 5 to 4 J"]
    assert backwards(Reading(energy_joules=5), Reading()) == []


@pytest.mark.parametrize("width", [40, 60, 79, 80, 81, 120, 200, 400])
def test_the_card_of_the_kit_at_every_width(width: int) -> None:
    findings = (
        passed("synchronize waits for every stream", "12.3 ms of 12.5 ms"),
        failed(
            "events agree with the clock", "ratio 0.5", "half the time is missing", "Look at it"
        ),
        unseen("device_lost is told from other failures", "nothing to break here"),
        note("bandwidth", "1.23 TB/s"),
    )
    done = [Examined(check="timing", summary="clocks tell the truth", findings=findings, seconds=1)]
    info = DeviceInfo(backend="fake", index=0, name="Fake X1", memory_bytes=1)
    card = check_backend._text(info, done, width)
    assert max(map(len, card.splitlines())) <= width
    expected = re.sub("─+", "", check_backend._text(info, done, 400)).split()
    found = re.sub("─+", "", card).split()
    assert set(expected) - {"verdict", "check", "observed", "timing"} <= set(found)


@pytest.mark.parametrize(
    ("scope", "fallen", "verdict"),
    [
        ("process RSS", 0, "pass"),
        ("process RSS", 2, "pass"),
        ("process RSS", 8, "fail"),
        ("device allocator", 0, "pass"),
        ("device allocator", 2, "fail"),
    ],
)
def test_a_peak_that_falls_with_what_is_freed_is_none(
    scope: str, fallen: int, verdict: str
) -> None:
    """An operating system's counter may seem to fall by a few pages; an allocator's may not."""
    full, lower = (
        Memory(peak_bytes=n * 2**20, scope=scope, host_rss_bytes=1) for n in (300, 300 - fallen)
    )
    assert keeps(full, lower, 64 * 2**20).verdict == verdict

"""One grammar for how work is spread: what it means, and what it refuses."""

from __future__ import annotations

import msgspec
import pytest

from bench.records.parallelism import NONE, Parallelism, allowed, is_open, nearest, parse


@pytest.mark.parametrize(
    ("text", "scheme", "sizes", "devices"),
    [
        ("none", "none", (), 1),
        ("dp8", "dp", (8,), 8),
        ("fsdp2", "fsdp", (2,), 2),
        ("hsdp2x4", "hsdp", (2, 4), 8),
        ("replicas16", "replicas", (16,), 16),
        ("dlrm-hybrid4", "dlrm-hybrid", (4,), 4),
    ],
)
def test_it_reads_what_it_writes(
    text: str, scheme: str, sizes: tuple[int, ...], devices: int
) -> None:
    found = parse(text)
    assert (found.scheme, found.sizes, found.devices, str(found)) == (scheme, sizes, devices, text)
    assert msgspec.convert(msgspec.to_builtins(found), Parallelism) == found


def test_an_open_one_takes_the_runs_devices() -> None:
    assert str(parse("dp", 8)) == "dp8"
    assert str(parse("hsdp", 8)) == "hsdp2x4"
    assert is_open("fsdp")
    assert not is_open("none") and not is_open("dp8")
    with pytest.raises(ValueError, match="says no number of devices"):
        parse("dp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp2", "tensor parallelism (tp) is not measured by this release"),
        ("pp4", "pipeline parallelism (pp) is not measured by this release"),
        ("ep8", "expert parallelism (ep) is not measured by this release"),
        ("fsdp8 tp2", "tensor parallelism (tp) is not measured"),
        ("DP2", "unknown parallelism `DP2`"),
        ("dp02", "unknown parallelism `dp02`"),
        ("dp8x", "unknown parallelism `dp8x`"),
        ("ddp8", "unknown parallelism `ddp8`"),
        ("", "unknown parallelism ``"),
        ("dp1", "parallelism `dp1`: dp takes one number from 2 up"),
        ("dp2x4", "dp takes one number from 2 up"),
        ("hsdp8", "hsdp takes two numbers from 2 up"),
        ("hsdp1x8", "hsdp takes two numbers from 2 up"),
        ("none4", "none takes no number"),
        ("dp99999", "at most 65536 devices"),
    ],
)
def test_what_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="parallelism") as caught:
        parse(text)
    assert said in str(caught.value)


def test_hsdp_on_devices_that_are_no_product() -> None:
    for devices in (2, 3, 7):
        with pytest.raises(ValueError, match="two numbers, whose product they are"):
            parse("hsdp", devices)


def test_what_may_be_written_is_said() -> None:
    assert allowed(("none", "dp")) == "Allowed: none, dp8, with any number from 2 up."
    assert "cannot be spread" in allowed(("none",))
    assert NONE.devices == 1


def test_the_nearest_numbers_of_devices() -> None:
    assert nearest(8, 3) == (2, 4)
    assert nearest(8, 16) == (8,)
    assert nearest(6, 2) == (3,)
    assert nearest(7, 2) == (7,)

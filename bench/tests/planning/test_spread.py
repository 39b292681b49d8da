"""Over how many devices a case is spread: what its entry says, and what the run says for it."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import SuiteError
from bench.planning import spread
from bench.workload import Mode, Parameters

MODEL = Mode(parameters=Parameters, schemes=("none", "dp", "fsdp", "hsdp"))
TOGETHER = Mode(parameters=Parameters, together=True)
ALONE = Mode(parameters=Parameters)
COPIES = Mode(parameters=Parameters, schemes=("none", "replicas"))


def of(mode: Mode, **values: Any) -> tuple[int, str]:
    return spread.spread("s.toml, case 1", "toy-train", mode, values, 4)


def test_one_device_unless_it_is_said() -> None:
    assert of(MODEL) == (1, "none")
    assert of(MODEL, parallelism="none", devices=1) == (1, "none")
    assert of(ALONE, parallelism="none") == (1, "none")


def test_an_open_parallelism_takes_the_runs_devices() -> None:
    assert of(MODEL, parallelism="dp") == (4, "dp4")
    assert of(MODEL, parallelism="hsdp") == (4, "hsdp2x2")
    assert of(MODEL, parallelism="dp", devices="all") == (4, "dp4")
    assert of(MODEL, parallelism="fsdp8") == (8, "fsdp8")
    assert of(MODEL, parallelism="fsdp8", devices=8) == (8, "fsdp8")


def test_what_devices_do_together_takes_all_or_so_many() -> None:
    assert of(TOGETHER) == (4, "none")
    assert of(TOGETHER, devices="all") == (4, "none")
    assert of(TOGETHER, devices=8) == (8, "none")


@pytest.mark.parametrize(
    ("batch", "over", "said"),
    [
        (6, (2, "dp2"), ""),
        (7, (1, "none"), ""),
        (7, (2, "none"), ""),
        (
            8,
            (3, "dp3"),
            "a batch of 8 does not divide over 3 devices (dp3). Nearest that do: a batch of 6 or 9 "
            "or 8 over 2 or 4 devices",
        ),
        (
            1,
            (8, "dp8"),
            "a batch of 1 does not divide over 8 devices (dp8). Nearest that do: a batch of 8",
        ),
    ],
)
def test_a_batch_divides(batch: int, over: tuple[int, str], said: str) -> None:
    assert spread.undivided(batch, spread.Spread(*over)) == said


def test_a_number_beside_a_scheme_says_over_how_many() -> None:
    assert of(MODEL, parallelism="dp", devices=8) == (8, "dp8")
    assert of(MODEL, parallelism="hsdp", devices=1) == (1, "none")


@pytest.mark.parametrize(
    ("mode", "values", "said"),
    [
        (MODEL, {"parallelism": "replicas2"}, "has no parallelism `replicas2`. Allowed: none, dp8"),
        (MODEL, {"parallelism": "tp2"}, "(tp) is not measured by this release. Allowed: none, dp8"),
        (ALONE, {"parallelism": "dp2"}, "no parallelism `dp2`. It cannot be spread over devices"),
        (ALONE, {"parallelism": "none", "devices": 2}, "runs on one device only. Leave out"),
        (COPIES, {"devices": 2}, 'Add one, e.g. parallelism = "replicas2", or leave out `dev'),
        (MODEL, {"parallelism": 4}, "unknown parallelism `4`. Allowed: none, dp8, fsdp8, hsdp2x4"),
        (MODEL, {"devices": 4}, 'on 4. Add one, e.g. parallelism = "dp4", or leave out `devices`.'),
        (MODEL, {"devices": "all"}, "runs on one device without a `parallelism`, not on all."),
        (MODEL, {"parallelism": "dp2", "devices": 4}, "dp2 takes 2 devices, not 4. Leave out"),
        (TOGETHER, {"devices": 1}, "takes 2 devices or more, not 1. Give `devices` a number"),
        (TOGETHER, {"devices": "many"}, "takes 2 devices or more, not many."),
        (TOGETHER, {"devices": True}, "takes 2 devices or more, not True."),
        (TOGETHER, {"parallelism": "dp2"}, "is what devices do together, not a model"),
    ],
)
def test_what_cannot_be_is_refused(mode: Mode, values: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        of(mode, **values)
    assert str(caught.value).startswith("s.toml, case 1: toy-train")
    assert said in str(caught.value)


def test_one_device_for_all_is_too_few() -> None:
    with pytest.raises(SuiteError, match="the run `--devices 2`"):
        spread.spread("s.toml, case 1", "toy", TOGETHER, {}, 1)


def test_which_entries_leave_it_open() -> None:
    assert spread.is_open({}, TOGETHER)
    assert not spread.is_open({"devices": 2}, TOGETHER)
    assert spread.is_open({"parallelism": "dp"}, MODEL)
    assert not spread.is_open({"parallelism": "dp8"}, MODEL)
    assert not spread.is_open({}, MODEL)

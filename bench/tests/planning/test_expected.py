"""How long a suite takes: from what the published runs took, else from shapes, else not known."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bench.catalogue import configs_folder
from bench.planning import expected
from bench.planning.expected import Expected, Known
from bench.planning.plan import plan
from bench.planning.shapes import LEAST_BLOCKS
from bench.planning.suite_file import Suite, find_suite, read_suite
from bench.records.run import Settings
from bench.tests.conftest import Accelmark
from bench.tests.scripts import times

SQUARE = {"workload": "gemm", "precision": "bf16", "shape": "1024x1024x1024"}
SINGLE = {"workload": "gemm", "precision": "fp32", "shape": "1024x1024x1024"}
PRODUCT = 2 * 1024**3


def suite(*entries: dict[str, Any], **changes: Any) -> Suite:
    settings = changes.pop("settings", Settings(launches=3, block_seconds=0.01))
    whole = {"name": "a", "source": "a", "description": "", "settings": settings}
    return Suite(**{**whole, "entries": entries, **changes})


def known(**changes: Any) -> Known:
    (case,) = plan(suite(SQUARE))
    return Known(**{"launches": {case.fingerprint: (9.0, 2.0)}, "besides": (5.0, 1.0), **changes})


def test_a_case_that_was_published_takes_what_its_launches_took() -> None:
    assert expected.expected(suite(SQUARE), known()) == Expected(9 + 2 * 2, 0, 0, open=False)


def test_another_takes_what_its_shapes_say_beside_what_launches_take_without_blocks() -> None:
    rates = {"flop_per_second": {"fp32": PRODUCT / 0.1}}
    blocks = LEAST_BLOCKS * 0.1
    found = expected.expected(suite(SQUARE, SINGLE), known(**rates))
    assert found.seconds == pytest.approx(13 + (5 + blocks) + 2 * (1 + blocks))
    assert (found.estimated, found.unknown) == (1, 0)
    loaded = expected.expected(suite(SQUARE, SINGLE), known(**rates, under_load=True))
    assert loaded.seconds == pytest.approx(found.seconds + 3 * 10)


def test_what_nothing_says_anything_of_is_counted_and_not_guessed() -> None:
    assert expected.expected(suite(SQUARE, SINGLE), known()) == Expected(13, 0, 1, open=False)
    assert expected.expected(suite(SINGLE), known()) == Expected(0, 0, 1, open=False)


def test_bytes_alone_say_nothing_of_a_case_that_has_flop() -> None:
    """A product of 16384 rows was put at ten seconds, by its bytes, where it takes minutes."""
    bytes_alone = known(bytes_per_second=1e9)
    assert expected.expected(suite(SINGLE), bytes_alone) == Expected(0, 0, 1, open=False)
    copy = {"workload": "memory", "mode": "copy", "precision": "fp32", "size_bytes": 2**20}
    assert expected.expected(suite(copy), bytes_alone).estimated == 1


@pytest.mark.parametrize(("launches", "times"), [(1, 1), (2, 2), (5, 2)])
def test_no_launch_takes_longer_than_it_may(launches: int, times: int) -> None:
    """A suite of loads was to take 1211 hours: each is ended, and after two its case has failed."""
    settings = Settings(launches=launches, launch_limit_seconds=600)
    slow = known(flop_per_second={"fp32": PRODUCT / 100})
    found = expected.expected(suite(SINGLE, settings=settings), slow)
    assert found.seconds == pytest.approx(5 + 1 * (times - 1) + 400 * times)
    assert (found.estimated, found.unknown, found.outlast) == (1, 0, 1)
    assert "1 of its cases longer than a launch may be" in expected.said(found)
    longer = Settings(launches=launches, launch_limit_seconds=6000)
    assert expected.expected(suite(SINGLE, settings=longer), slow).outlast == 0


def test_auto_takes_its_first_look_at_least_and_a_budget_ends_it() -> None:
    auto = suite(SQUARE, settings=Settings())
    assert expected.expected(auto, known()) == Expected(9 + 4 * 2, 0, 0, open=True)
    short = suite(SQUARE, budget_minutes=0.1)
    assert expected.expected(short, known()).seconds == pytest.approx(6)
    assert expected.expected(short, known()).capped


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Expected(0, 0, 2, open=False), "not known"),
        (Expected(40, 0, 0, open=False), "under a minute"),
        (Expected(40, 0, 1, open=False), "not known"),
        (Expected(290, 0, 0, open=False), "about 5 min"),
        (Expected(290, 2, 0, open=False), "about 5 min, estimated from shapes"),
        (Expected(290, 0, 0, open=True), "at least 5 min"),
        (Expected(720, 0, 2, open=True, capped=True), "about 12 min, 2 of its cases not known"),
        (Expected(8000, 0, 3, open=False), "at least 2 hours, 3 of its cases not known"),
    ],
)
def test_it_says_how_it_knows(found: Expected, words: str) -> None:
    assert expected.said(found) == words


def test_the_file_holds_what_the_published_runs_say() -> None:
    """Else: `python -m bench.tests.scripts.times`."""
    assert (configs_folder() / expected.FILE).read_text("utf-8") == times.text()
    (cores,) = (name for name in expected.classes() if name != expected.ACCELERATOR_NAME)
    assert cores == "2 CPU cores"


def test_a_record_of_another_device_bears_its_name_and_failures_say_nothing(tmp_path: Any) -> None:
    lines = [
        {"line": "run", "device": {"name": "Some Device", "facts": {}}},
        *(
            {"line": "launch", "fingerprint": "f", "case": case, "launch": k, "seconds": s, **out}
            for k, s, out, case in (
                (0, 9.0, measured(), plan(suite(SQUARE))[0]),
                (1, 4.0, measured(), plan(suite(SQUARE))[0]),
                (2, 3.0, measured(), plan(suite(SQUARE))[0]),
                (3, 99.0, {"outcome": {"status": "failed"}}, plan(suite(SQUARE))[0]),
            )
        ),
    ]
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    (found,) = times.of_records([file]).items()
    name, of = found
    assert name == "Some Device"
    assert of.launches == {"f": (9.0, 3.5)}
    assert of.besides == (7.0, 1.5)
    assert of.flop_per_second == {"bf16": 5.0}


def measured() -> dict[str, Any]:
    block = {"wall_ns": 1_000_000_000, "step_ns": [500_000_000, 500_000_000]}
    work = {"items": 1, "flop": 2.5}
    return {"outcome": {"status": "measured", "work": work, "warmup": [block], "steady": [block]}}


@pytest.mark.parametrize(("name", "most", "minutes"), [("standard", 25, 60), ("classic", 25, 60)])
def test_five_launches_of_these_fit_into_an_hour_of_an_accelerator(
    name: str, most: int, minutes: int
) -> None:
    file = read_suite(find_suite(name))
    found = expected.expected(file, expected.ACCELERATOR)
    assert len(plan(file)) <= most
    assert file.settings.launches == 5
    assert found.unknown == 0
    assert found.seconds <= 60 * minutes


@pytest.mark.parametrize("execution", ["compile", "compile-graph"])
def test_compiling_takes_longer_once(execution: str) -> None:
    model = {"workload": "bert", "mode": "infer", "precision": "fp32"}
    slow = known(flop_per_second={"fp32": 1e12}, compiling=80.0)
    eager, compiled = (
        expected.expected(suite({**model, "execution": one}), slow).seconds
        for one in ("eager", execution)
    )
    assert compiled - eager == pytest.approx(80)


def test_a_step_without_flop_or_bytes_fills_its_blocks() -> None:
    queue = {"workload": "launch", "mode": "queue", "precision": "fp32"}
    blocks = LEAST_BLOCKS * 0.01
    found = expected.expected(suite(queue), known())
    assert found.seconds == pytest.approx((5 + blocks) + 2 * (1 + blocks))


def test_the_list_of_suites_says_it(accelmark: Accelmark) -> None:
    code, out, err = accelmark("list", "suites", "--json")
    assert (code, err) == (0, "")
    assert "(2 CPU cores: about " in json.loads(out)["suites"]["quick@3"]
    assert "estimated from shapes" in out

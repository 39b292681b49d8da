"""Launches that are forked: independent of one another, and processes as any other."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar
from unittest import mock

import msgspec
import psutil
import pytest

from bench import catalogue
from bench.measuring.messages import Progress, Request
from bench.measuring.stem import AVAILABLE, Order
from bench.records.outcome import Failed, Measured
from bench.records.run import Settings
from bench.running import launcher, stems
from bench.running.stems import Stems
from bench.tests.running.scripted_workers import alive, request, wait_until
from bench.tests.values import make_case

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="Linux")
CPU = catalogue.backend("cpu")


def of(workload: str, number: int) -> Request:
    parameters = {"shape": f"{number}x8x8"} if workload == "gemm" else {"batch_size": number}
    mode = "matmul" if workload == "gemm" else "infer"
    case = make_case(workload=workload, mode=mode, precision="fp32", parameters=parameters)
    settings = Settings(block_seconds=1e-4, warmup_limit_seconds=1.0)
    return msgspec.structs.replace(request(), case=case, settings=settings)


class Still:
    """A stem without a process."""

    made: ClassVar[list[Still]] = []
    imports = True

    def __init__(self, order: Order, python: str, given: Mapping[str, str]) -> None:
        self.order, self.cases, self.ended = order, set[str](), False
        self.made.append(self)

    def ready(self) -> bool:
        return self.imports

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> list[Still]:
    monkeypatch.setattr(Still, "made", [])
    monkeypatch.setattr(stems, "Stem", Still)
    return Still.made


def test_no_two_launches_of_a_case_come_from_one_stem(still: list[Still]) -> None:
    """Those of different cases do, where they need the same."""
    them = Stems(sys.executable, "folder")
    asked = [of("gemm", 1), of("gemm", 2), of("bert", 1), of("gemm", 1), of("gemm", 2)]
    given = [them.stem(one, {}) for one in asked]
    assert [still.index(one) for one in given] == [0, 0, 1, 2, 2]  # type: ignore[arg-type]
    assert [one.ended for one in still] == [True, False, False]
    assert [one.order.libraries[-1] for one in still] == [
        "torch",
        "transformers.modeling_utils",
        "torch",
    ]
    them.close()
    assert all(one.ended for one in still)


def test_where_none_can_be_had_launches_import_by_themselves(
    still: list[Still], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Still, "imports", False)
    them = Stems(sys.executable, None)
    assert them.stem(of("gemm", 1), {}) is None
    assert them.stem(of("bert", 1), {}) is None
    assert [one.ended for one in still] == [True], "it was tried once"


def test_what_imports_next_to_nothing_is_not_forked(still: list[Still]) -> None:
    nothing = msgspec.structs.replace(
        request(), case=make_case(workload="small", mode="infer", parameters={})
    )
    with mock.patch.object(catalogue, "workload", lambda name: Small()):
        assert Stems(sys.executable, None).stem(nothing, {}) is None
    assert not still


class Small:
    libraries = ()
    modes: ClassVar = {"infer": mock.Mock(libraries=())}


def test_only_a_backend_that_says_so_is_forked() -> None:
    assert Stems.of(CPU, sys.executable, None) is not None
    assert Stems.of(catalogue.backend("cuda"), sys.executable, None) is None


@pytest.fixture(scope="module")
def living(forked: None) -> Iterator[Stems]:
    them = Stems(sys.executable, None)
    with contextlib.closing(them):
        yield them


def test_a_forked_launch_measures_and_says_that_it_was(living: Stems) -> None:
    (found,) = launcher.launch_together([of("gemm", 8)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured), found
    assert found.report.environment["imports_shared"] is True
    assert found.report.cold.import_seconds is not None
    assert found.stderr_tail == ""


def test_a_forked_launch_that_is_killed_says_so_and_the_next_one_measures(living: Stems) -> None:
    def kill(progress: Progress) -> None:
        if progress.phase == "warm-up":
            (stem,) = living._stems.values()
            for one in psutil.Process(stem._process.pid).children():
                one.send_signal(signal.SIGKILL)

    endless = of("gemm", 9)
    settings = msgspec.structs.replace(endless.settings, block_seconds=30.0)
    endless = msgspec.structs.replace(endless, settings=settings)
    (found,) = launcher.launch_together([endless], {}, kill, stems=living)
    assert isinstance(found.report.outcome, Failed)
    assert "killed by SIGKILL" in found.report.outcome.message
    (found,) = launcher.launch_together([of("gemm", 10)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured)


def test_a_launch_whose_stem_is_gone_does_not_stay(living: Stems, tmp_path: Path) -> None:
    """And the next one imports by itself."""
    stem = living.stem(of("gemm", 11), {})
    assert stem is not None
    with (tmp_path / "stderr").open("wb") as stderr:
        launch = stem.fork((), stderr)
    assert launch.poll() is None
    os.kill(stem._process.pid, signal.SIGKILL)
    assert launch.wait(10.0) == -signal.SIGKILL
    wait_until(lambda: not alive(launch.pid))
    launch.stdin.close()
    launch.stdout.close()
    (found,) = launcher.launch_together([of("gemm", 12)], {}, stems=living)
    assert isinstance(found.report.outcome, Measured)
    assert found.report.environment["imports_shared"] is False

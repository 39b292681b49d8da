"""A third framework needs one package: measured and refused as torch is, by the same code."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import torch

from bench import catalogue
from bench.frameworks._hand_over import handed_over
from bench.judging.comparing.equal_work import of_launches
from bench.measuring.gates.handed import Draw, HandedDraws
from bench.measuring.launch import Launch
from bench.measuring.messages import Answer, Channel, Order, Report, Request
from bench.records.case import Case
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.records.run import Settings
from bench.running.handing import AHEAD, Handing
from bench.tests.frameworks import plain
from bench.tests.frameworks.plain import planted
from bench.tests.measuring.proving.watching import proof_of
from bench.workload import Wrong

CASE = Case(
    workload="gemm", version=1, mode="matmul", precision="fp32", parameters={"shape": "32x48x64"}
)
BRIEF = Settings(
    launches=3,
    block_seconds=1e-4,
    warmup_seconds=0.0,
    warmup_limit_seconds=0.2,
    steady_limit_seconds=0.1,
)
REQUEST = Request(
    case=CASE, backend="cpu", index=0, settings=BRIEF, samples=10, seed=1, thorough=True
)


@pytest.fixture(autouse=True)
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of a third framework is installed."""
    found = catalogue.PlugIn(
        name="plain",
        module="bench.tests.frameworks.plain",
        attribute="FRAMEWORK",
        package="accelmark-plain",
    )
    known = catalogue.plug_ins

    def plug_ins(kind: catalogue.Kind) -> dict[str, catalogue.PlugIn]:
        return {**known(kind), **({"plain": found} if kind == "frameworks" else {})}

    monkeypatch.setattr(catalogue, "plug_ins", plug_ins)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch has handed over for launch 1 of the case."""
    where = tmp_path_factory.mktemp("handed")
    order = Order(request=REQUEST, seeds=(1,), folder=str(where))
    assert handed_over(order) == Answer()
    return where


@pytest.fixture
def ours(folder: Path) -> Request:
    path = folder / Order(request=REQUEST, seeds=(), folder="").file(1)
    return msgspec.structs.replace(REQUEST, framework="plain", handed=str(path))


def launched(request: Request) -> Report:
    return Launch(request, Channel(io.BytesIO())).run()


def test_a_third_framework_is_measured_and_its_work_is_torchs(
    ours: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(plain.FRAMEWORK, "compute_with", asked.append)
    mine = launched(ours)
    assert asked == [torch.get_num_threads()], "as many threads as torch has"
    assert isinstance(mine.outcome, Measured), mine.outcome
    (check,) = mine.outcome.numerics.checks
    assert check.error is not None and 0 < check.error < 1e-6
    assert mine.outcome.work.items == 2 * 32 * 48 * 64
    assert mine.environment["framework"] == "plain" and "torch" not in mine.environment
    assert "PLAIN_*" in mine.environment["variables_looked_for"]
    found = of_launches([(1, proof_of(CASE, seed=1))], [(1, mine.outcome.proof)], "fp32")
    assert found.proved and found.seeds == 1, found.words
    assert {finding.quantity for finding in found.findings} == {
        "outputs",
        "weights before the first step",
    }
    noise = mine.outcome.proof.noise if mine.outcome.proof else {}
    assert noise["output"].error > 0


def test_what_its_compiler_writes_goes_into_the_runs_folder(ours: Request, tmp_path: Path) -> None:
    with mock.patch.dict(os.environ):
        mine = launched(msgspec.structs.replace(ours, scratch=str(tmp_path)))
        assert os.environ["PLAIN_FOLDER"] == str(tmp_path / "plain_folder")
    assert "PLAIN_FOLDER" not in mine.environment["variables"], "it is ours, and no setting"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong weights", "numerics: output"),
        ("fp16 for fp32", "numerics: output"),
        ("another deviation", "torch's is Draw"),
        ("one set less", "torch's draws 32 times"),
        ("only rested steps", "steps of a block gave what comes of another input"),
    ],
)
def test_planted_faults_are_void(ours: Request, fault: str, said: str) -> None:
    with planted(fault):
        outcome = launched(ours).outcome
    assert isinstance(outcome, Void) and said in outcome.reason, outcome


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"handed": None}, "nothing was handed over"),
        ({"explain": True}, "no step is taken apart"),
        ({"case": msgspec.structs.replace(CASE, precision="bf16")}, "float32 alone"),
        (
            {
                "case": Case(
                    workload="memory",
                    version=1,
                    mode="copy",
                    precision="fp32",
                    parameters={"size_bytes": 4096},
                )
            },
            "gemm-matmul alone",
        ),
    ],
)
def test_what_it_has_not_is_skipped_and_named(
    ours: Request, changed: dict[str, Any], said: str
) -> None:
    outcome = launched(msgspec.structs.replace(ours, **changed)).outcome
    assert isinstance(outcome, Skipped) and said in outcome.reason, outcome


def test_normals_go_round_in_the_pool_and_nothing_is_left() -> None:
    pool = np.arange(5, dtype=np.float32)
    made = (
        Draw(shape=(2, 4), std=2.0, start=3),
        Draw(shape=(2,), span=(0, 9)),
    )
    draws = HandedDraws(pool, made, {"integers job 1": np.array([4, 8])}, "job")
    assert draws.normal((2, 4), 2.0).tolist() == [[6, 8, 0, 2], [4, 6, 8, 0]]
    with pytest.raises(Wrong, match="drew 1 times"):
        draws.finish()
    assert draws.integers(0, 9, (2,)).tolist() == [4, 8]
    draws.finish()
    with pytest.raises(Wrong, match="draw 3 is"):
        draws.normal((1,))


def test_ten_launches_are_handed_over_at_once(tmp_path: Path) -> None:
    orders: list[Order] = []

    def ask(order: Order, given: Any, limit: float) -> Answer:
        orders.append(order)
        for seed in order.seeds:
            Path(order.folder, order.file(seed)).touch()
        return Answer()

    settings = msgspec.structs.replace(BRIEF, launches="auto")
    request = msgspec.structs.replace(REQUEST, settings=settings)
    handing = Handing(tmp_path, {}, ask)
    for seed in range(1, AHEAD + 2):
        found = handing.handed(msgspec.structs.replace(request, seed=seed))
        assert isinstance(found, Request) and found.handed and Path(found.handed).exists()
    assert [order.seeds[0] for order in orders] == [1, 1 + AHEAD]


def test_what_hands_over_has_nothing_that_would_hide_a_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("SHOWS", "1")
    handing = Handing.of("plain", tmp_path, catalogue.backend("ascend"))
    assert handing is not None
    assert {"PYTHONWARNINGS", "SHOWS"} & {*handing._given} == {"SHOWS"}


@pytest.mark.parametrize(
    ("answer", "kind"), [(Answer(skipped="no"), Skipped), (Answer(failed="ended"), Failed)]
)
def test_what_torch_cannot_hand_over_has_no_figure(
    tmp_path: Path, answer: Answer, kind: type
) -> None:
    found = Handing(tmp_path, {}, lambda *_: answer).handed(REQUEST)
    assert isinstance(found, kind)


@pytest.mark.parametrize(
    ("workload", "mode", "precision", "parameters", "said"),
    [
        ("gemm", "matmul", "fp8", {"shape": "8x8x8"}, "multiples of 16"),
        ("transfer", "to-host", "fp32", {"memory": "pinned"}, "for a device other than the host"),
    ],
)
def test_what_torch_has_not_either_is_skipped(
    tmp_path: Path, workload: str, mode: str, precision: str, parameters: Any, said: str
) -> None:
    case = Case(workload=workload, version=1, mode=mode, precision=precision, parameters=parameters)
    order = Order(
        request=msgspec.structs.replace(REQUEST, case=case), seeds=(1,), folder=str(tmp_path)
    )
    assert said in handed_over(order).skipped

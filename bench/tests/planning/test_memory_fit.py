"""Memory from shapes: the rehearsal's arithmetic, what it says of real cases, and the refusal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bench import catalogue, rehearsal
from bench.backends.cpu import CpuDevice
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.planning import memory_fit
from bench.planning.sweep import too_large
from bench.planning.tuning import hopeless
from bench.precision import PRECISIONS
from bench.ranks import Ranks
from bench.records import parallelism
from bench.records.case import Case
from bench.records.cpu_limits import memory_limit
from bench.records.outcome import Failed, Skipped
from bench.records.run import Settings
from bench.tests.scripts.fit import in_fresh_processes
from bench.workload import Site, Unsupported, Workload
from bench.workloads.jobs.jobs import BATCHES

CPU = torch.device("cpu")
FLOAT = 4


def site(precision: str = "fp32", device: str = "cpu") -> Site:
    return Site(device=torch.device(device), precision=PRECISIONS[precision], seed=0)


def case_of(name: str, mode: str, precision: str = "fp32", **parameters: Any) -> Case:
    workload = catalogue.workload(name)
    given = workload.modes[mode].parameters(**parameters)
    return Case(
        workload=name,
        version=workload.version,
        mode=mode,
        precision=precision,
        parameters=msgspec.to_builtins(given),
    )


class Temporaries:
    """Holds 1,000 floats; a step adds 500 and 300, of which 200 outlive it from the first on."""

    def __init__(self) -> None:
        torch.empty(9_000)  # gone before the step
        self.held = torch.empty(1000)
        self.kept: torch.Tensor | None = None

    def step(self) -> None:
        first = torch.empty(500)
        view = first[:100]  # no bytes of its own
        second = torch.empty(300)
        del first, view, second
        self.kept = torch.empty(200) if self.kept is None else self.kept


def test_a_peak_counts_what_lives_together_and_what_the_first_step_leaves() -> None:
    assert rehearsal.peak_bytes(Temporaries) == FLOAT * (1000 + 200 + 500 + 300)


class Regression:
    """y = W x with SGD and momentum: weight, gradient and momentum are held, and x."""

    def __init__(self) -> None:
        self.layer = torch.nn.Linear(64, 32, bias=False)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), momentum=0.9, fused=True)
        self.inputs = torch.empty(8, 64)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.layer(self.inputs).sum().backward()
        self.optimizer.step()


def test_training_counts_weights_gradients_and_optimizer_state() -> None:
    weight, inputs, outputs = 64 * 32, 8 * 64, 8 * 32
    held = FLOAT * (3 * weight + inputs)
    assert held <= rehearsal.peak_bytes(Regression) <= held + 3 * FLOAT * outputs


def test_a_rank_holds_what_a_job_says_of_its_tensors() -> None:
    """From its second step on; `workloads/test_rehearsed_ranks.py` has what training says."""

    class Kept:
        def __init__(self) -> None:
            self.kept, self.other = torch.empty(25), torch.empty(1)

        def step(self) -> None:
            self.kept.add_(1)

    assert rehearsal.peak_bytes(Kept) == FLOAT * 26
    assert rehearsal.peak_bytes(Kept, joined=lambda job: [(job.kept, 7)]) == 7 + FLOAT


def test_what_ranks_share_and_nobody_counts_is_not_estimated() -> None:
    workload = catalogue.workload("memory")
    parameters = workload.modes["copy"].parameters(size_bytes=2**12)
    there: Any = {"rank": 0, "size": 2, "group": None, "control": None}

    def estimate(spread: str) -> int:
        ranks = Ranks(parallelism=parallelism.parse(spread), **there)
        at = msgspec.structs.replace(site(), ranks=ranks)
        return Workload.peak_bytes(workload, "copy", parameters, at)

    assert estimate("replicas2") == 2**13
    with pytest.raises(NotImplementedError, match=r"fsdp2: what .* not counted"):
        estimate("fsdp2")


class Shared(Workload):
    """Needs 90 MiB over all its ranks."""

    name, version, modes = "shared", 1, {}
    work = twin = build = None  # type: ignore[assignment]

    def peak_bytes(self, mode: str, parameters: Any, site: Site) -> int:
        assert site.ranks is not None
        if site.ranks.size > 12:
            raise Unsupported("not over so many")
        return 90 * 2**20 // site.ranks.parallelism.sizes[-1]


@pytest.mark.parametrize(
    ("spread", "batch", "fits"),
    [
        ("fsdp2", 12, "fsdp6"),
        ("fsdp2", 14, "fsdp7"),
        ("hsdp2x2", 12, "hsdp2x6"),
        ("dlrm-hybrid2", 12, "dlrm-hybrid6"),
        ("fsdp2", 4, ""),
        ("fsdp2", 26, ""),  # it would over 13, but over so many it does not run
    ],
)
def test_the_devices_that_would_fit_are_named(spread: str, batch: int, fits: str) -> None:
    """By a suite that says their number `--devices` is refused: the worker cannot know."""
    kind = parallelism.parse(spread)
    ranks: Any = {"rank": 1, "size": kind.devices, "group": None, "control": None}
    at = msgspec.structs.replace(site(), ranks=Ranks(parallelism=kind, **ranks))
    room = 16 * 2**20
    given = catalogue.workload("bert").modes["train"].parameters(batch_size=batch)
    with pytest.raises(Unsupported, match="fit") as raised:
        memory_fit.require(
            45 * 2**20, room, lambda: memory_fit.more_devices(Shared(), "train", given, at, room)
        )
    count = parallelism.parse(fits).devices if fits else 0
    remedy = (
        f'. Over {count} devices it would fit: parallelism = "{fits}", or --devices {count} where '
        "the suite leaves it open"
    )
    assert str(raised.value).endswith(f"the device has 16 MiB{remedy * bool(fits)}")


def test_a_long_loop_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "STEP_OPERATORS", 2_000)

    class Loop:
        steps = 0

        def step(self) -> None:
            for _ in range(10**9):
                torch.empty(10)
                self.steps += 1

    job = Loop()
    assert rehearsal.peak_bytes(lambda: job) == FLOAT * 10
    assert job.steps == 2 * rehearsal.STEP_OPERATORS


def test_accumulation_adds_its_inputs_and_never_hides_the_optimizers_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of four micro-batches has 4,421 operators: cut off, it comes to no update."""
    monkeypatch.setattr(rehearsal, "STEP_OPERATORS", 3_000)
    workload = catalogue.workload("llama")
    kind: Any = workload.modes["train"].parameters

    def estimate(steps: int) -> int:
        given = {"batch_size": 2, "sequence_length": 64, "gradient_checkpointing": True}
        p = kind(model="tiny", accumulation_steps=steps, **given)
        return workload.peak_bytes("train", p, site())

    one, two, four, forty = (estimate(steps) for steps in (1, 2, 4, 40))
    tokens_and_targets = 2 * 8 * 2 * 64
    assert four - two == 2 * BATCHES * tokens_and_targets
    assert forty - four == 36 * BATCHES * tokens_and_targets
    assert one < two


@pytest.mark.parametrize(
    ("name", "mode", "given"),
    [
        ("gemm", "matmul", {"shape": "96x64x32"}),
        ("gemm", "matmul", {"shape": "4096x4096x4096"}),
        ("memory", "triad", {"size_bytes": 2**20}),
        ("transfer", "to-device", {"size_bytes": 2**20}),
    ],
)
def test_formulas_say_what_a_rehearsal_says(name: str, mode: str, given: Any) -> None:
    workload = catalogue.workload(name)
    parameters = workload.modes[mode].parameters(**given)
    formula = workload.peak_bytes(mode, parameters, site())
    assert formula == Workload.peak_bytes(workload, mode, parameters, site())


def test_a_transfer_takes_one_side_of_a_device() -> None:
    workload = catalogue.workload("transfer")
    parameters = workload.modes["to-host"].parameters()
    there = workload.peak_bytes("to-host", parameters, site(device="meta"))
    assert 2 * there == workload.peak_bytes("to-host", parameters, site())


def test_a_large_model_needs_no_memory_to_be_counted() -> None:
    workload = catalogue.workload("llama")
    parameters: Any = workload.modes["decode"].parameters
    given = parameters(model="llama-3.1-8b", batch_size=8, prompt_length=1024, new_tokens=256)
    needed = workload.peak_bytes("decode", given, site("bf16"))
    weights = 2 * 8_030_261_248
    cache = 2 * 32 * 2 * 8 * 1280 * 8 * 128
    assert weights + cache < needed < 1.1 * (weights + cache)


def test_what_is_measured_is_near() -> None:
    copied, trained = in_fresh_processes(
        [
            case_of("memory", "copy", size_bytes=2**27),
            case_of("dlrm", "train", batch_size=512, rows=20_000, embedding_dim=64),
        ]
    )
    assert 0.6 < copied.ratio < 1.4
    assert 0.6 < trained.ratio < 1.4


def test_what_surely_cannot_fit_is_refused_with_both_figures() -> None:
    memory_fit.require(100 * 2**30, 80 * 2**30)
    memory_fit.require(None, 1)
    memory_fit.require(1, None)
    with pytest.raises(Unsupported) as refusal:
        memory_fit.require(int(17.2 * 2**30), int(13.7 * 2**30))
    assert str(refusal.value) == "does not fit: needs about 17.2 GiB, the device has 13.7 GiB"


def report(case: Case, rehearse: bool = True, **asked: Any) -> messages.Report:
    settings = Settings(block_seconds=1e-4, steady_limit_seconds=0.01)
    request = messages.Request(
        case=case,
        backend="cpu",
        index=0,
        settings=settings,
        samples=10,
        seed=0,
        rehearse=rehearse,
        **asked,
    )
    return Launch(request, messages.Channel(io.BytesIO())).run()


TINY = case_of("memory", "copy", size_bytes=2**12)


def test_a_case_that_cannot_fit_is_skipped_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_fit, "of_host", lambda total: 6 * 2**10)
    found = report(TINY)
    reason = "does not fit: needs about 8 KiB, the device has 6 KiB"
    assert found.outcome == Skipped(reason=reason)
    assert found.estimated_peak_bytes == 2**13
    assert found.cold.numerics_seconds is None
    later = report(TINY, rehearse=False)
    assert later.estimated_peak_bytes is None and not isinstance(later.outcome, Skipped)


def test_a_moment_without_memory_is_no_reason_to_leave_a_case_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another program has it now: a failure, which is tried again and ends no sweep."""
    monkeypatch.setattr(CpuDevice, "capacity_bytes", lambda self: 6 * 2**10)
    found = report(TINY)
    assert isinstance(found.outcome, Failed) and found.outcome.kind == "error"
    said = "needs about 8 KiB, and the host has 6 KiB available now"
    assert found.outcome.message.endswith(said)
    assert not hopeless(found.outcome) and not too_large(found.outcome)
    assert found.estimated_peak_bytes == 2**13


def test_a_host_has_no_more_than_its_groups_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path, tmp_path) is None
    (tmp_path / "job/memory.max").write_text("4096\n")
    assert memory_limit(tmp_path, tmp_path) == 4096
    monkeypatch.setattr(memory_fit, "memory_limit", lambda: 4096)
    assert [memory_fit.of_host(total) for total in (None, 1024, 8192)] == [4096, 1024, 4096]


def test_what_was_counted_beforehand_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(TINY, rehearsal_only=True)
    assert isinstance(found.outcome, Skipped) and found.estimated_peak_bytes == 2**13
    assert found.cold.numerics_seconds is None, "and no more is done"
    monkeypatch.setattr(memory_fit, "estimate", None)
    known = report(TINY, estimated_peak_bytes=2**60)
    assert known.estimated_peak_bytes == 2**60
    assert isinstance(known.outcome, Skipped) and "does not fit" in known.outcome.reason


def test_without_an_estimate_a_case_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("no shapes for this operator")

    monkeypatch.setattr(type(catalogue.workload("memory")), "peak_bytes", broken)
    found = report(TINY)
    assert found.estimated_peak_bytes is None
    assert not isinstance(found.outcome, Skipped)
    assert "no shapes for this operator" in capsys.readouterr().err


def test_the_host_has_what_is_available() -> None:
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    capacity, total = device.capacity_bytes(), device.info.memory_bytes
    assert capacity is not None and total is not None
    assert 0 < capacity <= total

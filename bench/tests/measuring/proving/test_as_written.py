"""What a compiler makes for the timed sizes is held to the step as it is written, there."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch

from bench.backends.cpu import CpuBackend, CpuDevice
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.measuring.messages import Request
from bench.measuring.proving import written
from bench.measuring.proving.written import CANNOT, _judged, compared, held
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome, Void
from bench.records.proof import Noise
from bench.tests.judging.comparing.test_equal_work import vector
from bench.tests.measuring.test_asked import SETTINGS
from bench.tests.replay import Call, FakeRecorder
from bench.tests.small_workloads import FP32, WORKLOADS, build, one_thread, site
from bench.tests.workloads.test_recorded_training import recorded
from bench.workload import Job
from bench.workloads.jobs.jobs import TrainingJob
from bench.workloads.jobs.recorded import replayed
from bench.workloads.jobs.rotation import RotatingJob, Rotation

__all__ = ["one_thread"]  # a fixture, used by being here

TEXTS = {"model": "tiny", "batch_size": 3, "sequence_length": 16}
SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("bert", "infer"): TEXTS,
    ("bert", "train"): TEXTS,
    ("llama", "prefill"): {"model": "tiny", "batch_size": 3, "prompt_length": 16},
    ("llama", "decode"): {"model": "tiny", "batch_size": 3, "prompt_length": 8, "new_tokens": 4},
    ("memory", "triad"): {"size_bytes": 2**21},
}
Compiled = Callable[..., Any]
Compiler = Callable[[Any, list[Any]], Compiled]


@pytest.fixture
def compiled_by(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Compiler], None]]:
    """Has a CPU's steps compiled by what it is given."""

    def register(compiler: Compiler) -> None:
        torch._dynamo.register_backend(compiler, name=request.node.name)
        monkeypatch.setattr(CpuBackend, "compilers", (request.node.name,))

    torch._dynamo.reset()
    yield register
    torch._dynamo.reset()


def launched(
    name: str,
    mode: str,
    precision: str = "fp32",
    thorough: bool = True,
    execution: str = "compile",
) -> Outcome:
    workload = WORKLOADS[name]
    parameters = msgspec.convert(SIZES[name, mode], workload.modes[mode].parameters)
    case = Case(
        workload=name,
        version=workload.version_of(mode),
        mode=mode,
        precision=precision,
        execution=execution,
        parameters=msgspec.to_builtins(parameters),
    )
    asking = Request(
        case=case,
        backend="cpu",
        index=0,
        settings=SETTINGS,
        samples=10,
        seed=0,
        thorough=thorough,
    )
    return Launch(asking, messages.Channel(io.BytesIO())).run().outcome


def first_row_alone(graph: Any, inputs: list[Any]) -> Compiled:
    """Of all that is computed for a batch of three the first row; of a long array its first half.
    No twin has such sizes."""

    def spoiled(found: Any) -> Any:
        if not isinstance(found, torch.Tensor) or not found.is_floating_point():
            return found
        if found.dim() == 1 and len(found) > 2**17:
            found[len(found) // 2 :] = 0
        elif found.dim() > 1 and len(found) == 3:
            found = torch.cat((found[:1], 0 * found[1:]))
        return found

    def run(*given: Any) -> Any:
        return tuple(map(spoiled, graph.forward(*given)))

    return run


@pytest.mark.parametrize(("name", "mode"), SIZES)
def test_code_that_is_wrong_at_the_timed_sizes_alone_is_void(
    name: str, mode: str, compiled_by: Callable[[Compiler], None]
) -> None:
    compiled_by(first_row_alone)
    outcome = launched(name, mode)
    assert isinstance(outcome, Void), outcome
    said = "of the same step as it is written"
    if name == "memory":  # whose job looks at what it wrote itself
        said = "triad at the timed size"
    assert said in outcome.reason, outcome.reason


def as_it_is(graph: Any, inputs: list[Any]) -> Compiled:
    compiled: Compiled = graph.forward
    return compiled


def test_it_is_looked_at_in_one_launch_of_a_case(compiled_by: Callable[[Compiler], None]) -> None:
    compiled_by(as_it_is)
    outcome = launched("bert", "infer")
    assert isinstance(outcome, Measured) and outcome.proof, outcome
    assert outcome.proof.written == {"output": 0.0} and not outcome.proof.not_written
    other = launched("bert", "infer", thorough=False)
    assert isinstance(other, Measured) and other.proof, other
    assert not other.proof.written and not other.proof.not_written


class Losing(FakeRecorder):
    """Of a step of three texts, a recording without one of its products. No twin has such sizes."""

    @contextmanager
    def _recording(self, calls: list[Call]) -> Iterator[None]:
        with super()._recording(calls):
            yield
        products = "linear", "addmm", "mm"
        of_three = [
            number
            for number, call in enumerate(calls)
            if call[0].__name__.partition(".")[0] in products and len(call[3]) in (3, 3 * 16)
        ]
        if of_three:
            del calls[of_three[0]]


@pytest.mark.parametrize("recorder", [FakeRecorder, Losing])
@pytest.mark.parametrize(
    ("name", "mode"), [("bert", "infer"), ("llama", "prefill"), ("bert", "train")]
)
def test_a_recording_that_computes_something_else_is_void(
    name: str, mode: str, recorder: type[FakeRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: recorder())
    outcome = launched(name, mode, execution="graph")
    if recorder is Losing:
        assert isinstance(outcome, Void), outcome
        assert "of the timed step differ by" in outcome.reason, outcome.reason
        assert "of the same step as it is written" in outcome.reason
    else:
        assert isinstance(outcome, Measured) and outcome.proof, outcome
        assert outcome.proof.written and max(outcome.proof.written.values()) < 1e-5
        assert not outcome.proof.not_written


class Own(RotatingJob):
    """A user's, recorded as the guide says, without a word of how else it might be computed."""

    def __init__(self) -> None:
        at = msgspec.structs.replace(site(), execution="graph", recorder=FakeRecorder())
        self._inputs = Rotation([torch.ones(3)])
        self._run = replayed(lambda given: 2 * given, at)

    def step(self) -> None:
        self._output = self._run(next(self._inputs))


def test_a_replay_is_not_held_to_itself() -> None:
    job, device = Own(), CpuBackend().open(0, FP32)
    job.step()
    noise = {"output": Noise(error=1e-3, norm_error=1e-3)}
    asking: Any = job, device, FP32, "graph", noise, lambda *given: {"output": vector()}
    assert held(*asking, alone=True) == written.Written(absent=CANNOT)


@pytest.mark.parametrize("back", [Job.back, lambda job: False], ids=["none", "refused"])
def test_of_recorded_training_that_does_not_go_back_nothing_is_said(
    back: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last gradients were computed by hand, not by its replay."""
    monkeypatch.setattr(CpuDevice, "recorder", lambda device: FakeRecorder())
    monkeypatch.setattr(TrainingJob, "back", back)
    outcome = launched("bert", "train", execution="graph")
    assert isinstance(outcome, Measured) and outcome.proof, outcome
    assert outcome.proof.not_written == CANNOT and not outcome.proof.written


def test_what_is_recorded_alone_has_the_noise_of_the_step_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def judged(*given: Any) -> Any:
        seen.extend((given[1], given[4]))
        return _judged(*given)

    monkeypatch.setattr(CpuDevice, "recorder", lambda device: FakeRecorder())
    monkeypatch.setattr(written, "_judged", judged)
    monkeypatch.setattr(written, "taken", lambda *given: seen.append("once more"))
    assert isinstance(launched("bert", "train", "bf16", execution="graph"), Measured)
    noise, quiet = seen
    assert quiet == {"gradients": noise["gradients"]}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), TypeError("no such thing")])
def test_what_a_device_cannot_do_uncompiled_costs_nothing(
    error: Exception,
    compiled_by: Callable[[Compiler], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half way: some of the gradients are there."""

    def refuse(job: Any) -> Any:
        job._optimizer.zero_grad(set_to_none=True)
        raise error

    monkeypatch.setattr(TrainingJob, "as_written", refuse)
    compiled_by(as_it_is)
    outcome = launched("bert", "train")
    assert isinstance(outcome, Measured) and outcome.proof, outcome
    assert type(error).__name__ in outcome.proof.not_written and not outcome.proof.written
    assert outcome.proof.noise and outcome.proof.law


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, as it imports itself
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "mode"), [key for key in SIZES if key != ("memory", "triad")])
def test_sound_code_is_let_pass(
    name: str, mode: str, precision: str, compiled_by: Callable[[Compiler], None]
) -> None:
    """Of other operators: torch's own, taken apart."""
    from torch._dynamo.backends.debugging import aot_eager_decomp_partition

    compiled_by(aot_eager_decomp_partition)
    outcome = launched(name, mode, precision)
    assert isinstance(outcome, Measured) and outcome.proof, outcome
    assert outcome.proof.written and not outcome.proof.not_written
    assert max(outcome.proof.written.values()) < {"fp32": 1e-4, "bf16": 3e-2}[precision]


def narrowed(bits: int) -> Compiler:
    """Of operands of a product of three texts so many bits. No twin has such sizes."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    def rounded(value: torch.Tensor) -> torch.Tensor:
        significand, exponent = torch.frexp(value.float())
        return torch.ldexp((significand * 2**bits).round() / 2**bits, exponent).to(value.dtype)

    class Narrow(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            product = target.__name__.partition(".")[0] in ("mm", "addmm")
            if product and any(3 * 16 in operand.shape for operand in args):
                args = tuple(map(rounded, args))
            return super().call_function(target, args, kwargs)

    def compiler(graph: Any, inputs: Any) -> Any:
        return make_boxed_func(Narrow(graph).run)

    found: Compiler = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, as it imports itself
@pytest.mark.parametrize(("bits", "outcome"), [(8, Measured), (2, Void)])
def test_products_in_four_bits_are_told(
    bits: int, outcome: type, compiled_by: Callable[[Compiler], None]
) -> None:
    """In bfloat16, where their own noise is as large as what they are off by."""
    compiled_by(narrowed(bits))
    found = launched("bert", "train", "bf16")
    assert isinstance(found, outcome), found
    said = "the gradients of the timed step differ by"
    assert outcome is Measured or (isinstance(found, Void) and said in found.reason), found


def test_a_single_row_of_many_is_told_and_what_rounding_does_is_not() -> None:
    """At the tolerances themselves: of 32 rows one that was not computed; honest work in 30 layers;
    and a job that rounding alone moves by more than that."""
    quiet, loud = Noise(error=1e-2, norm_error=1e-2), Noise(error=0.4, norm_error=0.1)
    for error, noise, right in ((0.18, quiet, False), (8e-2, quiet, True), (0.4, loud, True)):
        found, most = compared("output", "bf16", noise, (vector(), vector(error)))
        assert (found <= most) is right, (found, most)
    turned = (vector(), vector(1.4))
    assert compared("gradients", "bf16", loud, turned)[0] == 0.0, "by their length alone"
    assert compared("gradients", "bf16", quiet, turned)[0] > 0.8


def test_gradients_of_other_weights_are_none_that_can_be_compared() -> None:
    """Where one way leaves out what the other computes as zeros; it is said."""
    noise = Noise(error=1e-2, norm_error=1e-2)
    one, other = ({"gradients": vector(size=size), "loss": vector()} for size in (1000, 990))
    found = _judged("fp32", {"gradients": noise, "loss": noise}, one, other, {})
    assert (found.errors, found.complaints) == ({"loss": 0.0}, [])
    assert found.absent.startswith("the gradients of the step as it is written are other ones")


@pytest.mark.parametrize(("rests_on", "told"), [(9.0, False), (10.0, True), (None, True)])
def test_few_values_are_not_held_to_their_noise(rests_on: float | None, told: bool) -> None:
    """And the complaint names the noise by which it decided."""
    loud, quiet = (Noise(error=error, norm_error=error) for error in (0.2, 0.02))
    few = msgspec.structs.replace(vector(0.2), rests_on=rests_on)
    timed, other = {"gradients": few}, {"gradients": vector()}
    found = _judged("bf16", {"gradients": loud}, timed, other, {"gradients": quiet})
    assert bool(found.complaints) is told
    assert all("(at most 0.072, of a noise of 0.02 as written)" in x for x in found.complaints)


def rows(job: Any) -> torch.Tensor:
    found: torch.Tensor = job.outputs()["output"][0].clone()
    return found


@pytest.mark.parametrize("recorder", [None, FakeRecorder()], ids=["step", "replay"])
@pytest.mark.parametrize(
    ("name", "mode"),
    [("bert", "infer"), ("llama", "prefill"), ("llama", "decode"), ("whisper", "infer")],
)
def test_steps_go_on_as_if_nobody_had_looked(
    name: str, mode: str, recorder: FakeRecorder | None
) -> None:
    execution = "eager" if recorder is None else "graph"
    at = msgspec.structs.replace(site(), execution=execution, recorder=recorder)
    looked, other = build(name, mode, at), build(name, mode, at)
    for job in (looked, other):
        job.force(True)
        job.step()
    random, last = torch.get_rng_state(), rows(other)
    token = vars(looked).get("token") if mode == "prefill" else None
    (found,) = looked.as_written()["output"]
    torch.testing.assert_close(found, last)
    if recorder is not None:
        assert found.data_ptr() != looked.outputs()["output"][0].data_ptr(), "not by its replay"
        assert token is None or vars(looked)["token"] is token
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(rows(looked), last)
    for forcing in (True, False):
        for job in (looked, other):
            job.force(forcing)
        for _ in range(3):
            for job in (looked, other):
                job.step()
            assert torch.equal(rows(looked), rows(other))


def test_gradients_of_a_recording_lie_where_they_lay_whatever_happens() -> None:
    job, _ = recorded("llama", "lora")
    job.step()
    trained = [weight for weight in job._model.parameters() if weight.requires_grad]
    places = [p.grad.data_ptr() for p in trained]

    def fail(batches: Any) -> Any:
        job._optimizer.zero_grad(set_to_none=True)
        raise torch.OutOfMemoryError("no room")

    job._update = fail
    with pytest.raises(torch.OutOfMemoryError):
        job.as_written()
    after = [p.grad.data_ptr() for p in trained]
    assert after == places

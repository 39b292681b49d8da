"""The simulated Ascend device: it computes what the CPU does, late, and fails as it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.tests.simulated import FOLDER, environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")

SECONDS = 120
ZYGOTE = """
import json, os, sys, traceback
import torch  # once: without the plug-in, which each fork loads with its own variables
import torch._dynamo  # a second, at the first step of any optimizer

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(request["variables"])
        try:
            import torch_npu
            exec(request["code"], {"torch": torch, "torch_npu": torch_npu})
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> Any:
        """The JSON that it printed, if it succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class Processes:
    """Runs code with the simulated device, each time in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        variables = environment() | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}
        self.zygote = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )

    def run(self, code: str, real: dict[str, str] | None = None, **faults: object) -> Ended:
        """code: Python with `torch` and `json` at hand; real: variables of torch_npu's own."""
        assert self.zygote.stdin is not None and self.zygote.stdout is not None
        streams = {name: self._folder / name for name in ("out", "err")}
        for path in streams.values():
            path.write_text("")
        request = {
            "code": "import json, time\n" + code,
            "variables": environment(**faults) | (real or {}),
            **{name: str(path) for name, path in streams.items()},
        }
        self.zygote.stdin.write(json.dumps(request) + "\n")
        self.zygote.stdin.flush()
        code_number = int(self.zygote.stdout.readline())
        return Ended(code_number, **{name: path.read_text() for name, path in streams.items()})


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    found = Processes(tmp_path_factory.mktemp("simulated"))
    with found.zygote:
        yield found


def autoloaded(code: str, **faults: object) -> Ended:
    """A whole new process, in which `import torch` finds the plug-in by itself."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment(**faults) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# --- what it is


def test_import_torch_loads_it_and_torch_names_it() -> None:
    ended = autoloaded(
        "import json, torch\n"
        "import torch_npu\n"
        "x = torch.arange(6.0, device='npu').view(2, 3)\n"
        "acc = torch.accelerator\n"
        "print(json.dumps([str(acc.current_accelerator()), torch.npu.device_count(),\n"
        "    torch.npu.get_device_name(0), torch_npu.__version__, str(x.T.device),\n"
        "    torch_npu.npu.utils.get_cann_version('CANN'), torch_npu.npu is torch.npu,\n"
        "    torch.get_device_module('npu') is torch.npu, (x @ x.T).cpu().tolist()]))\n"
    )
    assert ended.said == [
        *("npu", 1, "Ascend910B2", "2.13.0+sim", "npu:0", "9.1.0", True, True),
        [[5.0, 14.0], [14.0, 50.0]],
    ]
    assert ended.err == ""


def test_tensors_views_in_place_and_out(processes: Processes) -> None:
    said = processes.run("""
x = torch.zeros(2, 3, device="npu")
row = x[1]
row.add_(1)                                     # a view writes through
out = torch.empty(0, device="npu")
torch.add(x, x, out=out)                        # an empty `out` is resized
parts = torch.cat([x, out]).split(2)
index = torch.tensor([1, 0])                    # indices may lie on the host
print(json.dumps([x.tolist(), out.tolist(), parts[1][index].tolist(), x.npu().is_npu,
    x.half().dtype == torch.float16, (x > 0).sum().item(), x.to("cpu").device.type]))
""").said
    ones, twos = [1.0] * 3, [2.0] * 3
    assert said == [[[0.0] * 3, ones], [[0.0] * 3, twos], [twos, [0.0] * 3], True, True, 3, "cpu"]


def test_results_that_change_shape_or_are_complex(processes: Processes) -> None:
    said = processes.run("""
import warnings
warnings.simplefilter("ignore")              # torch's own: `out` is resized
def job(device):
    out = torch.add(torch.ones(4, device=device), 1, out=torch.empty(2, device=device))
    pairs = torch.arange(8.0, device=device).view(4, 2).requires_grad_()
    turned = torch.view_as_complex(pairs) * torch.polar(out, out)
    torch.view_as_real(turned.conj().resolve_conj()).square().sum().backward()
    return [out.tolist(), pairs.grad.tolist(), turned.detach().conj().imag.tolist()]

npu, cpu = job("npu"), job("cpu")
counts = torch.histc(torch.ones(4, dtype=torch.int32, device="npu"), bins=2, min=0, max=1)
print(json.dumps([npu, cpu, counts.tolist()]))
""").said
    npu, cpu, counts = said
    assert npu == cpu
    assert counts == [0, 4]


def test_pinned_memory_is_any_memory(processes: Processes) -> None:
    said = processes.run("""
x = torch.empty(3, pin_memory=True).fill_(2).pin_memory()
y = torch.zeros_like(x, pin_memory=True)
y.copy_(x.to("npu", non_blocking=True), non_blocking=True)
torch.npu.synchronize()
print(json.dumps(y.tolist()))
""").said
    assert said == [2.0] * 3


def test_the_functions_that_diffusers_calls(processes: Processes) -> None:
    said = processes.run("""
from torch.nn import functional
x, weight = torch.randn(3, 8), torch.rand(8)
left, right = x.chunk(2, -1)
geglu = left * functional.gelu(right, approximate="tanh")
pairs = ((torch_npu.npu_geglu(x.npu())[0], geglu),
         (torch_npu.npu_rms_norm(x.npu(), weight.npu())[0],
          functional.rms_norm(x, (8,), weight, 1e-6)))
print(json.dumps([float((a.cpu() - b).abs().max()) for a, b in pairs]))
""").said
    assert max(said) < 1e-6


def test_a_tensor_of_the_host_beside_one_of_the_device_is_refused(processes: Processes) -> None:
    ended = processes.run("torch.ones(2, device='npu') + torch.ones(2)")
    assert "Expected all tensors to be on the same device" in ended.err
    assert ended.code == 1


TRAIN = """
from torch import nn
from torch.nn import functional

class Net(nn.Module):  # the parts of a ResNet
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(functional.relu(self.norm(self.stem(x))))
        x = functional.relu(x + self.conv(x))
        return self.head(functional.dropout(x.mean((2, 3)), 0.2))

def train(device, autocast, optimizer):
    torch.manual_seed(1)
    model, data = Net().to(device), torch.randn(4, 3, 16, 16).to(device)
    labels = torch.arange(4).to(device)
    update = optimizer(model.parameters())
    losses = []
    for _ in range(4):
        update.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = functional.cross_entropy(model(data).float(), labels)
        loss.backward()
        update.step()
        losses.append(loss.item())
    return losses
"""


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    ["torch.optim.AdamW(p, 1e-2, fused=True)", "torch.optim.SGD(p, 0.1, momentum=0.9)"],
)
def test_a_convolutional_net_learns_as_on_the_cpu(
    processes: Processes, optimizer: str, autocast: bool
) -> None:
    said = processes.run(f"""{TRAIN}
torch.npu.conv.allow_hf32 = False
make = lambda p: {optimizer}
print(json.dumps([train(device, {autocast}, make) for device in ("cpu", "npu")]))
""").said
    cpu, npu = said
    assert npu == pytest.approx(cpu, rel=1e-3 if autocast else 1e-5)
    assert npu[-1] < npu[0]


def test_autocast_has_its_formats(processes: Processes) -> None:
    said = processes.run("""
from torch.nn import functional
x, image, kernel = (torch.ones(s, device="npu") for s in ((4, 4), (1, 2, 4, 4), (3, 2, 3, 3)))
with torch.autocast("npu", torch.bfloat16):
    short = [x @ x, functional.linear(x, x), functional.conv2d(image, kernel),
             torch.bmm(image[0], image[0])]
    half = x.bfloat16()
    long = [half.softmax(-1), functional.layer_norm(half, (4,)), half.sum(), half.exp()]
    same = [x + x, half * half, x.relu()]
print(json.dumps([[str(y.dtype)[6:] for y in ys] for ys in (short, long, same)]))
""").said
    assert said == [["bfloat16"] * 4, ["float32"] * 4, ["float32", "bfloat16", "float32"]]


def test_a_llama_learns_and_generates_as_on_the_cpu(processes: Processes) -> None:
    said = processes.run("""
from transformers import LlamaConfig, LlamaForCausalLM

def job(device, autocast):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=128,
                         num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(config).to(device)
    tokens = torch.randint(0, 128, (2, 16)).to(device)
    update, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(2):
        update.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        update.step()
        losses.append(loss.item())
    new = model.eval().generate(tokens[:, :8], max_new_tokens=3, do_sample=False, pad_token_id=0)
    return [losses, new.tolist()]

print(json.dumps([job(d, a) for a in (False, True) for d in ("cpu", "npu")]))
""").said
    (cpu, cpu_tokens), (npu, npu_tokens), (cpu_short, _), (npu_short, _) = said
    assert npu == pytest.approx(cpu, rel=1e-5)
    assert npu_tokens == cpu_tokens
    assert npu_short == pytest.approx(cpu_short, rel=1e-3)


def test_attention_is_fused_and_agrees_with_the_cpu(processes: Processes) -> None:
    said = processes.run("""
from torch.nn.functional import scaled_dot_product_attention as attention
from torch_npu import _kernels

def run(device, **options):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8).to(device).requires_grad_() for _ in range(3))
    out = attention(q, k, v, **options)
    out.square().sum().backward()
    return [t.detach().cpu() for t in (out, q.grad, k.grad, v.grad)]

mask = torch.rand(5, 5) > 0.3
mask.fill_diagonal_(True)
worst = 0.0
for here, there in (({}, {}), ({"is_causal": True},) * 2,
                    ({"attn_mask": mask}, {"attn_mask": mask.npu()})):
    for a, b in zip(run("cpu", **here), run("npu", **there)):
        worst = max(worst, float((a - b).norm() / a.norm()))
q = torch.ones(1, 1, 4, 600, device="npu")
print(json.dumps([worst, _kernels.fused_sdp_choice(q, q, q),
                  _kernels.fused_sdp_choice(q[..., :512], q, q[..., :512])]))
""").said
    worst, too_wide, fused = said
    assert worst < 1e-5
    assert (too_wide, fused) == (0, 4)


def test_seeds_and_generators(processes: Processes) -> None:
    said = processes.run("""
def draw():
    generator = torch.Generator(device="npu").manual_seed(5)
    return torch.randn(3, device="npu", generator=generator).tolist()

def default():
    torch.manual_seed(7)
    return torch.rand(3, device="npu").tolist()

known = isinstance(torch.Generator(), torch.Generator)
print(json.dumps([draw(), draw(), default(), default(), known]))
""").said
    assert said[0] == said[1]
    assert said[2] == said[3] != said[0]
    assert said[4] is True


# --- its clock

TIMED = """
x = torch.ones(4, device="npu")
torch.npu.synchronize()

def timed(wait):
    start = time.perf_counter()
    for _ in range(10):
        x.erfinv()
    wait()
    return time.perf_counter() - start
"""


def test_without_a_synchronization_the_time_is_far_too_short(processes: Processes) -> None:
    said = processes.run(
        TIMED
        + """
short = min(timed(lambda: None) for _ in range(3))
torch.npu.synchronize()
waits = (torch.npu.synchronize, torch.accelerator.synchronize, lambda: x.sum().item(),
         lambda: x.cpu(), torch.npu.current_stream().synchronize)
print(json.dumps([short, [timed(wait) for wait in waits]]))
""",
        slow="erfinv=30",
    ).said
    short, whole = said
    assert min(whole) >= 0.3
    assert short < min(whole) / 5


def test_a_host_that_must_wait_for_every_operator(processes: Processes) -> None:
    code = TIMED + "print(json.dumps(timed(lambda: None)))"
    ended = processes.run(code, {"ASCEND_LAUNCH_BLOCKING": "1"}, slow="erfinv=30")
    assert ended.said >= 0.3


@pytest.mark.parametrize("event", ["torch.npu.Event(", "torch.Event('npu', "])
def test_events_read_the_time_of_the_device(processes: Processes, event: str) -> None:
    said = processes.run(
        TIMED
        + f"""
start, middle, end = ({event}enable_timing=True) for _ in range(3))
start.record()
x.erfinv()
middle.record()
x.erfinv(), x.erfinv(), x.erfinv()
end.record()
early = end.query()
end.synchronize()
print(json.dumps([early, end.query(), start.elapsed_time(middle), start.elapsed_time(end)]))
""",
        slow="erfinv=50",
    ).said
    early, late, one, four = said
    assert (early, late) == (False, True)
    assert one >= 50
    assert four >= 200 > one


def test_streams_run_side_by_side_and_wait_for_each_other(processes: Processes) -> None:
    said = processes.run(
        TIMED
        + """
def lag(wait):
    torch.npu.synchronize()
    side, first, second = torch.npu.Stream(), *(torch.npu.Event(enable_timing=True) for _ in "12")
    x.erfinv()
    first.record()
    if wait:
        side.wait_stream(torch.npu.current_stream())
    with torch.npu.stream(side):
        x.erfinv()
        second.record()
    return first.elapsed_time(second)

print(json.dumps([lag(False), lag(True)]))
""",
        slow="erfinv=200",
    ).said
    beside, behind = said
    assert beside < 150 < 200 <= behind


# --- its memory


def test_memory_is_counted(processes: Processes) -> None:
    said = processes.run("""
npu = torch.npu
x = torch.ones(1000, 1000, device="npu")
first = npu.memory_allocated()
view, _ = x[3], x * 2                       # a view takes none; the product is gone at once
del x, _
kept = npu.memory_allocated()               # the view keeps all of it
del view
free, total = npu.mem_get_info()
figures = [first, kept, npu.memory_allocated(), npu.max_memory_allocated(), total - free]
npu.reset_peak_memory_stats()
npu.empty_cache()
free, total = torch.accelerator.get_memory_info()
figures += [torch.accelerator.max_memory_allocated(), total - free, npu.memory_reserved()]
try:
    raise KeyError(torch.ones(500, device="npu"))
except KeyError:
    pass                                    # freed with an exception in flight
print(json.dumps([figures, npu.memory_allocated()]))
""").said
    block = 4_000_256  # 4,000,000 in blocks of 512
    assert said == [[block, block, 0, 2 * block, 2 * block, 0, 0, 0], 0]


def test_out_of_memory_can_be_recovered_from(processes: Processes) -> None:
    said = processes.run(
        """
x = torch.ones(2**19, device="npu")         # 2 MiB
try:
    torch.ones(2**19, device="npu")
except torch.OutOfMemoryError as error:
    text = str(error)
del x
torch.npu.empty_cache()
print(json.dumps([text, torch.ones(2**19, device="npu").sum().item()]))
""",
        memory_bytes=3 * 2**20,
    ).said
    assert said[0].startswith(
        "NPU out of memory. Tried to allocate 2.00 MiB (NPU 0; 3.00 MiB total capacity; "
        "2.00 MiB already allocated;"
    )
    assert said[1] == 2**19


# --- its ways


@pytest.mark.parametrize(
    "call",
    [
        "torch.empty(1, 2, 3, 4, device='npu', memory_format=torch.channels_last)",
        "torch.ones(1, 2, 3, 4, device='npu').to(memory_format=torch.channels_last)",
        "torch.nn.Conv2d(2, 3, 3).to('npu').to(memory_format=torch.channels_last)",
    ],
)
def test_channels_last_is_refused(processes: Processes, call: str) -> None:
    ended = processes.run(call)
    assert ended.code == 1
    assert "RuntimeError: Only contiguous_format or preserve_format is supported" in ended.err


DOUBLE = "x = torch.ones(2, dtype=torch.float64).to('npu')\nprint(json.dumps(str(x.dtype)))"


def test_float64_becomes_float32_and_only_descriptor_2_is_told(processes: Processes) -> None:
    code = "import warnings\nwarnings.simplefilter('error')\n" + DOUBLE + "\nx.double()"
    ended = processes.run(code)
    assert ended.said == "torch.float32"
    (line,) = ended.err.splitlines()
    assert "Warning: Device do not support double dtype now, dtype cast replace with" in line


def test_its_warnings_can_be_silenced(processes: Processes) -> None:
    ended = processes.run(DOUBLE, {"TORCH_NPU_WARNING_DISABLE": "1"})
    assert (ended.said, ended.err) == ("torch.float32", "")


def test_hf32_shortens_the_mantissa_of_products(processes: Processes) -> None:
    said = processes.run("""
from torch.nn.functional import conv2d
torch.manual_seed(0)
image, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
a, b = torch.randn(64, 64), torch.randn(64, 64)

def error(function, *arguments):
    expected = function(*(x.double() for x in arguments))
    found = function(*(x.npu() for x in arguments)).cpu().double()
    return float((found - expected).norm() / expected.norm())

def errors():
    return [error(conv2d, image, weight), error(torch.matmul, a, b)]

default = errors()
torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32 = False, True
print(json.dumps([default, errors()]))
""").said
    (conv, matmul), (exact_conv, short_matmul) = said
    assert conv > 1e-4 > 1e-6 > exact_conv  # 11 bits: the roundoff is 2^-12
    assert short_matmul > 1e-4 > 1e-6 > matmul


# --- its faults

CUMSUM = "x = torch.ones(3, device='npu').cumsum(0)\nprint(json.dumps(x.tolist()))"
FALLBACK = (
    "Warning: CAUTION: The operator 'aten::cumsum.out' is not currently supported on the NPU "
    "backend and will fall back to run on the CPU."
)


def test_host_fallback_is_said_once_for_each_operator(processes: Processes) -> None:
    code = "torch.ones(3, device='npu').cumsum(0), torch.ones(3, device='npu').cumprod(0)\n"
    ended = processes.run(code + CUMSUM, fallback="cumsum,cumprod")
    assert ended.said == [1.0, 2.0, 3.0]
    first, second = ended.err.splitlines()
    assert FALLBACK in first
    assert "'aten::cumprod.out'" in second


def test_host_fallback_waits_for_the_device(processes: Processes) -> None:
    code = TIMED + "print(json.dumps(timed(lambda: x.cumsum(0))))"
    ended = processes.run(code, slow="erfinv=30", fallback="cumsum")
    assert ended.said >= 0.3


def test_host_fallback_is_refused_where_it_is_turned_off(processes: Processes) -> None:
    ended = processes.run(CUMSUM, {"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}, fallback="cumsum")
    assert ended.code == 1
    assert "RuntimeError: The operator 'aten::cumsum.out' would execute its main com" in ended.err
    assert FALLBACK not in ended.err


def test_a_missing_operator(processes: Processes) -> None:
    ended = processes.run(CUMSUM, missing="cumsum")
    assert ended.code == 1
    assert "NotImplementedError: Could not run 'aten::cumsum.out' with arguments from" in ended.err


def test_a_wrong_operator_is_off_by_a_hundredth(processes: Processes) -> None:
    assert processes.run(CUMSUM, wrong="cumsum").said == pytest.approx([1.01, 2.02, 3.03])


LOSE = """
event = torch.npu.Event()
event.record()
x, told = torch.ones(3, device="npu"), []
for act in (x.cumsum, x.cumsum, x.sum, lambda *_: torch.npu.synchronize(), lambda *_: x.cpu(),
            lambda *_: event.synchronize(), lambda *_: torch.npu.current_stream().synchronize()):
    try:
        act(0)
        told.append("fine")
    except RuntimeError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_a_device_lost_in_an_operator_stays_lost(processes: Processes) -> None:
    fine, *lost = processes.run(LOSE, lost="cumsum", lost_after=1).said
    assert fine == "fine"
    assert len(lost) == 6
    assert all("error code is 507018" in text for text in lost)


def test_a_device_lost_in_a_synchronization(processes: Processes) -> None:
    told = processes.run(LOSE, lost="synchronize").said
    assert [text == "fine" for text in told] == [True] * 3 + [False] * 4
    assert "error code is 507018" in told[3]


def test_a_missing_runtime_fails_the_import_of_torch() -> None:
    ended = autoloaded("import torch", runtime="missing")
    assert ended.code == 1
    assert (
        "ImportError: libhccl.so: cannot open shared object file: No such file or directory"
        in ended.err
    )
    assert (
        "RuntimeError: Failed to load the backend extension: torch_npu. You can disable extension "
        "auto-loading with TORCH_DEVICE_BACKEND_AUTOLOAD=0." in ended.err
    )


def test_a_plug_in_without_a_device(processes: Processes) -> None:
    said = processes.run(
        """
try:
    torch.ones(1, device="npu")
except RuntimeError as error:
    text = str(error)
acc = torch.accelerator
print(json.dumps([torch.npu.is_available(), acc.is_available(), acc.device_count(),
    str(acc.current_accelerator()), acc.current_accelerator(check_available=True), text]))
""",
        devices=0,
    ).said
    assert said[:5] == [False, False, 0, "npu", None]
    assert said[5].startswith("Invalid device ID.")


def test_two_dies_are_two_devices(processes: Processes) -> None:
    said = processes.run(
        """
npu = torch.npu
here, there = (torch.ones(1000, device=f"npu:{i}") for i in range(2))
try:
    here.masked_select(there > 0)            # torch itself sees to `here + there`
except RuntimeError as error:
    text = str(error)
npu.set_device(1)
layer = torch.nn.Linear(4, 4).to("npu")
layer(torch.ones(2, 4, device="npu")).sum().backward()
there.erfinv()
start = time.perf_counter()
npu.synchronize(0)
idle = time.perf_counter() - start
npu.synchronize(1)
busy = time.perf_counter() - start
print(json.dumps([npu.device_count(), torch.accelerator.device_count(), npu.get_device_name(1),
    torch.accelerator.current_device_index(), str(layer.weight.grad.device),
    npu.memory_allocated(0), npu.memory_allocated(1) > 4096, there.to("npu:0").device.index, text,
    idle < busy / 2]))
""",
        device_name="Ascend910_9382",
        slow="erfinv=300",
    ).said
    assert said == [
        *(2, 2, "Ascend910_9382", 1, "npu:1", 4096, True, 0),
        "Expected all tensors to be on the same device, but found at least two devices, npu:0 and "
        "npu:1!",
        True,
    ]


def test_a_misspelt_variable_is_no_fault(processes: Processes) -> None:
    ended = processes.run("", falback="cumsum")
    assert ended.code == 1
    assert "ValueError: unknown variable SIMNPU_FALBACK. Known: SIMNPU_DEVICE_NAME, " in ended.err


def test_every_variable_is_in_the_table(processes: Processes) -> None:
    said = processes.run("""
from torch_npu import _settings
print(json.dumps([torch_npu.__doc__, list(_settings.Settings.__annotations__)]))
""").said
    text, fields = said
    for field in (*fields, "smi"):
        assert f"| `SIMNPU_{field.upper()}` |" in text


# --- npu-smi


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("A2", ["| 0     910B4-1             | OK            | 91.3        33 "]),
        (
            "A3",
            [
                "| 0     Ascend910           | OK            | 178.5       36 ",
                "| 0     Ascend910           | OK            | -           36 ",
                "| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3195 ",
            ],
        ),
        ("310P", ["| 0       310P3                 | OK              | NA "]),
    ],
)
def test_npu_smi_prints_the_samples(model: str, rows: list[str]) -> None:
    table = npu_smi("info", smi=model)
    assert all(row in table for row in rows)
    assert ("HBM" in table) == (model != "310P")


def test_npu_smi_has_a_line_for_each_figure() -> None:
    pairs = [line.split(" : ") for line in npu_smi("info", "-t", "common", "-i", "0").splitlines()]
    figures = {pair[0].strip(): pair[1] for pair in pairs if len(pair) == 2}
    assert figures["NPU Real-time Power(W)"] == "71.7"
    assert figures["Aicore curFreq(MHZ)"] == "900"


def npu_smi(*arguments: str, **faults: object) -> str:
    variables = os.environ | environment(**faults)
    return subprocess.run(
        ["npu-smi", *arguments], env=variables, capture_output=True, text=True, check=True
    ).stdout


def test_no_wheel_has_a_torch_npu_of_ours() -> None:
    """It lies below `bench/`, which is all that a wheel holds: no path of its own leads there."""
    project = FOLDER.parents[2] / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package has no pyproject.toml beside it")
    content = tomllib.loads(project.read_text(encoding="utf-8"))
    assert content["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["bench"]
    assert not list(FOLDER.parents[2].glob("torch_npu*"))

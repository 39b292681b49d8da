"""The simulated Ascend device computes what the CPU does, in its own formats."""

from __future__ import annotations

import os

import pytest

from bench.tests.simulated.processes import Processes, autoloaded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")


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

"""A step whose execution calls no operators, explained by the kernels that a profiler sees.

Of compiled code a kernel's name tells which operators it holds: `cpp_fused_gelu_add_0`,
`triton_red_fused__softmax_mul_3`. What it moves is not told, so it has no bound but where it is a
product of known shapes. Recording such a step would record another one: the eager step.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bench.measuring.explaining import profiled
from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.in_order import Disturbed
from bench.measuring.explaining.kinds import base, kind_of_name, kind_of_words
from bench.measuring.explaining.replay import Player
from bench.measuring.explaining.tape import Tape
from bench.measuring.explaining.timing import Stopwatch, launch_ns
from bench.measuring.timing.blocks import collected
from bench.records.explained import Explained, Kind, Operator, Profile, Unexplained

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

COMPILED = re.compile(
    r"(?:^|_)(?:cpp|triton(?:_[a-z]{2,4})?)_fused(?:_(?P<operators>\w+?))?_\d+(?:$|\W)"
)
"""How a compiler names the kernels that it writes."""
FILLED_IN = re.compile(r"(?:^|_)gemm_(?:g\d+)?m\w+n\w+k\w+_|^graph_\d+_kernel$")
"""And those that it makes of templates for a CPU: `graph_0_gemm_m64n256k256_kernel`."""
OPERATOR = re.compile(r"^(?!autograd|torch|profiler)[a-z_]\w*::\w+$")
"""How torch's profiler names an operator."""
WRITES_KERNEL_NAMES = "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE"
"""At 1, kernels that are compiled for a CPU tell the profiler their names."""
KERNEL_KINDS: tuple[tuple[Kind, str], ...] = (
    (
        "copy",
        r"memcpy|memset|(copy|fill)buffer|memory_copy|subtensorop"
        r"|batched_?transpose|^transpose_(nchw|cnhw)",
    ),
    ("attention", r"flash|fmha|attention|attn|bwd_(kernel_(dk_dv|dq|fuse)|(pre|post)process)"),
    ("convolution", r"conv(?!ert)|fprop|[wd]grad|igemm_(fwd|bwd|wrw)|im[23]d2col|col2im[23]d"),
    ("matmul", r"gemm|gemv|matmul|splitk|_mm_|cutlass|nvjet|(^|_)cijk_"),
    ("normalization", r"(layer|batch|group|rms|instance)_?norm|bn_[fb]w"),
    ("optimizer", r"adam|sgd|multi_tensor"),
    ("gather and scatter", r"(?<!with_)index|gather|scatter|embedding"),
    ("reduction", r"reduce|softmax|pool"),
    ("elementwise", r"elementwise|vectorized|pointwise|^op(\dd)?tensor"),
)
"""Of kernels of libraries, by their names."""
FIRST: tuple[Kind, ...] = (
    *("attention", "convolution", "matmul", "normalization", "reduction"),
    *("gather and scatter", "elementwise", "copy"),
)
"""Of the operators that a kernel holds, which one says what it is."""
PRODUCTS = 3
"""The first so many, of a template alone: any other kernel holds what is left of a product (its
bias, its padding), or what it was taken together with; a library's kernel multiplies.

But of few rows or columns torch's compiler writes the product itself, as a sum: for a CPU, where a
name holds `mm` for nothing else, and while it searches (`triton_per_fused__to_copy_mm_t_0`), where
nothing else that the kernel holds reduces: the sum of a bias has a name, `sum`, of its own."""
TEMPLATE = "triton_tem_"
REDUCES = re.compile("triton_(red|per)_")
NO_SUMS: frozenset[Kind] = frozenset(("matmul", "elementwise", "copy", "other"))
EAGER = 'Explain the same case with execution = "eager"'
STEPS = 6
TURNS = 6


def explained(
    job: Job,
    device: Device,
    arithmetic: str,
    clock: Callable[[], int] = time.perf_counter_ns,
    disturbed: Disturbed = dict,
) -> Explained | Unexplained:
    """The account of a compiled or recorded step; refused where no profiler sees its kernels.

    arithmetic: the precision of the case's products (`bf16`).
    """
    stopwatch = Stopwatch(device, clock)
    with collected():
        before = [stopwatch.step_ns(job) for _ in range(TURNS // 2)]
        try:
            seen, wall = profiled.events_of(job, device, STEPS)
        except (ImportError, RuntimeError) as error:
            return Unexplained(reason=f"{profiled.not_here(error)}. {EAGER}")
        kept = profiled.whole(seen)
        lost = f"the profiler lost kernels of {len(seen) - len(kept)} of {len(seen)} steps"
        if seen and not kept:
            return Unexplained(reason=f"{lost}, as older tracers do. {EAGER}")
        events = itertools.chain(*kept)
        found = rows(events, len(kept), arithmetic, synchronous=device.synchronous)
        if not found:
            return Unexplained(reason=f"{profiled.NO_KERNELS}. {EAGER}")
        after = [stopwatch.step_ns(job) for _ in range(TURNS // 2)]
        causes = disturbed()
        launch = Player(Tape(), clock).launch_ns() if device.synchronous else launch_ns(stopwatch)
        meter = Meter(device, stopwatch, [f"matmul {arithmetic}"])
        for _ in range(TURNS // 2):
            meter.look()
    kinds: dict[Kind, float] = defaultdict(float)
    for row in found:
        kinds[row.kind] += row.ns or 0.0
    calls: Counter[str] = Counter()
    for row in found:
        calls[row.name] += row.calls
    return Explained(
        how="profiler",
        step_ns=(*before, *after),
        operators=found,
        ceilings=meter.ceilings(launch),
        profile=Profile(
            step_ns=wall / STEPS, kinds=dict(kinds), calls={k: float(n) for k, n in calls.items()}
        ),
        causes=causes,
        notes=(f"{lost}, which are left out",) if len(kept) < len(seen) else (),
    )


def rows(
    events: Iterable[Any], steps: int, arithmetic: str, *, synchronous: bool
) -> tuple[Operator, ...]:
    """Kernels, and operators that no other holds, of so many steps and nothing else.

    synchronous: whether the work is the calls themselves; else it is the device's own events.
    """
    times: dict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    flop: Counter[tuple[str, str]] = Counter()
    for event in events:
        if synchronous:
            if not _is_work(event.name) or not _outermost(event):
                continue
            taken = float(event.cpu_time_total)
        else:
            if not profiled.is_kernel(event):
                continue
            taken = float(event.device_time_total)
        key = event.name, _shapes(event)
        times[key] += taken * 1e3 / steps
        counts[key] += 1
        flop[key] += int(getattr(event, "flops", 0) or 0)
    found = []
    for key, ns in times.items():
        name, shapes = key
        fuses = fused(name)
        kind = kind_of_kernel(name, fuses)
        product = kind in ("matmul", "attention") and flop[key] > 0
        found.append(
            Operator(
                name=name,
                kind=kind,
                operands=shapes,
                fuses=fuses,
                calls=max(1, round(counts[key] / steps)),
                ns=ns,
                flop=flop[key] // steps if product else 0,
                precision=arithmetic if product else "",
            )
        )
    return tuple(sorted(found, key=lambda row: -(row.ns or 0.0)))


def fused(name: str) -> tuple[str, ...]:
    """The operators that a compiler's kernel holds, by its name; none of any other.

    `graph_0_cpp_fused_gelu_native_layer_norm_0` holds gelu and native_layer_norm.
    """
    found = COMPILED.search(name)
    if found is None or not found["operators"]:
        return ()
    rest, names, held = found["operators"], known(), list[str]()
    while rest:
        ends = [k for k in range(len(rest), 0, -1) if k == len(rest) or rest[k] == "_"]
        # The longest name that torch knows; of what it does not know, a word.
        end = next((k for k in ends if rest[:k] in names), ends[-1])
        held.append(rest[:end])
        rest = rest[end + 1 :]
    return tuple(dict.fromkeys(one for one in held if one))


@functools.cache
def known() -> frozenset[str]:
    """Names of torch's operators, without namespace and overload."""
    import torch

    names: list[str] = torch._C._dispatch_get_all_op_names()
    return frozenset(base(name) for name in names if name.startswith(("aten::", "prims::")))


def kind_of_kernel(name: str, fuses: tuple[str, ...]) -> Kind:
    """By the operators that it holds, or by its own name."""
    if fuses:
        kinds = {kind_of_name(one) for one in fuses}
        reduces = REDUCES.search(name) is not None
        if "matmul" in kinds and ("triton" not in name or (reduces and kinds <= NO_SUMS)):
            return "matmul"
        if reduces:
            kinds.add("reduction")
        says = FIRST if TEMPLATE in name else FIRST[PRODUCTS:]
        return next((kind for kind in says if kind in kinds), "elementwise")
    if OPERATOR.match(name):
        return kind_of_words(base(name))
    lower = name.lower()
    found = next((kind for kind, words in KERNEL_KINDS if re.search(words, lower)), None)
    return found or (kind_of_words(name) if name.isidentifier() else "other")


def _is_work(name: str) -> bool:
    return any(one.search(name) for one in (COMPILED, FILLED_IN, OPERATOR))


def _outermost(event: Any) -> bool:
    """Whether no other kernel or operator holds it."""
    return not any(_is_work(one.name) for one in profiled.above(event))


def _shapes(event: Any) -> str:
    """`[8,64] [64,64]`; empty of what tells none."""
    found = [shape for shape in (getattr(event, "input_shapes", None) or []) if shape]
    return " ".join(f"[{','.join(map(str, shape))}]" for shape in found)

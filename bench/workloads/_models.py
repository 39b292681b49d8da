"""What the torch workloads share: seeded data and weights, and the training and inference step.

Weights. Every worker process builds its model anew, so construction is a cost of every launch: the
models' own initialisers take 2 s for 135 M parameters, most of it in drawing normals. Here the
constructor runs with its initialisers recorded instead of executed, and each recorded tensor is
then filled, one at a time, from a pool of about a million normals that is drawn once: the same
distribution, a tenth of the time, and a model of any size needs the host memory of its largest
tensor only. The pool is drawn on the CPU, so every device gets the same values (two CPUs of
different make may differ in the last bit of a logarithm; gate and reference share one CPU).
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.workload import Job, Site
from bench.workloads._quantized import products, quantize_layer, quantized_facts, quantizes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Forward = Callable[[nn.Module, Any], Tensor]
    """Runs a model on one input: a tensor, or whatever its workload calls an input."""
    Loss = Callable[[Tensor, Tensor], Tensor]
    """Mean loss of what the forward returned and the targets."""
    Batch = tuple[Any, Tensor]
    """Input and targets."""

POOL_SIZE = 1_048_573
"""The largest prime below 2^20: no row length divides it, so no two rows of a weight are equal."""
BATCHES = 4
"""Inputs that a job rotates among, so that no step finds its input where the last one left it."""


class SeededData:
    """Tensors drawn on the CPU, the same for the same seed and the same order of calls."""

    def __init__(self, seed: int) -> None:
        """Draws the pool."""
        import torch

        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(POOL_SIZE, generator=self._generator)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, std: float = 1.0) -> Tensor:
        """Normals of mean 0: the pool, tiled from a random offset.

        Multiplied in float32 and rounded once, so that two dtypes hold the same values rounded.
        """
        import torch

        result = torch.empty(shape, dtype=dtype)
        if type(result) is not torch.Tensor:  # a rehearsal: shapes and no values
            return result
        flat = result.view(-1)
        start = int(torch.randint(POOL_SIZE, (), generator=self._generator))
        done = 0
        while done < flat.numel():
            count = min(POOL_SIZE - start, flat.numel() - done)
            torch.mul(self._pool[start : start + count], std, out=flat[done : done + count])
            done += count
            start = 0
        return result

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform int64 from `low` to `high` - 1."""
        import torch

        return torch.randint(low, high, shape, generator=self._generator)


def build_model(
    construct: Callable[[], nn.Module],
    published: int | None,
    data: SeededData,
    site: Site,
    blocks: str = "",
) -> nn.Module:
    """A model on the site's device, in its weight dtype, with seeded weights.

    Tied weights stay tied. Constants (ones of a norm, zeros of a bias) stay as the constructor set
    them; persistent buffers (batch statistics) get the weight dtype as `Module.to` would give it;
    non-persistent ones (rotary frequencies) keep the dtype they were computed in.

    blocks: the path of the blocks, whose linear layers are quantized where the precision says so,
    each as soon as it is there: never more than one of them is on the device in full.

    Raises RuntimeError if the parameter count is not the `published` one: then the installed
    library builds another model than the name says.
    """
    model, stds = _record_construction(construct)
    count = parameter_count(model)
    if published is not None and count != published:
        raise RuntimeError(
            f"{type(model).__name__} was built with {count:,} parameters, but the published model "
            f"has {published:,}. Install another version of transformers."
        )
    _materialise(model, stds, data, site, blocks)
    return model


def initial_std(hidden: int) -> float:
    """Standard deviation of a transformer's weights: every matrix keeps the size of its input.

    With the usual 0.02 a narrow model's layers add next to nothing to what passes them by, and the
    numerics gate, which sees the end only, would not notice a layer gone wrong.
    """
    return float(hidden**-0.5)


def adamw_learning_rate(hidden: int) -> float:
    """Learning rate at which two steps lower a transformer's loss by some percent, at any width.

    Enough for the numerics gate to see that the steps were taken, too little for the loss to reach
    zero. AdamW moves every weight by about as much as this, and the effect adds up over the width.
    Source: Yang et al., Tensor Programs V, arXiv 2203.03466 (1 / width).
    """
    return 2**-8 / hidden


def parameter_count(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def _record_construction(
    construct: Callable[[], nn.Module],
) -> tuple[nn.Module, dict[Tensor, float]]:
    """Runs a constructor; gives the model and the std of each tensor that it meant to draw.

    Works below the initialisers of torch and of the model's library, at the two operators in which
    all of them end, so it need not know them.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    constants = (aten.zero_.default, aten.fill_.Scalar, aten.copy_.default)
    views = (aten.detach.default, aten.alias.default, aten.select.int, aten.slice.Tensor)
    looks = (torch.ops.prim.device.default,)  # as a rehearsal asks; nothing is read
    stds: dict[Tensor, float] = {}  # keyed by identity; alive, so no identity is used twice

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if func in (aten.normal_.default, aten.uniform_.default):
                stds[args[0]] = _std(func is aten.normal_.default, *args[1:])
                return args[0]
            pending = [arg for arg in args if isinstance(arg, torch.Tensor) and arg in stds]
            if pending and func not in (*views, *looks):
                if func not in constants or pending != [args[0]]:
                    raise NotImplementedError(f"an initialiser that draws and goes on with {func}")
                del stds[args[0]]  # a constant after all: biases are drawn, then zeroed
            return func(*args, **(kwargs or {}))

    recorder: Any = Recorder
    with recorder(), _truncated_normals_as_normals():
        model = construct()
    return model, stds


def _std(normal: bool, first: float = 0.0, second: float = 1.0) -> float:
    """Standard deviation of `normal_(mean, std)` or `uniform_(low, high)`."""
    mean, std = (first, second) if normal else ((first + second) / 2, (second - first) / 12**0.5)
    if mean != 0.0:
        raise NotImplementedError(f"an initialiser that draws around {mean}")
    return std


@contextmanager
def _truncated_normals_as_normals() -> Iterator[None]:
    """Has `trunc_normal_` draw a normal of the standard deviation that the truncated one has.

    Libraries write `trunc_normal_(std=0.02)` and leave the bounds at +-2, a hundred deviations
    out: there the two are the same, and at two deviations no step costs more or less for its
    tails. Patched in torch because above the operators it is one function, and below them it is a
    loop that looks at its draws in one release and an inverse error function in another.
    """
    import torch
    from torch.nn import init

    def draw(
        tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> Tensor:
        if not math.isclose(a + b, 2 * mean, abs_tol=1e-9 * std):
            raise NotImplementedError(f"an initialiser that draws around {mean} from {a} to {b}")
        bound = (b - mean) / std
        inside = math.erf(bound / 2**0.5)
        density = math.exp(-(bound**2) / 2) / (2 * math.pi) ** 0.5
        # Source: Johnson et al., Continuous Univariate Distributions 1, chapter 13, 10.1.
        with torch.no_grad():
            return tensor.normal_(mean, std * (1 - 2 * bound * density / inside) ** 0.5)

    whole: Any = init
    before = whole._no_grad_trunc_normal_
    whole._no_grad_trunc_normal_ = draw
    try:
        yield
    finally:
        whole._no_grad_trunc_normal_ = before


def _materialise(
    model: nn.Module, stds: dict[Tensor, float], data: SeededData, site: Site, blocks: str
) -> None:
    """Replaces each parameter and buffer by its value on the site's device."""
    import torch

    persistent = set(model.state_dict())
    placed: dict[Tensor, nn.Parameter] = {}
    for prefix in [path for path, _ in model.named_modules()]:  # which would keep what is replaced
        module = model.get_submodule(prefix)
        for name, old in module.named_parameters(recurse=False):
            if old not in placed:
                std = stds.get(old)
                value = (
                    old if std is None else data.normal(tuple(old.shape), site.precision.dtype, std)
                )
                placed[old] = torch.nn.Parameter(place(value.detach(), site))
            setattr(module, name, placed[old])
            if quantizes(site, blocks, prefix):
                del placed[old]  # or it would live as long as this loop
        for name, buffer in module.named_buffers(recurse=False):
            path = f"{prefix}.{name}" if prefix else name
            cast = path in persistent
            setattr(module, name, place(buffer, site) if cast else buffer.to(site.device))
        if quantizes(site, blocks, prefix) and isinstance(module, torch.nn.Linear):
            quantize_layer(model, prefix, site)


def place(value: Tensor, site: Site) -> Tensor:
    """A tensor at the site: its device, its weight dtype if a float, its format if an image."""
    import torch

    if value.is_floating_point():
        value = value.to(site.precision.dtype)
    if value.dim() == 4 and site.memory_format == "channels_last":
        value = value.contiguous(memory_format=torch.channels_last)
    return value.to(site.device)


def autocast(site: Site) -> AbstractContextManager[object]:
    """The autocast that the site's precision asks for, if any."""
    import torch

    dtype = site.precision.autocast_dtype
    if dtype is None:
        return nullcontext()
    return torch.autocast(site.device.type, dtype)


def make_optimizer(
    name: str, learning_rate: float, model: nn.Module
) -> tuple[torch.optim.Optimizer, str]:
    """The named optimizer over what the model trains, and what the record says of it.

    Fused where torch has a fused kernel for the device (one launch instead of one per tensor; 0.3 s
    of a 1.7 s step on a CPU), else as torch does by default; the same arithmetic either way.
    """
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    makers: dict[str, Callable[[bool], torch.optim.Optimizer]] = {
        "adamw": lambda fused: torch.optim.AdamW(
            trained, lr=learning_rate, weight_decay=0.01, fused=fused
        ),
        "sgd": lambda fused: torch.optim.SGD(
            trained, lr=learning_rate, momentum=0.9, weight_decay=1e-4, fused=fused
        ),
        "plain-sgd": lambda fused: torch.optim.SGD(
            model.parameters(), lr=learning_rate, fused=fused
        ),
    }
    try:
        optimizer, fused = makers[name](True), True
    except RuntimeError:  # torch's word for: no fused kernel on this device
        optimizer, fused = makers[name](False), False
    return optimizer, f"{type(optimizer).__name__}(fused={fused})"


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., classes] and targets [...], in float32 or wider."""
    import torch
    from torch.nn import functional

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Tensor = functional.cross_entropy(wide.flatten(0, -2), targets.flatten())
    return loss


def gradient_norm(model: nn.Module, besides: Iterable[Tensor] = ()) -> Tensor:
    """Euclidean norm of all gradients together, the model's and those of the leaves `besides`.

    Waits for the device.

    On the CPU in float64: a float32 sum of ten million squares is off by 1e-4, more than the
    gradients are.
    """
    import torch

    norms = [
        torch.linalg.vector_norm(p.grad.to("cpu", torch.float64))
        for p in (*model.parameters(), *besides)
        if p.grad is not None
    ]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def checkpoint_layers(model: nn.Module) -> None:
    """Has a transformers model keep the inputs of its layers only, and compute the rest again.

    Nothing here draws at random, so no generator's state is kept for the second time.
    """
    library: Any = model
    if hasattr(library, "activation_checkpointing_enable"):  # transformers 5.24 and later
        enable = library.activation_checkpointing_enable
    else:
        enable = library.gradient_checkpointing_enable
    library.config.use_cache = False  # else it warns that it does not
    enable({"use_reentrant": False, "preserve_rng_state": False})


class TrainingJob(Job):
    """zero_grad, forward, loss in float32, backward, optimizer step; inputs rotate.

    With accumulation, forward and backward of several micro-batches before one optimizer step; the
    loss is their mean.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        batches: list[Batch],
        optimizer: str,
        learning_rate: float,
        site: Site,
        facts: dict[str, str],
        loss: Loss = cross_entropy,
        accumulation_steps: int = 1,
    ) -> None:
        """Puts the model into training mode and makes its optimizer."""
        self._model = executed(model.train(), site)
        self._forward = forward
        self._batches: Iterator[Batch] = itertools.cycle(batches)
        self._accumulation_steps = accumulation_steps
        self._site = site
        self._loss_of = loss
        self._optimizer, description = make_optimizer(optimizer, learning_rate, model)
        self.facts = model_facts(model, site) | facts | {"optimizer": description}

    def step(self) -> None:
        """Queues one training step."""
        _, self._loss = self._update(self._next_batches())
        self._optimizer.step()

    def witness(self) -> float:
        """Loss of the last step."""
        return float(self._loss)

    def probe(self) -> dict[str, Tensor]:
        """Two steps and a forward on the same micro-batches; logits of the last of them."""
        import torch

        batches = self._next_batches()
        logits, loss = self._update(batches)
        norm = gradient_norm(self._model, self._leaves_besides())
        self._optimizer.step()
        self._update(batches)
        self._optimizer.step()
        last = torch.stack([self._evaluate(batch)[1].detach() for batch in batches]).mean()
        return {
            "logits": logits.detach(),
            "loss": loss,
            "gradient_norm": norm,
            "loss after 2 steps": last,
        }

    def _next_batches(self) -> list[Batch]:
        return list(itertools.islice(self._batches, self._accumulation_steps))

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        with autocast(self._site):
            logits = self._forward(self._model, inputs)
            return logits, self._loss_of(logits, targets)

    def _leaves_besides(self) -> Iterable[Tensor]:
        """Tensors outside the model's parameters that the last backward gave a gradient."""
        return ()

    def _update(self, batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Logits of the last batch, mean loss, and new gradients in the parameters."""
        self._optimizer.zero_grad(set_to_none=True)
        *others, last = batches
        before = [self._accumulate(batch)[1] for batch in others]
        logits, loss = self._accumulate(last)
        return logits, sum(before, loss)

    def _accumulate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and the batch's share of the mean loss; adds its gradients."""
        logits, loss = self._evaluate(batch)
        share = loss / self._accumulation_steps
        share.backward()
        return logits, share.detach()


class InferenceJob(Job):
    """One forward; inputs rotate."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        inputs: list[Any],
        site: Site,
        facts: dict[str, str],
    ) -> None:
        """Puts the model into evaluation mode."""
        self._model = executed(model.eval(), site)
        self._forward = forward
        self._inputs = itertools.cycle(inputs)
        self.facts = model_facts(model, site) | facts

    def step(self) -> None:
        """Queues one forward."""
        import torch

        with torch.inference_mode():
            self._logits = self._forward(self._model, next(self._inputs))

    def witness(self) -> float:
        """Mean of the last output."""
        return float(self._logits.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """Output for the first input."""
        self.step()
        return {"logits": self._logits} | products(self._model)


def executed(model: nn.Module, site: Site) -> nn.Module:
    """The model as the site executes it: compiled in place, or as it is.

    Compiling happens in the first step, whose time is a cold figure. What the compiler cannot do
    raises: it never falls back to eager without saying so.
    """
    if site.execution == "compile":
        model.compile()
    return model


def with_cache(model: nn.Module, cache: object) -> dict[str, object]:
    """The cache, as the model's forward calls that argument: transformers 5.24 renamed it."""
    forward: Any = model.forward
    named = "cache" in inspect.signature(forward).parameters
    return {"cache" if named else "past_key_values": cache}


def model_facts(model: nn.Module, site: Site) -> dict[str, str]:
    """What the record says of any model."""
    return {
        "parameters": str(parameter_count(model)),
        "memory_format": site.memory_format,
        **quantized_facts(model),
    }

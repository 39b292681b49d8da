"""Seeded data and weights: what the values of a torch workload are, on every device the same.

Every worker process builds its model anew, so construction is a cost of every launch: the
models' own initialisers take 2 s for 135 M parameters, most of it in drawing normals. Here the
constructor runs with its initialisers recorded instead of executed, and each recorded tensor is
then filled, one at a time, from a pool of about a million normals that is drawn once: the same
distribution, a tenth of the time, and a model of any size needs the host memory of its largest
tensor only. The pool is drawn on the CPU, so every device gets the same values (two CPUs of
different make may differ in the last bit of a logarithm; gate and reference share one CPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.dispatch import seen_by
from bench.rehearsal import has_no_values
from bench.workload import Site
from bench.workloads.layers.quantized import quantize_layer, quantizes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

POOL_SIZE = 1_048_573
"""The largest prime below 2^20: no row length divides it, so no two rows of a weight are equal."""


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
        shape_alone = has_no_values(result)
        start = None if shape_alone else self.start()
        if _noting:
            _note(self, (shape, std, start))
        if _noting or start is None:
            return result
        flat = result.view(-1)
        done = 0
        while done < flat.numel():
            count = min(POOL_SIZE - start, flat.numel() - done)
            torch.mul(self._pool[start : start + count], std, out=flat[done : done + count])
            done += count
            start = 0
        return result

    def start(self) -> int:
        """Where in the pool the next normals begin."""
        import torch

        return int(torch.randint(POOL_SIZE, (), generator=self._generator))

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform int64 from `low` to `high` - 1."""
        import torch

        drawn = torch.randint(low, high, shape, generator=self._generator)
        if _noting:
            _note(self, (shape, (low, high), drawn))
        return drawn

    @property
    def pool(self) -> Tensor:
        """The normals that all others are made of, float32."""
        return self._pool


class Noted(list[tuple[Any, ...]]):
    """Draws in order: (shape, std, start in the pool) of normals, (shape, (low, high), values) of
    integers. In a rehearsal no start, and integers without values."""

    def __init__(self) -> None:
        """None so far."""
        super().__init__()
        self.makers: list[SeededData] = []
        """Whose they are."""


_noting: list[Noted] = []
"""Where draws are noted, while they are: in the last one."""


def _note(maker: SeededData, draw: tuple[Any, ...]) -> None:
    found = _noting[-1]
    found.append(draw)
    if maker not in found.makers:
        found.makers.append(maker)


@contextmanager
def noted() -> Iterator[Noted]:
    """Notes what all `SeededData` draw meanwhile, and leaves normals unwritten: a job of any size
    is built in no time."""
    _noting.append(Noted())
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


def replayed(found: Noted, seed: int) -> Noted:
    """What `noted` would note of the same job with that seed, without building it.

    Which numbers a job draws, no value decides, and each is one call of the one generator of its
    seed. Raises ValueError where there were several.
    """
    if len(found.makers) > 1:
        raise ValueError(f"a job draws from {len(found.makers)} generators")
    data, again = SeededData(seed), Noted()
    for shape, how, _ in found:
        value = data.integers(how[0], how[1], shape) if isinstance(how, tuple) else data.start()
        again.append((shape, how, value))
    return again


def build_model(
    construct: Callable[[], nn.Module],
    published: int | None,
    data: SeededData,
    site: Site,
    blocks: str = "",
    cut: Callable[[str, Tensor], Tensor] = lambda path, value: value,
) -> nn.Module:
    """A model on the site's device, in its weight dtype, with seeded weights.

    Tied weights stay tied. Constants (ones of a norm, zeros of a bias) stay as the constructor set
    them; persistent buffers (batch statistics) get the weight dtype as `Module.to` would give it;
    non-persistent ones (rotary frequencies) keep the dtype they were computed in.

    blocks: the path of the blocks, whose linear layers are quantized where the precision says so,
    each as soon as it is there: never more than one of them is on the device in full.
    cut: what of a parameter, by its path, belongs on this device at all.

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
    _materialise(model, stds, data, site, blocks, cut)
    return model


def initial_std(hidden: int) -> float:
    """Standard deviation of a transformer's weights: every matrix keeps the size of its input.

    With the usual 0.02 a narrow model's layers add next to nothing to what passes them by, and the
    numerics gate, which sees the end only, would not notice a layer gone wrong.
    """
    return float(hidden**-0.5)


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

    aten = torch.ops.aten
    constants = (aten.zero_.default, aten.fill_.Scalar, aten.copy_.default)
    views = (aten.detach.default, aten.alias.default, aten.select.int, aten.slice.Tensor)
    looks = (torch.ops.prim.device.default,)  # as a rehearsal asks; nothing is read
    stds: dict[Tensor, float] = {}  # keyed by identity; alive, so no identity is used twice

    def see(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in (aten.normal_.default, aten.uniform_.default):
            stds[args[0]] = _std(func is aten.normal_.default, *args[1:])
            return args[0]
        pending = [arg for arg in args if isinstance(arg, torch.Tensor) and arg in stds]
        if pending and func not in (*views, *looks):
            if func not in constants or pending != [args[0]]:
                raise NotImplementedError(f"an initialiser that draws and goes on with {func}")
            del stds[args[0]]  # a constant after all: biases are drawn, then zeroed
        return func(*args, **kwargs)

    with seen_by(see), _truncated_normals_as_normals():
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
    model: nn.Module,
    stds: dict[Tensor, float],
    data: SeededData,
    site: Site,
    blocks: str,
    cut: Callable[[str, Tensor], Tensor],
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
                value = cut(f"{prefix}.{name}", value.detach())
                placed[old] = torch.nn.Parameter(place(value, site))
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

"""What the models of ours were asked for, and what is there: each job looks once, after timing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.dispatch import seen_by
from bench.ranks import local
from bench.workload import Look, Site
from bench.workloads.jobs.rotation import leaves
from bench.workloads.layers.transformers import attend

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AGAIN = "gradient checkpointing"
"""The fact that says whether layers keep their input only, and are computed again."""
SDPA = "sdpa"
"""What the record says of attention that goes through torch's own function."""


def placed(model: nn.Module, inputs: Any, site: Site) -> Iterator[Look]:
    """Whether weights and inputs lie where, and as, the site says.

    inputs: tensors, and tuples, lists and dicts of them.
    """
    for what, tensors in (
        ("weights", [local(t) for t in (*model.parameters(), *model.buffers())]),
        ("inputs", leaves(inputs)),
    ):
        yield _all(f"device of the {what}", *_device(site, (t.device for t in tensors)))
        yield _all(
            f"memory format of the {what}",
            site.memory_format,
            (_format(t, site.memory_format) for t in tensors if t.dim() == 4),
        )
    # What trains may be wider (adapters); what is quantized is told by its width.
    every = [p for p in model.parameters() if p.dim() > 1 and p.dtype.itemsize > 1]
    frozen = [p for p in every if not p.requires_grad] or every
    yield _all("dtype of the weights", str(site.precision.dtype), (str(p.dtype) for p in frozen))


def cached(tensors: Any, site: Site) -> Iterator[Look]:
    """Whether what a model keeps of its tokens lies where, and as wide as, the site says."""
    kept = leaves(tensors)
    yield _all("device of the cache", site.device.type, (t.device.type for t in kept))
    yield _all("dtype of the cache", str(site.precision.dtype), (str(t.dtype) for t in kept))


def mode(model: nn.Module, training: bool) -> Look:
    """Whether every module of the model trains, or none does."""
    asked, other = ("training", "evaluation")[:: 1 if training else -1]
    seen = (asked if module.training is training else other for module in model.modules())
    return _all("mode of the model", asked, seen)


def autocasting(context: Any, site: Site) -> Iterator[Look]:
    """Whether the site's autocast is on within its context, to its dtype: torch may disable it.

    context: what `bench.workloads.jobs.jobs.autocast` gives.
    """
    import torch

    dtype, kind = site.precision.autocast_dtype, site.device.type
    if dtype is None:
        return
    with context:
        on, seen = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    yield Look(what="autocast", asked=str(dtype), seen=str(seen) if on else "no autocast")


def attention(model: nn.Module, facts: Mapping[str, str]) -> Iterator[Look]:
    """Whether every attention of the model goes through torch's own function, as a job's facts say.

    By what the libraries' modules look up when they run: the function that the name in their
    config stands for (transformers), or their processor (diffusers).
    """
    if "attention" not in facts:
        return
    seen: set[str] = set()
    for module in model.modules():
        config = getattr(module, "config", None)
        name = getattr(config, "_attn_implementation", None)
        if isinstance(name, str):
            seen.add(_transformers_attention(name))
        processor = getattr(module, "processor", None)
        if processor is not None:
            kind = type(processor).__name__
            seen.add(SDPA if kind == "AttnProcessor2_0" else kind)
    yield _all("attention", facts["attention"], sorted(seen))


def experts(model: Any, facts: Mapping[str, str]) -> Iterator[Look]:
    """Whether transformers multiplies a mixture's experts as a job's facts say, if they do."""
    if "experts" in facts:
        seen = str(getattr(model.config, "_experts_implementation", None))
        yield Look(what="experts", asked=facts["experts"], seen=seen)


def computed_again(model: nn.Module, facts: Mapping[str, str]) -> Iterator[Look]:
    """Whether some module keeps its input only, or none does, where a job's facts say so."""
    if AGAIN in facts:
        yield Look(what=AGAIN, asked=facts[AGAIN], seen=checkpointing(model))


def checkpointing(model: nn.Module) -> str:
    """Whether some module keeps its input only and is computed again: `on` or `off`."""
    on = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return "on" if on else "off"


def optimizer_kernels(step: Callable[[], object]) -> str:
    """Which of `_optimizers.IMPLEMENTATIONS` an optimizer's step is; takes that step."""
    names: set[str] = set()

    def see(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names.add(func.name())
        return func(*args, **kwargs)

    with seen_by(see):
        step()
    found = (how for how in ("fused", "foreach") if any(f"_{how}_" in name for name in names))
    return next(found, "loop")


def _device(site: Site, seen: Iterable[torch.device]) -> tuple[str, list[str]]:
    """The site's device and those that are seen: by their kind, of a rank by their number too."""
    if site.ranks is None or site.device.index is None:
        return site.device.type, [device.type for device in seen]
    return str(site.device), [str(device) for device in seen]


def _all(what: str, asked: str, seen: Iterable[str]) -> Look:
    """Of many things that must be alike: the first that is not as asked, or what was asked."""
    return Look(what=what, asked=asked, seen=next((x for x in seen if x != asked), asked))


def _format(tensor: Tensor, asked: str) -> str:
    """The asked format where the tensor has it (it may have both), else the one it has."""
    import torch

    formats: dict[str, torch.memory_format] = {
        "channels_last": torch.channels_last,
        "contiguous": torch.contiguous_format,
    }
    others = [name for name in formats if name != asked]
    for name in (asked, *others):
        if tensor.is_contiguous(memory_format=formats[name]):
            return name
    return f"strides of {tuple(tensor.stride())}"


def _transformers_attention(name: str) -> str:
    """`SDPA` where the name stands for a call of torch's function, transformers' or ours, else the
    name."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    with contextlib.suppress(KeyError):
        if ALL_ATTENTION_FUNCTIONS[name] in (sdpa_attention_forward, attend):
            return SDPA
    return name

"""Values of what a model's step computes, and of its gradients, held to float64; see `spots.py`.

The gate's twin of a model has few tokens, a short cache and a small vocabulary. So after the timing
a step is taken twice more, as it is written: neither compiled nor recorded. The first time calls
are counted; the second time the first, the last and the largest of each kind are looked at when
they come, for later layers write over what they read. Of training the second time has a backward,
and the gradients that those calls give are looked at when they come. Nothing stays on the device.

A look that fails ends no step: of one that ranks take together, the others wait in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.records.reason import of_error, reason
from bench.workload import Job, Look, Site
from bench.workloads.layers.quantized import quantized_layer
from bench.workloads.spots import attention_calls, image_spots, product_spots, row_spots
from bench.workloads.spots.calls import Call, plain
from bench.workloads.spots.product_spots import product
from bench.workloads.spots.spots import as_written

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.calls import Given

    Trying = Callable[[Callable[[], object]], None]
    """Looks, and raises nothing."""

ABSENT = "values at the timed size"
"""The fact that says why none was looked at, where that failed."""
OF_GRADIENTS = f"gradients' {ABSENT}"
"""Likewise, of a step of which the forward alone is looked at."""
NORM = "variance_epsilon"
"""What a root-mean-square norm has that its library writes out."""
ATTENTION = "scaled_dot_product_attention"
NAMES = {
    ATTENTION: attention_calls.NAMES,
    **product_spots.NAMES,
    **image_spots.NAMES,
    **row_spots.NAMES,
}
"""What the functions that are looked at call what they are given, in order."""
OF_FUNCTIONAL = ("embedding", "batch_norm", *row_spots.LOSSES)
"""What torch has with other arguments under the same name."""


def looks(
    job: Job,
    site: Site,
    step: Callable[[], object],
    forward: Callable[[], object] | None = None,
) -> list[Look]:
    """At what a step computes; of one launch of a case. What fails here is no fault of the work:
    it is not observable, and a fact of the job.

    forward: the step up to its loss, where it has a backward too. Each is taken once.
    """
    if not job.thorough:
        return []
    found: list[Look] = []
    try:
        _see(site, forward or step, step, found)
    except Exception as error:  # noqa: BLE001 - whatever it is, the figure stands
        job.facts = {**job.facts, ABSENT: f"not observable: {reason(of_error(error))}"}
    return found


def _see(
    site: Site, forward: Callable[[], object], step: Callable[[], object], found: list[Look]
) -> None:
    """Adds what was seen to what was found so far: that stands, if a later look fails."""
    sizes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    failed: list[Exception] = []

    def trying(see: Callable[[], object]) -> None:
        if failed:
            return
        try:
            see()
        except Exception as error:  # noqa: BLE001 - raised below, when no rank waits
            failed.append(error.with_traceback(None))  # whose frames hold what was looked at

    _take(forward, site, lambda call, *_: sizes[call.kind].append(call.sizes), trying)
    if failed and site.ranks is None:
        raise failed.pop()
    chosen = {kind: _chosen(each) for kind, each in sizes.items()}
    counts: dict[str, int] = defaultdict(int)
    hooks = ExitStack()  # they hold what they read, and no collector sees it

    def seen(call: Call, given: Given, output: Tensor) -> None:
        kind, number = call.kind, counts[call.kind]
        counts[kind] += 1
        if number in chosen.get(kind, ()):
            what = f"{kind} {number + 1} of {len(sizes[kind])}"
            found.extend(call.looks(what, site))
            for each in _follow(call, what, site, given, output, found, trying):
                hooks.enter_context(each)

    try:
        with hooks:
            _take(step, site, seen, trying)
    except Exception as error:  # noqa: BLE001 - likewise
        failed.append(error.with_traceback(None))
    if failed:
        raise failed.pop(0)  # kept, it would hold this frame


def _follow(
    call: Call,
    what: str,
    site: Site,
    given: Given,
    output: Tensor,
    found: list[Look],
    trying: Trying,
) -> Iterator[Any]:
    """Adds what is seen of its gradients, when they come; gives the hooks by which it is told."""
    import torch

    if not output.requires_grad or not call.gradients:
        return
    upstream: list[Tensor] = []
    read = {x: x._version for x in given.values() if isinstance(x, torch.Tensor)}

    def hook(name: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if any(x._version != version for x, version in read.items()):
                return  # what it read is overwritten
            with torch._C.DisableTorchFunction(), torch.autocast("cpu", enabled=False):
                made = call.gradients[name](upstream[0], gradient)
                if made is not None:
                    found.extend(made.looks(f"gradient of {name} in {what}", site))

        return lambda gradient: trying(lambda: look(gradient))

    yield output.register_hook(upstream.append)
    for name in call.gradients:
        x = given.get(name)
        if x is not None and x.requires_grad:
            yield x.register_hook(hook(name))


def _chosen(sizes: Sequence[tuple[int, ...]]) -> set[int]:
    """The first, the last, and the largest by each measure."""
    largest = (each.index(max(each)) for each in zip(*sizes, strict=True))
    return {0, len(sizes) - 1, *largest}


def _take(
    step: Callable[[], object],
    site: Site,
    seen: Callable[[Call, Given, Tensor], None],
    trying: Trying,
) -> None:
    """Takes a step as it is written, and hands over each call. Each layer of 8 bits is one, for
    what multiplies there may be a vendor's; and what a plug-in has in place of a function."""
    import torch
    from torch.nn import functional
    from torch.nn.modules.module import register_module_forward_hook
    from torch.overrides import TorchFunctionMode, handle_torch_function

    def told(inner: Any) -> Any:
        """A plain function would not tell of its call."""

        def outer(*args: Any, **kwargs: Any) -> Any:
            if torch._C._is_torch_function_mode_enabled():
                return handle_torch_function(outer, args, *args, **kwargs)
            return inner(*args, **kwargs)

        return outer

    times: dict[int, int] = defaultdict(int)
    there = {name: found for name, found in vars(functional).items() if name in NAMES}
    outers = {name: told(found) for name, found in there.items()}
    names = {id(outer): name for name, outer in outers.items()} | {
        id(getattr(owner, name)): name
        for owner in (torch, torch.Tensor, torch._C._nn)
        for name in NAMES
        if hasattr(owner, name) and name not in OF_FUNCTIONAL
    }

    class Calls(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            name = names.get(id(func))
            if name is None:
                return func(*args, **(kwargs or {}))
            args, kwargs = tuple(map(apart, args)), {k: apart(x) for k, x in (kwargs or {}).items()}
            output = func(*args, **kwargs)
            given = {**dict(zip(NAMES[name], args, strict=False)), **kwargs}
            # An autocast of the CPU's would have float64 computed in less.
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                trying(lambda: hand_over(_call(name, given, output), given, output))
            return output

    def apart(x: Any) -> Any:
        """By another name: its gradient is then of this call alone."""
        return x.view_as(x) if isinstance(x, torch.Tensor) and x.requires_grad and plain(x) else x

    def layer_seen(*of: Any) -> None:
        trying(lambda: of_layer(*of))

    def of_layer(layer: Any, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, quantized_layer()):
            scale = layer.get_buffer("_scale")[0]
            call = product(given[0], layer.weight, layer.bias, output, scale)
            hand_over(call, {}, output)
        elif hasattr(layer, NORM):
            times[id(layer)] += 1
            of = {"input": given[0], "weight": layer.weight, "eps": getattr(layer, NORM)}
            call = row_spots.root_mean_square(of, output)
            hand_over(call and once(call, id(layer)), of, output)

    def once(call: Call, layer: int) -> Call:
        """What a module's weight gets is of this call alone, if there is no other; what its input
        gets is of other calls too."""

        def made(upstream: Tensor, gradient: Tensor) -> Call | None:
            of = call.gradients.get("weight")
            return of(upstream, gradient) if of and times[layer] == 1 else None

        return call._replace(gradients={"weight": made})

    def hand_over(call: Call | None, given: Given, output: Tensor) -> None:
        if call is not None:
            seen(call, given, output)

    vars(functional).update(outers)
    try:
        with as_written(site), Calls(), register_module_forward_hook(layer_seen):
            step()
    finally:
        vars(functional).update(there)


def _call(name: str, given: Given, output: Tensor) -> Call | None:
    if name == ATTENTION:
        return attention_calls.call(given, output)
    if name in product_spots.NAMES:
        return product_spots.call(name, given, output)
    if name in image_spots.NAMES:
        return image_spots.call(given, output)
    return row_spots.call(name, given, output)

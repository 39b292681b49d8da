"""Faults to plant: other work in the same steps, in jobs of ours as they are built.

Each changes one job, in place, before its first step, and raises `Absent` where a job has nothing
that could go wrong in that way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Fault = Callable[[Any], None]


class Absent(Exception):
    """The job has no such part."""


def _need(part: Any) -> Any:
    if part is None or (isinstance(part, list) and not part):
        raise Absent
    return part


def _model(job: Any) -> nn.Module:
    model: nn.Module = _need(
        job.generator.model if hasattr(job, "generator") else getattr(job, "_model", None)
    )
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules that are alike and have parts: a model's layers."""
    from torch import nn

    lists = [
        [*module]
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and type(module[0]) is type(module[1])
        and any(True for _ in module[0].children())
    ]
    return max(lists, key=len, default=[])


def _change_step(job: Any, layer: int, change: Callable[[Any], Any]) -> None:
    """Changes what a layer adds to its residual stream in a decoder's step of our own.

    That never calls a layer of the library's as a whole: those are of the prompt alone.
    """
    step = getattr(getattr(job, "generator", None), "step", None)
    layers = getattr(step, "_layers", None)
    if layers is None:
        return

    def changed(product: Any) -> Any:
        return product and (lambda rows: change(product(rows)))

    ends = {name: changed(getattr(layers[layer], name)) for name in ("joining", "closing")}
    if not ends["closing"]:
        ends["experts"] = lambda rows, by=layers[layer].experts: change(_first(by(rows)))
    layers[layer] = layers[layer]._replace(**ends)


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _rotation(job: Any) -> Any:
    names = ("_inputs", "_batches")
    found = next((getattr(job, name) for name in names if hasattr(job, name)), None)
    return _need(found if hasattr(found, "items") else None)


def _optimizer(job: Any) -> Any:
    return _need(getattr(job, "_optimizer", None))


def _floats(job: Any) -> Iterator[Tensor]:
    """What it computes with, in floating point of 16 bits or more, as it may be written to."""
    wide = [w for w in job.weights() if w.is_floating_point() and w.itemsize > 1]
    held = [w.detach() for w in wide if w.numel() > 1]
    yield from _need(held)


def other_weights(job: Any) -> None:
    """The same values, each in its neighbour's place."""
    for weight in _floats(job):
        weight.copy_(weight.flatten().roll(1).view(weight.shape))
    job.again()


def another_input(job: Any) -> None:
    """The second input first; of decode another prompt."""
    if hasattr(job, "prompt"):
        job.prompt = job.prompt.roll(1, -1)
        job.generator.prefill(job.prompt)
    else:
        next(_rotation(job))


def half_a_batch(job: Any) -> None:
    """The first half of each input twice, in its place."""
    from bench.workloads.jobs.rotation import leaves

    halved = False
    for item in _rotation(job).items:
        for tensor in leaves(item):
            rows = tensor.shape[0] // 2 if tensor.dim() else 0
            if rows:
                tensor.detach()[rows : 2 * rows] = tensor.detach()[:rows].clone()
                halved = True
    _need(True if halved else None)


def layer_dropped(job: Any) -> None:
    """The last layer passes on what it was given."""

    def bypass(module: Any, given: Any, named: Any, result: Any) -> Any:
        came = given[0] if given else named["hidden_states"]
        first = _first(result)
        if first.shape != came.shape:
            raise Absent
        return (came, *result[1:]) if isinstance(result, tuple) else came

    _need(_blocks(_model(job)))[-1].register_forward_hook(bypass, with_kwargs=True)
    _change_step(job, -1, lambda added: added * 0)


def dropout_left_on(job: Any) -> None:
    """A tenth of what leaves the first layer is zero, or of what it adds."""
    from torch.nn import functional

    def drop(module: Any, given: Any, result: Any) -> Any:
        if isinstance(result, tuple):
            return (functional.dropout(result[0], 0.1), *result[1:])
        return functional.dropout(result, 0.1)

    _need(_blocks(_model(job)))[0].register_forward_hook(drop)
    _change_step(job, 0, lambda added: functional.dropout(added, 0.1))


def stale_checkpoint(job: Any) -> None:
    """Every weight a hundredth of its tensor's deviation away, as some steps of training leave."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for weight in _floats(job):
        noise = torch.randn(weight.shape, generator=generator).to(weight.device)
        weight.add_((0.01 * weight.float().std() * noise).to(weight.dtype))
    job.again()


def int8_weights(job: Any) -> None:
    """Every matrix of the model through 8 bits, a scale for each row."""
    import torch
    from torch import nn

    layers = [
        m
        for m in _model(job).modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.itemsize > 1
    ]
    for layer in _need(layers):
        with torch.no_grad():
            rows = layer.weight.flatten(1).float()
            scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            layer.weight.copy_(((rows / scale).round() * scale).view(layer.weight.shape))
    job.again()


def rate_doubled(job: Any) -> None:
    """The optimizer's, not the one that was asked for."""
    for group in _optimizer(job).param_groups:
        group["lr"] *= 2


def momentum_off(job: Any) -> None:
    """Of SGD; of AdamW the mean of the gradients."""
    for group in _optimizer(job).param_groups:
        if "betas" in group:
            group["betas"] = (0.0, group["betas"][1])
        else:
            group["momentum"] = _need(group["momentum"] or None) and 0.0


def update_skipped(job: Any) -> None:
    """The optimizer's step does nothing."""
    _optimizer(job).step = lambda *_, **__: None


def output_cached(job: Any) -> None:
    """Only the first step is done."""
    real = job.step
    done: list[bool] = []

    def step() -> None:
        if not done:
            real()
            done.append(True)

    job.step = step


class OnlyTheLast:
    """A lazy device: of the steps between two synchronizations it does the last one only.

    The inputs go on as they should, so the last output is the right one.
    """

    def __init__(self, job: Any, device: Any) -> None:
        """Takes the place of both's own."""
        self._step, self._synchronize = job.step, device.synchronize
        self._job = job
        self._left_out = 0
        self._pending = False
        job.step = self.step
        device.synchronize = self.synchronize

    def step(self) -> None:
        """Queues it, in place of what was queued before."""
        self._left_out += self._pending
        self._pending = True

    def synchronize(self) -> None:
        """Does the last step, and puts the inputs where they would be."""
        if self._pending:
            rotation: Any = None
            with contextlib.suppress(Absent):
                rotation = _rotation(self._job)
            for _ in range(self._left_out if rotation is not None else 0):
                next(rotation)
            self._left_out, self._pending = 0, False
            self._step()
        self._synchronize()


class Unread:
    """A lazy device: it does a step when its output is read, and the last one when it must."""

    def __init__(self, job: Any, device: Any) -> None:
        """Takes the place of both's own. Raises `Absent` where steps build on one another."""
        self._step, self._outputs, self._synchronize = job.step, job.outputs, device.synchronize
        _need([*job.inputs()] if job.training() is None else None)
        self._rotation: Any = None
        with contextlib.suppress(Absent):
            self._rotation = _rotation(job)
        self._pending = False
        job.step, job.outputs = self.step, self.outputs
        device.synchronize = self.synchronize

    def step(self) -> None:
        """Puts it off, and forgets the one before."""
        self._pending = True
        if self._rotation is not None:
            next(self._rotation)

    def outputs(self) -> Any:
        """Of the last step, which is now done."""
        self._catch_up()
        return self._outputs()

    def synchronize(self) -> None:
        """Waits for what was done."""
        self._catch_up()
        self._synchronize()

    def _catch_up(self) -> None:
        if self._pending:
            self._pending = False
            if self._rotation is not None:
                self._rotation.back()
            self._step()


def epsilon(job: Any) -> None:
    """Ten times the epsilon of every norm: not to be told."""
    found = 0
    for module in _model(job).modules():
        for name in ("variance_epsilon", "eps"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 10 * getattr(module, name))
                found += 1
    _need(True if found else None)


def decay_off(job: Any) -> None:
    """No weight decay: not to be told."""
    for group in _optimizer(job).param_groups:
        group["weight_decay"] = _need(group["weight_decay"] or None) and 0.0


FAULTS: Mapping[str, Fault] = {
    "other weights": other_weights,
    "another input": another_input,
    "half a batch": half_a_batch,
    "a layer dropped": layer_dropped,
    "dropout left on": dropout_left_on,
    "a stale checkpoint": stale_checkpoint,
    "int8 weights": int8_weights,
    "learning rate doubled": rate_doubled,
    "momentum off": momentum_off,
    "update skipped": update_skipped,
    "a cached output": output_cached,
}
"""Of a size that matters."""
LAZY = "only the last step of a block"
"""See `OnlyTheLast`."""
NOT_TOLD: Mapping[str, Fault] = {"epsilon x 10": epsilon, "weight decay off": decay_off}
"""What no witness tells apart: too small, or the same but for rounding."""

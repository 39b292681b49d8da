"""Work that is recorded once and replayed whole, through the graphs that torch has for a device.

Queueing a kernel takes the host some microseconds, and a decoded token has hundreds of them. A
replay queues them all at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from bench.backend import Queued, Recorder

if TYPE_CHECKING:
    import torch

WARMUPS = 3
"""Runs before the recording, which may neither make a library's handle nor try its kernels; as
many as torch's own `make_graphed_callables` does."""


def recorder(module: Any, own: str, device: torch.device) -> Recorder | None:
    """The vendor's own graphs where they are there, else those of `torch.accelerator` (2.13).

    module: torch's for the device; own: the name of its class of graphs, empty if it has none.
    None where neither has graphs for this device.
    """
    import torch

    graph = getattr(module, own, None) if own else None
    if graph is not None:
        return functools.partial(
            _record, graph, module.Stream, module.current_stream, module.stream, module.graph
        )
    graph = getattr(torch.accelerator, "Graph", None)
    if graph is None:
        return None
    try:
        graph()
    except RuntimeError:  # torch's word for: this device has none
        return None
    return functools.partial(
        _record,
        graph,
        lambda: torch.Stream(device),
        torch.accelerator.current_stream,
        lambda stream: stream,
        _capture,
    )


def _capture(graph: Any, stream: Any) -> AbstractContextManager[Any]:
    """Both at once, as the vendors' own context managers do."""
    stack = ExitStack()
    stack.enter_context(stream)
    stack.enter_context(graph)
    return stack


def _nothing_new() -> AbstractContextManager[Any]:
    """All that is compiled has been by now: a compiler would wait for the device within the
    capture, or the recording would hold what it did not compile."""
    import torch

    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("fail_on_recompile")
    return stance


def _record(
    graph_type: Callable[[], Any],
    new_stream: Callable[[], Any],
    current_stream: Callable[[], Any],
    on: Callable[[Any], AbstractContextManager[Any]],
    capture: Callable[..., AbstractContextManager[Any]],
    work: Queued,
    prepare: Queued,
) -> Queued:
    """See `Device.recorder`.

    Warm-up and recording on the same side stream: some libraries keep a handle for each stream,
    and making one cannot be recorded. Source: torch's notes on graphs ("whole-network capture"),
    and pytorch issue 179961 for the stream.
    """
    stream = new_stream()
    stream.wait_stream(current_stream())
    with on(stream):
        for _ in range(WARMUPS):
            prepare()
            work()
        prepare()
    stream.synchronize()
    graph = graph_type()
    with capture(graph, stream=stream), _nothing_new():
        work()
    current_stream().wait_stream(stream)
    replay: Queued = graph.replay
    return replay

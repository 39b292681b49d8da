"""Work that is recorded once and replayed whole, through the graphs that torch has for a device.

Queueing a kernel takes the host some microseconds, and a decoded token has hundreds of them. A
replay queues them all at once.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.backend import Queued, Recorder, Unsupported
from bench.records.reason import first_line

if TYPE_CHECKING:
    import torch

WARMUPS = 3
"""Runs before the recording, which may neither make a library's handle nor try its kernels; as
many as torch's own `make_graphed_callables` does."""
WAITS = "called a synchronizing"
"""In the error of a call that waits for the device, where torch's module for it may raise one."""
WAITED_FOR = (
    "not recorded: within a step the host waits for the device, as it does to learn where each "
    "expert's rows begin"
)
NO_MORE = "nothing more is recorded in this process: a recording failed"
_failed: list[str] = []
"""What ended a capture in this process: torch's generator and allocator may not know that it did,
and then refuse whatever is drawn or recorded afterwards (torch up to 2.11)."""


def recorder(module: Any, own: str, device: torch.device) -> Recorder | None:
    """The vendor's own graphs where they are there, else those of `torch.accelerator` (2.13).

    module: torch's for the device; own: the name of its class of graphs, empty if it has none.
    None where neither has graphs for this device.
    """
    import torch

    graph = getattr(module, own, None) if own else None
    if graph is not None:
        return functools.partial(
            _record,
            *(graph, module.Stream, module.current_stream, module.stream, module.graph),
            functools.partial(_no_waiting, module),
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
        functools.partial(_no_waiting, module),
    )


@contextmanager
def _capture(graph: Any, stream: Any) -> Iterator[None]:
    """Both at once, as the vendors' own context managers do."""
    with stream, graph:
        yield


@contextmanager
def _no_waiting(module: Any) -> Iterator[None]:
    """Within it a call that waits for the device raises `Unsupported`, where torch's module for the
    device tells of such calls: recorded, it would end the capture."""
    try:
        before = module.get_sync_debug_mode()
        _on_waiting(module, "error")
    except (AttributeError, NotImplementedError):
        before = None
    try:
        yield
    except RuntimeError as error:
        if WAITS not in str(error):
            raise
        raise Unsupported(WAITED_FOR) from error
    finally:
        if before is not None:
            _on_waiting(module, before)


def _on_waiting(module: Any, mode: str | int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is a prototype
        module.set_sync_debug_mode(mode)


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
    no_waiting: Callable[[], AbstractContextManager[Any]],
    work: Queued,
    prepare: Queued,
) -> Queued:
    """See `Device.recorder`.

    Warm-up and recording on the same side stream: some libraries keep a handle for each stream,
    and making one cannot be recorded. Source: torch's notes on graphs ("whole-network capture"),
    and pytorch issue 179961 for the stream.
    """
    if _failed:
        raise Unsupported(f"{NO_MORE} ({_failed[0]})")
    stream = new_stream()
    stream.wait_stream(current_stream())
    with on(stream):
        for run in range(WARMUPS):
            prepare()
            with no_waiting() if run == WARMUPS - 1 else nullcontext():
                work()
        prepare()
    stream.synchronize()
    graph = graph_type()
    with on(current_stream()):  # torch leaves its own current where a capture fails
        _run_in(capture(graph, stream=stream), work)
    current_stream().wait_stream(stream)
    replay: Queued = graph.replay
    return replay


def _run_in(capture: AbstractContextManager[Any], work: Queued) -> None:
    """Raises what the work raised, not what the end of its capture makes of that."""
    raised: list[BaseException] = []
    try:
        with capture, _nothing_new():
            try:
                work()
            except BaseException as error:
                raised.append(error)
                raise
    except BaseException as error:
        if error not in raised:
            _failed.append(first_line(raised[0] if raised else error))
        if not raised:
            raise
    if raised:  # not within the other's handling: the two would know each other, and the work
        raise raised.pop()

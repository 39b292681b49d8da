"""`torch.npu` graphs, with the names of torch_npu's own: recorded once, replayed whole."""

from __future__ import annotations

import gc
from typing import Any

from .. import _devices  # noqa: TID252
from .._capture import Capture  # noqa: TID252
from .._dispatch import start  # noqa: TID252
from .._settings import SETTINGS  # noqa: TID252
from .memory import empty_cache
from .streams import Stream, current_stream, set_stream


def is_current_stream_capturing() -> bool:
    return _devices.current().capturing is not None


class NPUGraph:
    """What was queued on a stream between `capture_begin` and `capture_end`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._device = _devices.current()
        self._capture: Capture | None = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        device = self._device
        stream = _devices.current_stream(device.index)
        if stream == 0:
            raise RuntimeError(
                "NPU graphs must be captured on a non-default stream. (However, after capture, "
                "it's ok to replay them on the default stream.) [simulated]"
            )
        if "no-graphs" in SETTINGS.broken:
            raise RuntimeError("this SoC has no graphs [simulated]")
        if device.capture is not None:
            raise RuntimeError("NPUGraph: another capture is underway [simulated]")
        device.capture = Capture(stream, device.memory)

    def capture_end(self) -> None:
        capture, self._device.capture = self._device.capture, None
        if capture is None:
            raise RuntimeError("NPUGraph: no capture is underway [simulated]")
        capture.end()
        self._capture = capture

    def replay(self) -> None:
        if self._capture is None:
            raise RuntimeError(
                "Called NPUGraph::replay without a preceding successful capture. [simulated]"
            )
        _devices.operator_may_lose("replay", self._device)
        if capturing := self._device.capturing:
            capturing.refuse("aclmdlRIExecuteAsync")
        if "still-replays" not in SETTINGS.broken:
            self._capture.replay()
        for name, seconds in self._capture.kernels:
            start(name, seconds, self._device)

    def reset(self) -> None:
        self._capture = None


class graph:  # noqa: N801 - torch_npu's name
    """Records what is queued within the block; waits for the device before it. Where the recording
    fails its stream stays current, as of the real one."""

    def __init__(
        self,
        npu_graph: NPUGraph,
        pool: Any = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        self._graph = npu_graph
        self._stream = Stream() if stream is None else stream

    def __enter__(self) -> None:
        _devices.current().synchronize()
        gc.collect()
        empty_cache()
        self._before = current_stream()
        set_stream(self._stream)
        self._graph.capture_begin()

    def __exit__(self, *_: object) -> None:
        self._graph.capture_end()
        set_stream(self._before)

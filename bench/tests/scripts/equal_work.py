"""`bench.tests.validation.equal_work`, with two stacks that a host with a CPU alone does not have.

    python -m bench.tests.scripts.equal_work --stacks eager,avx2,simulated,replay --faults 0 ...

`simulated`: the simulated Ascend device, in a process of its own. Its tensors are of another
device type, without float64 and channels_last, and some of its operators are others (fused
attention); its products are the CPU's, so it says nothing of another chip's rounding.

`replay`: execution `graph` on the CPU, whose steps are recorded operator by operator and replayed
into the memory they lay in, as a device's graph does. The simulated
device has graphs of its own, which are not tried here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from bench.backends.cpu import CpuDevice
from bench.tests import simulated
from bench.tests.replay import FakeRecorder
from bench.tests.validation import equal_work
from bench.tests.validation.launches import STACKS, Stack


@contextmanager
def stand_ins() -> Iterator[None]:
    """Adds both to the stacks that the script knows."""
    device = Stack(device="ascend", environment=simulated.environment(operator_microseconds=0))
    both = {"simulated": device, "replay": Stack(execution="graph")}
    recorder = mock.patch.object(CpuDevice, "recorder", lambda _: FakeRecorder())
    with mock.patch.dict(STACKS, both), recorder:
        yield


if __name__ == "__main__":
    with stand_ins():
        equal_work.main()

"""The simulated Ascend device is late, and counts its memory."""

from __future__ import annotations

import os

import pytest

from bench.tests.simulated.processes import TIMED, Processes, autoloaded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")


@pytest.mark.alone
def test_without_a_synchronization_the_time_is_far_too_short() -> None:
    """In a whole process: nothing else that runs alone wants one to fork from."""
    said = autoloaded(
        f"import json, time, torch\n{TIMED}"
        + """
short = min(timed(lambda: None) for _ in range(3))
torch.npu.synchronize()
waits = (torch.npu.synchronize, torch.accelerator.synchronize, lambda: x.sum().item(),
         lambda: x.cpu(), torch.npu.current_stream().synchronize)
print(json.dumps([short, [timed(wait) for wait in waits]]))
""",
        slow="erfinv=30",
    ).said
    short, whole = said
    assert min(whole) >= 0.3
    assert short < min(whole) / 5


def test_a_host_that_must_wait_for_every_operator(processes: Processes) -> None:
    code = TIMED + "print(json.dumps(timed(lambda: None)))"
    ended = processes.run(code, {"ASCEND_LAUNCH_BLOCKING": "1"}, slow="erfinv=30")
    assert ended.said >= 0.3


@pytest.mark.parametrize("event", ["torch.npu.Event(", "torch.Event('npu', "])
def test_events_read_the_time_of_the_device(processes: Processes, event: str) -> None:
    said = processes.run(
        TIMED
        + f"""
start, middle, end = ({event}enable_timing=True) for _ in range(3))
start.record()
x.erfinv()
middle.record()
x.erfinv(), x.erfinv(), x.erfinv()
end.record()
early = end.query()
end.synchronize()
print(json.dumps([early, end.query(), start.elapsed_time(middle), start.elapsed_time(end)]))
""",
        slow="erfinv=50",
    ).said
    early, late, one, four = said
    assert (early, late) == (False, True)
    assert one >= 50
    assert four >= 200 > one


def test_streams_run_side_by_side_and_wait_for_each_other(processes: Processes) -> None:
    said = processes.run(
        TIMED
        + """
def lag(wait):
    torch.npu.synchronize()
    side, first, second = torch.npu.Stream(), *(torch.npu.Event(enable_timing=True) for _ in "12")
    x.erfinv()
    first.record()
    if wait:
        side.wait_stream(torch.npu.current_stream())
    with torch.npu.stream(side):
        x.erfinv()
        second.record()
    return first.elapsed_time(second)

print(json.dumps([lag(False), lag(True)]))
""",
        slow="erfinv=200",
    ).said
    beside, behind = said
    assert beside < 150 < 200 <= behind


def test_memory_is_counted(processes: Processes) -> None:
    said = processes.run("""
npu = torch.npu
x = torch.ones(1000, 1000, device="npu")
first = npu.memory_allocated()
view, _ = x[3], x * 2                       # a view takes none; the product is gone at once
del x, _
kept = npu.memory_allocated()               # the view keeps all of it
del view
free, total = npu.mem_get_info()
figures = [first, kept, npu.memory_allocated(), npu.max_memory_allocated(), total - free]
npu.reset_peak_memory_stats()
npu.empty_cache()
free, total = torch.accelerator.get_memory_info()
figures += [torch.accelerator.max_memory_allocated(), total - free, npu.memory_reserved()]
try:
    raise KeyError(torch.ones(500, device="npu"))
except KeyError:
    pass                                    # freed with an exception in flight
print(json.dumps([figures, npu.memory_allocated()]))
""").said
    block = 4_000_256  # 4,000,000 in blocks of 512
    assert said == [[block, block, 0, 2 * block, 2 * block, 0, 0, 0], 0]


def test_out_of_memory_can_be_recovered_from(processes: Processes) -> None:
    said = processes.run(
        """
x = torch.ones(2**19, device="npu")         # 2 MiB
try:
    torch.ones(2**19, device="npu")
except torch.OutOfMemoryError as error:
    text = str(error)
del x
torch.npu.empty_cache()
print(json.dumps([text, torch.ones(2**19, device="npu").sum().item()]))
""",
        memory_bytes=3 * 2**20,
    ).said
    assert said[0].startswith(
        "NPU out of memory. Tried to allocate 2.00 MiB (NPU 0; 3.00 MiB total capacity; "
        "2.00 MiB already allocated;"
    )
    assert said[1] == 2**19

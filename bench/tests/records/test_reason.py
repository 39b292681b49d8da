"""Why something failed: its last line is kept, its folders are not; shared memory has a size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from bench.records import reason as reason_module
from bench.records.reason import REASON_CHARACTERS, of_error, reason, shortened
from bench.running import child

LONG = "RuntimeError: Caught RuntimeError in worker 0.\n" + "  File x\n" * 900 + "the real reason"
Disk = namedtuple("Disk", "total used free")


def test_beginning_and_end_of_a_long_reason_are_kept() -> None:
    said = reason(LONG, {})
    assert len(said) <= REASON_CHARACTERS
    assert said.startswith("RuntimeError: Caught RuntimeError in worker 0.\n")
    assert said.endswith("\nthe real reason")
    assert "characters or more ...]" in said
    assert reason("short\n", {}) == "short"


@pytest.mark.parametrize("length", [0, 1, 50, 99, 100, 101, 5000])
@pytest.mark.parametrize("room", [60, 100])
def test_no_length_is_exceeded(length: int, room: int) -> None:
    text = "".join(chr(97 + k % 26) for k in range(length))
    said = shortened(text, room)
    assert len(said) <= room and (said == text) == (length <= room)
    assert said[:5] == text[:5] and said[-5:] == text[-5:]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no such file: /home/NAME/model/x.toml", "no such file: x.toml"),
        ("~/models/x.bin is not there", "x.bin is not there"),
        (r"cannot open C:\Users\NAME\x.toml", "cannot open x.toml"),
        ("/dev/shm/torch_1 and /proc/self/status", "/dev/shm/torch_1 and /proc/self/status"),
        ("see https://pytorch.org/docs/x", "see https://pytorch.org/docs/x"),
        ("3/4 of 12 GFLOP/s and/or more", "3/4 of 12 GFLOP/s and/or more"),
        ("for file </torch_1_2_0>: (28)", "for file </torch_1_2_0>: (28)"),
    ],
)
def test_no_folder_is_told(given: str, said: str) -> None:
    assert reason(given, {}).startswith(said)


def test_no_secret_is_told_even_where_the_middle_is_left_out() -> None:
    given = {"HF_TOKEN": "hf_0123456789"}
    for text in (f"denied: hf_0123456789{LONG}", f"{LONG} hf_0123456789"):
        assert "hf_0123456789" not in reason(text, given)
        assert "(not recorded)" in reason(text, given)


def test_an_exception_names_its_cause() -> None:
    """As torch's DataLoader does: that a process ended, because of what killed it."""
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ")
        except RuntimeError as inner:
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from inner
    except RuntimeError as error:
        said = of_error(error)
    assert said == (
        "RuntimeError: DataLoader worker (pid(s) 7) exited unexpectedly\n"
        "because of RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. "
    )
    circle = ValueError("x")
    circle.__cause__ = circle
    assert of_error(circle).count("ValueError") == 4


@pytest.mark.parametrize(
    "text",
    [
        "unable to allocate shared memory(shm) for file </torch_1>",
        "DataLoader worker (pid 7) is killed by signal: Killed.",
        "DataLoader worker (pid(s) 7) exited unexpectedly",
        "the worker was killed by SIGBUS: Fatal Python error: Bus error",
        "unable to write to file </torch_1>: No space left on device (28)",
        LONG + ": unable to open shared memory object",
    ],
)
def test_the_size_of_shared_memory_is_named_where_it_may_be_the_cause(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(65536, 61440, 4096))
    said = reason(text, {})
    assert "/dev/shm has 64 KiB, 4 KiB of it free now" in said
    assert "--shm-size" in said.splitlines()[-1]
    assert len(said) <= REASON_CHARACTERS and text[-15:].strip() in said
    assert "/dev/shm" not in reason("out of memory", {})


def test_where_there_is_no_shared_memory_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reason_module, "SHARED_MEMORY", Path("/nowhere"))
    assert reason("Bus error", {}) == "Bus error"


# --- How a process ended -------------------------------------------------------------------------

BUS_ERROR = """if True:
    import faulthandler, mmap, sys, tempfile, json, decimal, array
    faulthandler.enable()
    print("the vendor's last word", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as file:
        file.truncate(8192)
        place = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        place[5000]
"""


def epitaph(code: str) -> str:
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=stderr)
        process.wait(60)
        return child.epitaph(process, stderr)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_of_a_fatal_error_the_reason_is_told_not_the_end_of_its_stack() -> None:
    said = epitaph(BUS_ERROR)
    assert said == (
        "the worker was killed by SIGBUS: the vendor's last word: Fatal Python error: Bus error"
    )
    assert ("/dev/shm has " in reason(said, {})) == Path("/dev/shm").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_last_line_is_told_however_much_came_before_or_blank_after() -> None:
    code = r"import sys; sys.stderr.write('x' * 99999 + '\nwhy\n\n \n'); exit(3)"
    assert epitaph(code) == "the worker left with exit code 3 and no report: why"
    assert epitaph("exit(3)") == "the worker left with exit code 3 and no report"

"""Every fault that was tried on the real command line, and what it must come to.

`FAULTS` is all there is: `test_faults.py` makes each and holds it to its line, and
`python -m bench.tests.scripts.regenerate` writes the table in `README.md` from it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.tests import machine, stage
from bench.tests.stage import ONE_TRY, Act, by_link, hanging, meanwhile, plain, signalled

README = Path(__file__).parent / "README.md"
CRASH = "FAILED (crash in import): the worker "
LEFT = CRASH + "left with exit code 3 and no report"
REFUSED = "FAILED (error in start): no worker could be started: "


def always() -> str:
    """It can be made anywhere."""
    return ""


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    name: str
    how: str
    """How it is made."""
    act: Act = field(repr=False)
    rows: tuple[str, ...]
    """What became of each launch; `...` stands for any text."""
    end: str = "complete"
    """What the record says of its end; `none`: no such line, `no record`: no file."""
    code: int = 1
    said: str = ""
    """What stderr must say."""
    stderr_tail: str = ""
    """What the record must keep of the worker's stderr."""
    resumed: bool = False
    """Whether `--resume` was tried, and measured what was missing."""
    needs: Callable[[], str] = field(default=always, repr=False)
    """Why it cannot be made on this machine; empty if it can."""

    @property
    def kept(self) -> str:
        """What stays on disk, in words."""
        if self.end == "no record":
            return "no record"
        launches = f"{len(self.rows)} launch{'es' * (len(self.rows) != 1)}"
        return f"header, {launches}, {'no end' if self.end == 'none' else f'end: {self.end}'}"


def planted(phase: str) -> Fault:
    """A Python exception in one phase of a launch."""
    return Fault(
        name=f"exception: {phase}",
        how=f"the plug-in raises in the phase `{phase}`",
        act=plain(f"fail@{phase}", *ONE_TRY),
        rows=(f"FAILED (error in {phase}): RuntimeError: planted",),
        end="budget",
        stderr_tail="RuntimeError: planted",
    )


def ended(number: signal.Signals | None, moment: str, fault: str, resumed: bool = False) -> Fault:
    """The command is ended from outside (None: by its terminal), its child being as FAULT says."""
    names = {
        signal.SIGKILL: "SIGKILL",
        signal.SIGTERM: "SIGTERM",
        signal.SIGINT: "Ctrl-C",
        None: "terminal closed",
    }
    if moment == "the probe":
        end = "no record"
    else:
        end = "none" if number == signal.SIGKILL else "interrupted"
    return Fault(
        name=f"command ended: {names[number]}",
        how=f"while {moment} {PLACES[fault.partition('@')[0]]}",
        act=stage.terminal_closed(fault) if number is None else signalled(number, fault),
        rows=(),
        end=end,
        code=-signal.SIGKILL if number == signal.SIGKILL else 130,
        resumed=resumed,
    )


PLACES = {
    "hang_in_python": "hangs in Python",
    "hang_in_c": "hangs in a C call that holds the interpreter",
}


def endings() -> list[Fault]:
    """Each way to end the command, at each moment."""
    ways = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None)
    found = []
    for number in ways:
        found.append(ended(number, "the probe", "hang_in_python@probe"))
        found.append(ended(number, "a worker's import", "hang_in_python@import"))
        resumed = number in (signal.SIGKILL, None)
        found.append(ended(number, "a worker's import", "hang_in_c@import", resumed))
    found.append(ended(signal.SIGKILL, "a worker's measurement", "hang_in_python@measure"))
    found.append(ended(signal.SIGKILL, "the telemetry process", "hang_in_c@telemetry"))
    return found


FAULTS = (
    Fault(
        name="worker killed (SIGKILL)",
        how="it kills itself, as the kernel would",
        act=plain("kill@import"),
        rows=(CRASH + "was killed by SIGKILL, perhaps by the kernel for want of memory",) * 2,
    ),
    Fault(
        name="worker killed (SIGSEGV)",
        how="it reads address 0",
        act=plain("segfault@import"),
        rows=(CRASH + "was killed by SIGSEGV: ...",) * 2,
        stderr_tail="Fatal Python error: Segmentation fault",
    ),
    Fault(
        name="worker leaves",
        how="`os._exit(3)`",
        act=plain("leave@import"),
        rows=(LEFT,) * 2,
    ),
    Fault(
        name="worker hangs in Python",
        how="it sleeps for ever; a launch may take 12 s",
        act=hanging("hang_in_python@import"),
        rows=("FAILED (timeout in import): no report within 12 s; ended in its import phase",),
        end="budget",
        stderr_tail="in hang_in_python",
    ),
    Fault(
        name="worker hangs in C",
        how="a C call that holds the interpreter; a launch may take 12 s",
        act=hanging("hang_in_c@import"),
        rows=("FAILED (timeout in import): no report within 12 s; ended in its import phase",),
        end="budget",
        stderr_tail="in hang_in_c",
    ),
    Fault(
        name="worker hangs and ignores SIGTERM",
        how="as it says; a launch may take 12 s",
        act=hanging("hang_and_ignore@import"),
        rows=("FAILED (timeout in import): no report within 12 s; ended in its import phase",),
        end="budget",
        stderr_tail="in hang_and_ignore",
    ),
    Fault(
        name="accelerator out of memory",
        how="the plug-in asks the simulated device of 64 MiB for 1 GiB",
        act=stage.simulated_device("fill_device@build", memory_bytes=2**26),
        rows=("FAILED (oom in build): OutOfMemoryError: ...",),
    ),
    Fault(
        name="device lost",
        how="the simulated device is lost in its first product",
        act=stage.simulated_device("", stage.GEMM_CASE, lost="mm"),
        rows=("FAILED (device_lost in numerics): RuntimeError: ...",),
        end="budget",
    ),
    Fault(
        name="host out of memory: refused",
        how="the worker may have 64 MiB more (RLIMIT_AS) and asks for 1 GiB",
        act=plain("exhaust_memory@import"),
        rows=("FAILED (oom in import): MemoryError",) * 2,
    ),
    Fault(
        name="host out of memory: killed",
        how="the kernel kills it, in a control group of 64 MiB",
        act=machine.killed_for_memory,
        rows=(CRASH + "was killed by SIGKILL, perhaps by the kernel for want of memory",) * 2,
        needs=machine.no_groups,
    ),
    Fault(
        name="NaN loss",
        how="the job's witness is NaN",
        act=plain("nan"),
        rows=("VOID: output is not finite: nan after the first step, nan after the last",),
    ),
    *(
        planted(phase)
        for phase in ("import", "open", "numerics", "build", "warm-up", "measure", "report")
    ),
    Fault(
        name="exception: probe",
        how="the plug-in raises where it is asked for its devices",
        act=plain("fail@probe"),
        rows=(),
        end="no record",
        code=2,
        said="error: --device faulty: ",
    ),
    Fault(
        name="probe killed (SIGKILL)",
        how="it kills itself",
        act=plain("kill@probe"),
        rows=(),
        end="no record",
        code=2,
        said="its runtime fails (exit -9)",
    ),
    Fault(
        name="telemetry process killed (SIGKILL)",
        how="it kills itself; the launch goes on without it",
        act=plain("kill@telemetry"),
        rows=("measured",),
        code=0,
    ),
    Fault(
        name="telemetry process hangs",
        how="a C call that holds the interpreter; the launch goes on without it",
        act=plain("hang_in_c@telemetry"),
        rows=("measured",),
        code=0,
    ),
    Fault(
        name="10 MB of stderr",
        how="the worker writes them",
        act=plain("be_noisy@import"),
        rows=("measured",),
        code=0,
        stderr_tail="xxxxxxxx",
    ),
    Fault(
        name="garbage on stdout",
        how="by Python, C, a system call and a shell",
        act=plain("print_garbage@import"),
        rows=("measured",),
        code=0,
        stderr_tail="garbage",
    ),
    Fault(
        name="garbage in the report",
        how="into the pipe that the worker keeps for itself",
        act=plain("garble_report@import"),
        rows=("FAILED (crash in import): the worker's report is garbled: ...",) * 2,
    ),
    Fault(
        name="no stderr reader",
        how="the command's stderr is a pipe that nobody reads",
        act=stage.nobody_reads("stderr"),
        rows=(LEFT,) * 2,
    ),
    Fault(
        name="no stdout reader",
        how="the command's stdout is a pipe that nobody reads",
        act=stage.nobody_reads("stdout"),
        rows=(LEFT,) * 2,
        said="stdout: the card cannot be written (Broken pipe)",
    ),
    Fault(
        name="stdout full",
        how="the command's stdout is /dev/full",
        act=stage.stdout_full,
        rows=(LEFT,) * 2,
        said="stdout: the card cannot be written (No space left on device)",
    ),
    Fault(
        name="secret in a message",
        how="a worker's stderr and exception say the value of PLANTED_TOKEN",
        act=stage.planted_secret,
        rows=("FAILED (error in import): RuntimeError: no access with (not recorded)",) * 2,
        stderr_tail="logged in with (not recorded)",
    ),
    *endings(),
    Fault(
        name="disk full: a limit",
        how="no file may grow beyond the record's first line and 100 B (RLIMIT_FSIZE)",
        act=meanwhile(stage.no_larger_file),
        rows=(),
        end="none",
        code=2,
        said="the next line cannot be written (File too large)",
        resumed=True,
    ),
    Fault(
        name="disk full",
        how="the output folder is a file system of 64 KiB, which a worker fills",
        act=machine.small_disk,
        rows=(),
        end="none",
        code=2,
        said="the next line cannot be written (No space left on device)",
        resumed=True,
        needs=machine.no_mounts,
    ),
    Fault(
        name="output read-only under way",
        how="from its second call on, fsync says so",
        act=plain("leave@import", SYSTEM="read-only"),
        rows=(),
        end="none",
        code=2,
        said="the next line cannot be written (Read-only file system)",
        resumed=True,
    ),
    Fault(
        name="clock jumps",
        how="the time of day of every process jumps by a day, back and forth, at each look",
        act=by_link(stage.clock_jumps),
        rows=("measured",),
        code=0,
    ),
    Fault(
        name="two runs into one folder",
        how="at once; each has its own record",
        act=stage.two_at_once,
        rows=(LEFT,) * 2,
    ),
    Fault(
        name="resumed while it runs",
        how="`--resume` of a record that is being written; the run itself goes on",
        act=stage.resumed_under_way,
        rows=(LEFT,) * 2,
        code=2,
        said="End the run that writes it now",
    ),
    Fault(
        name="results folder deleted",
        how="while a worker is under way",
        act=meanwhile(stage.folder_deleted),
        rows=(LEFT,) * 2,
    ),
    Fault(
        name="fork refused",
        how="starting a worker raises EAGAIN",
        act=plain("", SYSTEM="fork"),
        rows=(REFUSED + "Resource temporarily unavailable",) * 2,
    ),
    Fault(
        name="exec refused: no interpreter",
        how="it is removed while a worker is under way",
        act=stage.own_interpreter(Path.unlink),
        rows=(LEFT, REFUSED + "No such file or directory"),
    ),
    Fault(
        name="exec refused: no program",
        how="the interpreter becomes a file that is none",
        act=stage.own_interpreter(stage.not_a_program),
        rows=(LEFT, REFUSED + "Exec format error"),
    ),
    Fault(
        name="no descriptors: the command",
        how="it may open no more than it has (RLIMIT_NOFILE), while a worker is under way",
        act=by_link(meanwhile(stage.few_descriptors)),
        rows=(LEFT, REFUSED + "Too many open files"),
    ),
    Fault(
        name="no descriptors: a worker",
        how="it may open none (RLIMIT_NOFILE) and opens a file",
        act=plain("exhaust_descriptors@import"),
        rows=("FAILED (error in import): OSError: [Errno 24] Too many open files: ...",) * 2,
    ),
)


def identity(fault: Fault) -> str:
    """One name for each: several differ only in how they are made."""
    return f"{fault.name}, {fault.how}" if fault.name.startswith("command") else fault.name


HEAD = """# The faults that are tried

Written by `python -m bench.tests.scripts.regenerate` from the table `FAULTS` in `faults.py`;
`test_faults.py` makes each fault on the real command line (`accelmark run`, a suite of one case,
one launch) and holds it to its line. After every one of them no process that the command started
is left, grandchildren included; and whatever record there is, is whole. What failed is tried once
more, so it stands twice, unless the time budget of the test was spent.

`...` stands for any text. A launch that was not measured has no line where the run was ended before
it could be kept. *Resumed*: `--resume` was tried afterwards, and measured what was missing, once.

"""


def table() -> str:
    """`README.md`, whole."""
    lines = [
        "| fault | how it is made | what becomes of each launch | what stays on disk "
        "| exit code | resumed |",
        "|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        how = fault.how + (" (where the machine allows it)" if fault.needs is not always else "")
        rows = "; ".join(dict.fromkeys(f"`{row.strip()}`" for row in fault.rows)) or "-"
        code = "killed" if fault.code < 0 else str(fault.code)
        resumed = "yes" if fault.resumed else ""
        lines.append(f"| {fault.name} | {how} | {rows} | {fault.kept} | {code} | {resumed} |")
    return HEAD + "\n".join(lines) + "\n"

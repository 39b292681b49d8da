"""Where the faults of `faults.py` are made, and how: real commands, each in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from bench.commands.under_way import describe
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests import simulated

FAULTY = Path(__file__).parent / "faulty"
SECONDS = 240.0
"""Longest that anything here may take, on a machine that has much else to do."""
SUITE = """
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0
warmup_limit_seconds = 0.5
steady_limit_seconds = 0.2
launch_limit_seconds = {limit}

[[case]]
{case}
"""
FAULTY_CASE = 'workload = "faulty"\nmode = "run"\nprecision = "fp32"'
RANKS_CASE = 'workload = "faulty"\nmode = "many"\nprecision = "fp32"'
"""Of two ranks, which is what goes without saying on a CPU."""
GEMM_CASE = 'workload = "gemm"\nprecision = "bf16"\nshape = "64x64x64"'
NONE: Mapping[str, str] = {}


class Stage:
    """A folder of its own, with a suite of one case; what was started there bears its mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.variables = dict(os.environ)  # pytest's own change while others are under way
        self.device = "faulty"
        self.python = sys.executable
        self.before: tuple[str, ...] = ()
        """Words that the command line begins with."""
        self.said = ""
        """stderr of the command."""
        self.suite()

    def suite(self, case: str = FAULTY_CASE, launches: int = 1, limit: float = 200.0) -> None:
        text = SUITE.format(case=case, launches=launches, limit=limit)
        (self.folder / "suite.toml").write_text(text, encoding="utf-8")

    def environment(self, fault: str) -> dict[str, str]:
        return {
            **self.variables,
            "PYTHONPATH": os.pathsep.join([str(FAULTY), *filter(None, sys.path)]),
            "FAULT": fault,
            "FAULT_MARK": self.mark,
        }

    def command(self, *options: str) -> list[str]:
        """`accelmark run` of the suite, or of a record that is resumed."""
        new = () if "--resume" in options else ("suite.toml", "--device", self.device)
        out = () if "--resume" in options else ("--out", "out")
        return [*self.before, self.python, "-m", "bench", "run", *new, *out, *options]

    def start(
        self,
        fault: str,
        *options: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        variables: Mapping[str, str] = NONE,
    ) -> subprocess.Popen[str]:
        """The command, under way."""
        return subprocess.Popen(
            self.command(*options),
            cwd=self.folder,
            env={**self.environment(fault), **variables},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> int:
        """Its exit code, once it has ended."""
        _, err = process.communicate(timeout=SECONDS)
        self.said = err or ""
        assert "Traceback" not in self.said and "Exception ignored" not in self.said, err
        return process.returncode

    def run(self, fault: str, *options: str, **variables: str) -> int:
        return self.end(self.start(fault, *options, variables=variables))

    def wait_for(self, name: str) -> None:
        wait_until((self.folder / name).exists)

    @property
    def records(self) -> list[Path]:
        return sorted(self.folder.glob("out/*.jsonl"))

    @property
    def file(self) -> RunFile | None:
        """The one record, every line of which can be read; None if there is none."""
        if not self.records:
            return None
        (path,) = self.records
        found = read(path)
        assert found.damage is None, found.damage
        return found

    def left(self) -> list[psutil.Process]:
        """Processes that were started here, by whomever, and have not ended."""
        return marked(self.mark, self.folder)


def marked(mark: str, folder: Path) -> list[psutil.Process]:
    """Living processes in whose environment FAULT_MARK is that, or that are in the folder.

    Children inherit both; a forked one's environment is not to be seen from outside.
    """

    def bears(process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            there = Path(process.cwd()) == folder
            return there or process.environ().get("FAULT_MARK") == mark
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if bears(process)]


def wait_until(true: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


Act = Callable[[Stage], int]
"""Makes the fault; the exit code of the command."""


def rows_of(file: RunFile | None) -> list[str]:
    """What became of each launch, as a run says it."""
    if file is None:
        return []
    return [
        "measured" if isinstance(x.outcome, Measured) else describe(x, [], file.run.settings)
        for x in file.launches
    ]


# --- How they are made ---------------------------------------------------------------------------

ONE_TRY = ("--budget-minutes", "0.001")
"""What failed is tried once more, if there is time."""


def plain(fault: str, *options: str, **variables: str) -> Act:
    """The command, while FAULT says so."""
    return lambda stage: stage.run(fault, *options, **variables)


def hanging(fault: str) -> Act:
    """A launch may take twelve seconds: on a loaded host it reaches its import no sooner."""

    def act(stage: Stage) -> int:
        stage.suite(limit=12.0)
        return stage.run(fault, *ONE_TRY)

    return act


def signalled(number: signal.Signals, fault: str) -> Act:
    """The signal goes to the command as soon as the fault is reached."""

    def act(stage: Stage) -> int:
        process = stage.start(fault)
        stage.wait_for("reached")
        process.send_signal(number)
        return stage.end(process)

    return act


OWN_TERMINAL = (
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "runpy.run_module('bench', run_name='__main__', alter_sys=True)"
)
"""Python that is the command, on the terminal that is its stdin."""


def terminal_closed(fault: str) -> Act:
    """The command has a terminal of its own, with the live display on it, which goes."""

    def act(stage: Stage) -> int:
        master, slave = os.openpty()
        os.set_blocking(master, False)
        process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *stage.command()[3:]],
            cwd=stage.folder,
            env=stage.environment(fault),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

        def reached() -> bool:
            with contextlib.suppress(OSError):
                os.read(master, 1 << 16)
            return (stage.folder / "reached").exists()

        wait_until(reached)
        os.close(master)
        return process.wait(SECONDS)

    return act


def meanwhile(do: Callable[[Stage, psutil.Process], None], *options: str) -> Act:
    """Something is done to the run while its first worker waits, which leaves (3) afterwards."""

    def act(stage: Stage) -> int:
        process = stage.start("wait@import", *options)
        stage.wait_for("reached")
        do(stage, psutil.Process(process.pid))
        (stage.folder / "go").touch()
        return stage.end(process)

    return act


def few_descriptors(stage: Stage, parent: psutil.Process) -> None:
    most = max(int(p.name) for p in Path(f"/proc/{parent.pid}/fd").iterdir())
    parent.rlimit(psutil.RLIMIT_NOFILE, (most + 1, most + 1))


def no_larger_file(stage: Stage, parent: psutil.Process) -> None:
    room = stage.records[0].stat().st_size + 100
    parent.rlimit(psutil.RLIMIT_FSIZE, (room, room))


def folder_deleted(stage: Stage, parent: psutil.Process) -> None:
    shutil.rmtree(stage.folder / "out")


def by_link(act: Act) -> Act:
    """By a link to the interpreter: every process is then a real one, and none is forked."""

    def linked(stage: Stage) -> int:
        link = stage.folder / "python"
        link.symlink_to(sys.executable)
        stage.python = str(link)
        return act(stage)

    return linked


def own_interpreter(do: Callable[[Path], None]) -> Act:
    """Something is done to the link under way."""
    return by_link(meanwhile(lambda stage, parent: do(Path(stage.python))))


def not_a_program(link: Path) -> None:
    link.unlink()
    link.write_bytes(b"\x00nothing that runs")
    link.chmod(0o755)


def two_at_once(stage: Stage) -> int:
    """Both records are whole; one of them is then put away, so that the other is looked at."""
    both = [stage.start("leave@import") for _ in range(2)]
    codes = {stage.end(process) for process in both}
    first, second = (read(path) for path in stage.records)
    assert rows_of(first) == rows_of(second) and first.end and second.end
    assert first.damage is None and second.damage is None
    stage.records[1].unlink()
    (code,) = codes
    return code


def resumed_under_way(stage: Stage) -> int:
    """The exit code of the one that would resume; the run itself goes on to its end."""
    process = stage.start("wait@import")
    stage.wait_for("reached")
    code = stage.run("", "--resume", str(stage.records[0]))
    said = stage.said
    (stage.folder / "go").touch()
    assert stage.end(process) == 1
    stage.said = said
    return code


def nobody_reads(stream: str) -> Act:
    def act(stage: Stage) -> int:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            if stream == "stderr":
                return stage.end(stage.start("leave@import", stderr=writer))
            return stage.end(stage.start("leave@import", stdout=writer))
        finally:
            os.close(writer)

    return act


def stdout_full(stage: Stage) -> int:
    with Path("/dev/full").open("w") as full:
        return stage.end(stage.start("leave@import", stdout=full.fileno()))


def clock_jumps(stage: Stage) -> int:
    """Nothing that is measured may have seen the time of day."""
    start = time.monotonic()
    code = stage.run("", SYSTEM="clock")
    wall = time.monotonic() - start
    assert stage.file is not None
    (launch,) = stage.file.launches
    assert isinstance(launch.outcome, Measured)
    assert 0 < launch.outcome.steady_seconds < launch.seconds < wall
    stamps = {launch.started_at[:10], stage.file.run.started_at[:10]}
    assert len(stamps) == 2, "the time of day did jump"
    return code


def planted_secret(stage: Stage) -> int:
    """It stands nowhere in what is left, nor in what was said."""
    secret = uuid.uuid4().hex
    code = stage.run("tell_secret@import", PLANTED_TOKEN=secret)
    assert secret not in stage.records[0].read_text(encoding="utf-8") + stage.said
    return code


def simulated_device(fault: str, case: str = FAULTY_CASE, **faults: object) -> Act:
    """A run on the simulated accelerator, with faults of its own."""

    def act(stage: Stage) -> int:
        stage.device = "ascend"
        stage.suite(case)
        variables = simulated.environment(**faults)
        paths = (variables["PYTHONPATH"], stage.environment("")["PYTHONPATH"])
        variables["PYTHONPATH"] = os.pathsep.join(paths)
        return stage.run(fault, *ONE_TRY, ACCELMARK_ALLOW_SIMULATED="1", **variables)

    return act

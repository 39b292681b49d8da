"""Two hosts on one machine: network namespaces, joined by a link of known speed, and their faults.

    python -m bench.tests.scripts.two_hosts [--megabits 100] [--launches 1] [--only link]

As root, on Linux, with `ip` and `tc`; elsewhere it says what is missing and leaves with exit code
77. Each namespace runs `accelmark run` as torchrun would start it. The link's rate is read back to
within 10 %, before and after one end halves it; and of each fault (a host that vanishes, a process
that is killed, Ctrl-C) the outcome must name who it was within 60 s, and leave nobody on either
host. Exit code 1 if not. Hosts, ranks and the shaper share this machine's cores: let it do nothing
else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.judging.summary import summarize
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import read

NOT_HERE = 77
CLONE = Path(__file__).parents[3]
WITHIN = 0.10
SECONDS = 60.0
"""From a fault until all have ended."""
START_SECONDS = 120.0
"""Until the ranks have sent something, on a machine that has much else to do."""
ADDRESSES = ("10.213.77.1", "10.213.77.2")
MTU = 9000
"""Bytes: what a packet has beside its payload is then 1 % of the link, as in a cluster."""
SUITE = """
[settings]
launches = {launches}
warmup_seconds = 0.0
warmup_limit_seconds = 20.0
block_seconds = 0.1

[[case]]
workload = "collective"
mode = "all-reduce"
precision = "fp32"
size_bytes = {sizes}
"""
SIZES = (2**14, 2**18, 2**20, 2**22)
LONG = (2**23,)
"""Of a launch that a fault is to meet."""
ONE_TRY = ("--budget-minutes", "0.001")
MOVED = 2**21
"""Bytes through the link after which the ranks are at work."""


class Hosts:
    """Two namespaces and the link between them."""

    def __init__(self, folder: Path, megabits: float) -> None:
        self.folder = folder
        self.megabits = megabits
        mark = f"{os.getpid():x}"
        self.names = (f"accelmark-{mark}-0", f"accelmark-{mark}-1")
        self.ends = (f"am{mark}a"[-15:], f"am{mark}b"[-15:])

    def __enter__(self) -> Hosts:
        for name in self.names:
            run("ip", "netns", "add", name)
        first, second = self.ends
        run("ip", "link", "add", first, "type", "veth", "peer", "name", second)
        for host, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            run("ip", "link", "set", end, "netns", name)
            self.inside(host, "ip", "address", "add", f"{ADDRESSES[host]}/24", "dev", end)
            self.inside(host, "ip", "link", "set", "lo", "up")
            self.inside(host, "ip", "link", "set", end, "up", "mtu", str(MTU))
            self.shape(host, self.megabits)
        return self

    def __exit__(self, *_: object) -> None:
        for host, name in enumerate(self.names):
            for pid in self.pids(host):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def inside(self, host: int, *words: str) -> str:
        return run("ip", "netns", "exec", self.names[host], *words)

    def shape(self, host: int, megabits: float) -> None:
        """What that end sends."""
        shaper = f"tbf rate {megabits}mbit burst 64kb latency 50ms"
        device = ("dev", self.ends[host], "root")
        self.inside(host, "tc", "qdisc", "replace", *device, *shaper.split())

    def pids(self, host: int) -> list[int]:
        said = subprocess.run(
            ["ip", "netns", "pids", self.names[host]], capture_output=True, text=True, check=False
        )
        return [int(word) for word in said.stdout.split()]

    def left(self) -> list[int]:
        """Processes on both."""
        return self.pids(0) + self.pids(1)

    def sent(self, host: int) -> int:
        """Bytes through that end."""
        where = f"/sys/class/net/{self.ends[host]}/statistics/tx_bytes"
        return int(self.inside(host, "cat", where))

    def start(self, host: int, *options: str) -> subprocess.Popen[str]:
        """The command on that host, as torchrun would start it."""
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(CLONE), *filter(None, sys.path)]),
            "RANK": str(host),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": "29500",
            "TORCHELASTIC_RUN_ID": self.names[0],
        }
        words = [sys.executable, "-m", "bench", "run", "suite.toml", "--device", "cpu"]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *words, "--out", "out", *options],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def suite(self, launches: int, sizes: Sequence[int]) -> None:
        text = SUITE.format(launches=launches, sizes=list(sizes))
        (self.folder / "suite.toml").write_text(text, encoding="utf-8")
        shutil.rmtree(self.folder / "out", ignore_errors=True)

    def record(self) -> RunFile | None:
        found = sorted(self.folder.glob("out/*.jsonl"))
        return read(found[0]) if found else None


def run(*words: str) -> str:
    """What a command says; raises where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def lacking() -> str:
    """Why none of this can be done here; empty where it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid():
        return "only root may make network namespaces"
    for tool in ("ip", "tc", "unshare"):
        if shutil.which(tool) is None:
            return f"no `{tool}` here: install iproute2 and util-linux"
    trial = "ip link add amtrial0 type veth peer name amtrial1 && tc qdisc add dev amtrial0 root "
    trial += "tbf rate 1mbit burst 64kb latency 50ms"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", trial], capture_output=True, text=True, check=False
    )
    return f"this kernel refuses it: {done.stderr.strip()}" if done.returncode else ""


# --- The link -------------------------------------------------------------------------------------


def near(found: float, megabits: float) -> bool:
    """Whether so many bytes a second are that rate, within 10 %."""
    return abs(8 * found / 1e6 / megabits - 1) <= WITHIN


def read_back(hosts: Hosts, launches: int, megabits: float) -> bool:
    """Whether the link's rate is what the harness says it is."""
    hosts.suite(launches, SIZES)
    both = [hosts.start(host) for host in (0, 1)]
    said = [process.communicate()[1] for process in both]
    file = hosts.record()
    if file is None or file.end is None:
        print(f"no record: {said}")
        return False
    row = summarize(file)[-1]
    found = row.bus_bytes_per_second
    if found is None:
        print(f"no figure: {row.reason}; {said}")
        return False
    fitted = "no line"
    if row.link is not None:
        fitted = f"{row.link.latency.value * 1e3:.2f} ms + bytes / "
        fitted += f"{8 * row.link.bandwidth.value / 1e6:.1f} Mbit/s"
    print(
        f"link of {megabits:g} Mbit/s: bus bandwidth at {SIZES[-1] >> 20} MiB "
        f"{8 * found / 1e6:.1f} Mbit/s, {8 * found / 1e6 / megabits:.3f} of it; fitted: {fitted}",
        flush=True,
    )
    return near(found, megabits)


def link(hosts: Hosts, launches: int) -> Iterator[bool]:
    """At its rate, and when one end has halved what it sends."""
    yield read_back(hosts, launches, hosts.megabits)
    hosts.shape(1, hosts.megabits / 2)
    yield read_back(hosts, launches, hosts.megabits / 2)
    hosts.shape(1, hosts.megabits)


# --- Faults ---------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a run ended after a fault."""

    codes: tuple[int, int]
    """Of the leader and of the follower."""
    said: tuple[str, str]
    outcome: str
    """Of the launch that was under way."""
    seconds: float
    left: int
    """Processes that were still there."""


class Fault(NamedTuple):
    """Something that goes wrong while the ranks are at work, and what must come of it."""

    name: str
    codes: tuple[int, int]
    outcome: str
    """A pattern of the launch's outcome; empty where there can be no record of it."""
    said: tuple[str, str]
    """Patterns of what the leader and the follower say."""

    def wrong(self, ended: Ended) -> str:
        """What is not as it must be; empty if all is."""
        if ended.codes != self.codes:
            return f"exit codes {ended.codes}"
        if ended.left:
            return f"{ended.left} processes left"
        if ended.seconds > SECONDS:
            return f"{ended.seconds:.0f} s"
        said = zip(self.said, ended.said, strict=True)
        for pattern, text in ((self.outcome, ended.outcome), *said):
            if not re.search(pattern, text):
                return f"`{pattern}` is not in `{text}`"
        return ""


GONE = r"^crash in \S+: rank 1 \(host 1, cpu\): its host is gone: "
FAULTS = (
    Fault("a host vanishes", (1, 1), GONE, (r"host 1 \(.*\) is gone", "the leader is gone")),
    Fault("a follower is killed", (1, -9), GONE, (r"host 1 \(.*\) is gone: the connection", "")),
    Fault("the leader is killed", (-9, 1), "", ("", "the leader is gone: the connection")),
    Fault(
        *("a rank is killed", (1, 1)),
        r"^crash in \S+: rank 1 \(host 1, cpu\): the worker was killed by SIGKILL",
        ("", ""),
    ),
    Fault("Ctrl-C on the leader", (130, 130), "^$", ("", "error: interrupted")),
)


def act(hosts: Hosts, name: str, both: Sequence[subprocess.Popen[str]]) -> None:
    """Makes the fault."""
    if name == "a host vanishes":  # neither end hears anything more; nor does either system say so
        hosts.inside(1, "ip", "link", "set", hosts.ends[1], "down")
    elif name == "a follower is killed":
        both[1].kill()
    elif name == "the leader is killed":
        both[0].kill()
    elif name == "a rank is killed":
        workers = [pid for pid in hosts.pids(1) if "bench.measuring.worker" in words_of(pid)]
        os.kill(workers[0], signal.SIGKILL)
    else:
        both[0].send_signal(signal.SIGINT)


def words_of(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def wait_for(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def made(hosts: Hosts, name: str) -> Ended:
    """A run that the fault meets."""
    hosts.suite(1, LONG)
    before = hosts.sent(1)
    both = [hosts.start(host, *ONE_TRY) for host in (0, 1)]
    if not wait_for(lambda: hosts.sent(1) - before > MOVED, START_SECONDS):
        print("the ranks do not begin")
    start = time.monotonic()
    act(hosts, name, both)
    wait_for(lambda: not hosts.left(), SECONDS + 10)
    seconds = time.monotonic() - start
    remaining = len(hosts.left())
    for process in both:
        process.kill()
    said = [process.communicate()[1] for process in both]
    with contextlib.suppress(RuntimeError):
        hosts.inside(1, "ip", "link", "set", hosts.ends[1], "up")
    file = hosts.record()
    outcomes = [] if file is None else [launch.outcome for launch in file.launches]
    outcome = ""
    if outcomes:
        outcome = "measured" if isinstance(outcomes[-1], Measured) else outcomes[-1].reason
    codes = (both[0].returncode, both[1].returncode)
    return Ended(codes, (said[0], said[1]), outcome, seconds, remaining)


def faults(hosts: Hosts, only: str) -> Iterator[bool]:
    """Each of them."""
    for fault in FAULTS:
        if only in ("faults", fault.name, ""):
            ended = made(hosts, fault.name)
            wrong = fault.wrong(ended)
            print(
                f"{fault.name}: {'NO: ' + wrong if wrong else 'ok'}; {ended.seconds:.1f} s; "
                f"{ended.outcome or 'no outcome'}",
                flush=True,
            )
            yield not wrong


def main() -> int:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabits", type=float, default=100.0)
    parser.add_argument("--launches", type=int, default=1)
    names = ["link", "faults", *(fault.name for fault in FAULTS)]
    parser.add_argument("--only", choices=names, default="")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    if why := lacking():
        print(f"not here: {why}")
        return NOT_HERE
    with tempfile.TemporaryDirectory() as folder, Hosts(Path(folder), arguments.megabits) as hosts:
        good = list(link(hosts, arguments.launches)) if arguments.only in ("link", "") else []
        good += faults(hosts, arguments.only) if arguments.only != "link" else []
    print(f"{sum(good)} of {len(good)} as they must be")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Pages of the HTML report, of runs that show something each, and what a reader finds on them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any

import msgspec

from bench import catalogue
from bench.planning.plan import any_way
from bench.planning.suite_file import read_suite
from bench.records.case import Case, Choice
from bench.records.outcome import Memory, Outcome, Share, Void, Work
from bench.records.run import Launch, RunFile
from bench.records.silent import Silent
from bench.report import Canvas
from bench.reports.html import REPORT
from bench.tests.values import (
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

MIB = 2**20


def render(*runs: RunFile) -> str:
    return REPORT.render(list(runs), Canvas())


class Page(HTMLParser):
    """The text that a reader sees, the elements with their attributes, and the script blocks."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag in ("script", "style"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif not self.inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def sweep_case(batch: int) -> Case:
    return make_case(
        workload="bert", mode="infer", parameters={"model": "base", "batch_size": batch}
    )


def a_sweep(speed: float = 1.0) -> RunFile:
    """Ceilings of both kinds, a case under them, and a sweep of three batch sizes."""
    gemm = make_case()
    memory = make_case(workload="memory", mode="triad", parameters={"size_bytes": MIB})
    decode = make_case(workload="llama", mode="decode", parameters={"batch_size": 1})
    work: list[tuple[Case, Callable[[float], Outcome]]] = [
        (gemm, lambda t: make_measured(t, items=10**9, unit="FLOP", flop=10**9)),
        (memory, lambda t: make_measured(t, items=10**8, unit="B", moved_bytes=10**8)),
        (decode, lambda t: make_measured(t, unit="token", flop=10**8, moved_bytes=10**8)),
    ]
    for batch in (4, 1, 2):
        work.append((sweep_case(batch), _request(batch)))
    launches: list[Launch] = []
    for case, make in work:
        outcomes = [make(0.01 * (1 + k / 500) / speed) for k in range(5)]
        launches += make_launches(case, outcomes, first_order=len(launches))
    return make_file([case for case, _ in work], launches)


def _request(batch: int) -> Callable[[float], Outcome]:
    return lambda t: make_measured(
        t * (1 + batch / 4), items=batch, unit="sequence", latency_name="latency"
    )


@functools.cache
def of_suite(title: str) -> RunFile:
    """A run of a shipped suite with a figure for each case."""
    cases = any_way(read_suite(catalogue.suites()[title]))
    launches = [
        make_launch(make_measured(), case, order=order, choice=_first_choice(case))
        for order, case in enumerate(cases)
    ]
    return make_file(cases, launches, suite=title)


def _first_choice(case: Case) -> Choice | None:
    return {name: values[0] for name, values in case.space.items()} or None


def many_cases(count: int, launches: int = 5) -> RunFile:
    """A run of `count` cases with long traces, over ten kinds of work."""
    steps = [0.01 + 1e-5 * (k % 7) for k in range(100)]
    cases = [
        make_case(
            workload=f"work{i % 10}",
            mode="infer",
            parameters={"model": "some-model-name", "batch_size": 1 + i // 10, "sequence": 128},
        )
        for i in range(count)
    ]
    found: list[Launch] = []
    for case in cases:
        size = float(case.parameters["batch_size"])
        outcomes: list[Outcome] = [
            make_measured(
                [s * size**0.8 * (1 + k / 300) for s in steps],
                items=int(size),
                flop=10**9,
                moved_bytes=10**7 * int(size),
                latency_name="latency",
            )
            for k in range(launches)
        ]
        found += make_launches(case, outcomes, first_order=len(found))
    return make_file(cases, found)


ATTACK = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2>"
QUOTED = '" onload="window.pwned=3" x="'
TEMPLATE = "{{7*7}} %{x} <b>bold</b> <a href='javascript:window.pwned=4'>x</a>"


def hostile() -> RunFile:
    """Every free text of a record attacks the page."""
    fine = make_case(
        workload=f"gemm{ATTACK}",
        mode=QUOTED,
        parameters={"model": TEMPLATE, "batch_size": 1, QUOTED: ATTACK},
    )
    second = msgspec.structs.replace(fine, parameters={**fine.parameters, "batch_size": 2})
    broken = make_case(workload=TEMPLATE, precision=ATTACK, parameters={})
    wrong = make_case(workload=QUOTED, parameters={"a": ATTACK + "\u2028\u2029"})
    launches: list[Launch] = []
    for case in (fine, second):
        outcome = make_measured(
            0.01,
            unit=ATTACK,
            flop=10**9,
            moved_bytes=10**8,
            latency_name=ATTACK,
            memory=Memory(peak_bytes=MIB, scope=ATTACK, host_rss_bytes=MIB),
        )
        launches += make_launches(case, [outcome] * 3, first_order=len(launches))
    launches += make_launches(broken, [failed(message=ATTACK + QUOTED)], first_order=20)
    launches += make_launches(wrong, [Void(reason=TEMPLATE + ATTACK)], first_order=30)
    launches = [
        msgspec.structs.replace(
            launch, environment={ATTACK: {QUOTED: TEMPLATE}, "variables": {ATTACK: ATTACK}}
        )
        for launch in launches
    ]
    changes: dict[str, Any] = {
        "device": {"backend": QUOTED, "name": ATTACK + TEMPLATE, "facts": {ATTACK: QUOTED}},
        "host": {ATTACK: [QUOTED]},
        "suite": ATTACK,
        "run_id": QUOTED + ATTACK,
        "command": ("accelmark", ATTACK),
        "started_at": ATTACK,
    }
    run = make_file([fine, second, broken, wrong], launches, **changes)
    return msgspec.structs.replace(run, path=f"{QUOTED}\udcff", damage=ATTACK)


@functools.cache
def five_hundred() -> str:
    """The page of two runs of as many cases."""
    run = many_cases(500)
    return render(run, run)


def over_sizes(speed: float = 1.0) -> RunFile:
    """A collective of 10 us and 1 GB/s over three sizes."""
    cases, launches = [], []
    for size in (MIB, 8, 1024):
        parameters = {"size_bytes": size, "chained": 1}
        case = make_case(workload="collective", mode="all-reduce", parameters=parameters, devices=2)
        work = Work(items=size, unit="B", bus_bytes=size, operations=1)
        seconds = (1e-5 + size / 1e9) / speed
        cases.append(case)
        launches += make_launches(case, [make_measured(seconds, work=work)] * 3)
    return make_file(cases, launches)


def a_map(ranks: int, slow: tuple[int, int]) -> RunFile:
    """Each two ranks exchange 1 MiB in 1 ms, the slow ones in 4 ms."""
    case = make_case(workload="collective", mode="pairs", parameters={}, devices=ranks)
    work = Work(items=(ranks - 1) * MIB, unit="B")
    outcome = make_measured(0.01, work=work)
    shares = tuple(
        Share(
            rank=rank,
            device=rank,
            busy_ns=tuple(block.wall_ns for block in outcome.steady),
            memory=outcome.memory,
            peer_ns=tuple(
                0 if peer == rank else 4_000_000 if {peer, rank} == {*slow} else 1_000_000
                for peer in range(ranks)
            ),
        )
        for rank in range(ranks)
    )
    outcome = msgspec.structs.replace(outcome, ranks=shares)
    return make_file([case], make_launches(case, [outcome] * 3))


def some_ranks(ranks: int, slow: Sequence[int] = (), *, launches: int = 5) -> RunFile:
    """Each rank computes for 8 ms of a step of 10 ms, alike within a percent; the slow ones for a
    tenth longer."""
    case = make_case(
        workload="llama", mode="train", devices=ranks, parallelism=f"dp{ranks}", parameters={}
    )
    outcome = make_measured([0.01] * 10)
    wall = [block.wall_ns for block in outcome.steady]

    def launch(number: int) -> Outcome:
        own = [
            round(8e7 * (1.1 if rank in slow else 1.0) * (1 + (rank * 7 + number * 3) % 5 / 500))
            for rank in range(ranks)
        ]
        shares = tuple(
            Share(
                rank=rank, device=rank, busy_ns=tuple(wall), memory=outcome.memory, silent_ns=(ns,)
            )
            for rank, ns in enumerate(own)
        )
        silent = Silent(steps=10, real_ns=(100_000_000,), silent_ns=(max(own),))
        return msgspec.structs.replace(outcome, ranks=shares, silent=silent)

    return make_file([case], make_launches(case, [launch(k) for k in range(launches)]))

"""`accelmark check-backend`: the conformance kit, for whoever brings a chip."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from bench.commands.common import canvas, looking, say
from bench.commands.options import (
    INDEX,
    framework_option,
    json_option,
    python_option,
    width_option,
)
from bench.commands.streams import put_card, put_file
from bench.errors import EXIT_INCOMPLETE, EXIT_OK, DeviceUnavailable, UnknownName, suggestion

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from bench.backend import DeviceInfo
    from bench.conformance.check import Check, Finding, Verdict
    from bench.conformance.examine import Examined
    from bench.running.elsewhere import Elsewhere

LOOKS: dict[Verdict, tuple[str, str]] = {
    "pass": ("PASS", "green"),
    "fail": ("FAIL", "bold red"),
    "not observable": ("NOT SEEN", "yellow"),
    "note": ("note", "dim"),
}
"""As the table has the verdicts: the word says it, the colour repeats it."""
TABLE_WIDTH = 60
"""Columns below which a table would cut its words: then one finding stands below the other."""


@click.command("check-backend", short_help="Check a backend, for whoever brings a chip.")
@click.argument("name", metavar="NAME")
@click.option(
    "--device",
    "index",
    type=INDEX,
    default=0,
    metavar="INDEX",
    help="Which of its devices. Default: 0.",
)
@click.option("--only", metavar="CHECK", help="Only this check. Its name is in the table.")
@framework_option
@python_option
@json_option
@width_option
def check_backend(
    name: str,
    index: int,
    only: str | None,
    framework: str | None,
    python: str | None,
    as_json: bool,
    width: int | None,
) -> None:
    """Check that backend NAME does what every measurement relies on; exit 1 if a check fails.

    Each check runs in a process of its own. With --framework, that framework is checked, as it
    reaches that backend's devices.
    """
    from bench.conformance.examine import examine
    from bench.running.elsewhere import elsewhere

    where = elsewhere(framework, python)
    wanted = _wanted(only, where.framework)
    device = _device(name, index, where)
    done: list[Examined] = []
    for one in examine(device, wanted, where=where):
        done.append(one)
        said = f"{one.failures} failed" if one.failures else "done"
        say(f"  {one.check}: {said} ({one.seconds:.1f} s)")
    if as_json:
        put_file(json.dumps(_document(device, done, where.framework), indent=2) + "\n")
    else:
        put_card(_text(device, done, width, where.framework))
    sys.exit(EXIT_INCOMPLETE if any(one.failures for one in done) else EXIT_OK)


def _device(name: str, index: int, where: Elsewhere) -> DeviceInfo:
    """The device to check; `UnknownName` or `DeviceUnavailable`, which says what its probe said."""
    from bench import catalogue
    from bench.running import probe, reached
    from bench.running.elsewhere import TORCH

    known = catalogue.plug_ins("backends")
    if name not in known:
        hint = suggestion(name, catalogue.usable("backends"))
        raise UnknownName(f"accelmark check-backend {name}: unknown backend.{hint}")
    for other in known.values():
        if other.flaw and other.name.startswith(f"{name} ("):
            say(f"{other.name}: {other.flaw}")
    if where.framework != TORCH:
        with looking():
            chosen = reached.choose_by(where, f"{name}:{index}").device
        say(f"device: {chosen.address}, {chosen.name}, by {where.framework}")
        return chosen
    with looking():
        (found,) = probe.probe([name])
    for device in found.devices:
        if device.index == index:
            say(f"device: {device.address}, {device.name}")
            return device
    if not found.devices:
        raise DeviceUnavailable(f"accelmark check-backend {found.reason}")
    here = ", ".join(str(device.index) for device in found.devices)
    raise DeviceUnavailable(
        f"accelmark check-backend {name}: there is no device {index}. Allowed: --device {here}."
    )


def _wanted(only: str | None, framework: str) -> tuple[Check, ...]:
    from bench.conformance.examine import all_checks

    known = {check.name: check for check in all_checks(framework)}
    if only is None:
        return tuple(known.values())
    if only not in known:
        raise UnknownName(f"--only {only}: unknown check.{suggestion(only, known)}")
    return (known[only],)


def _counts(done: Sequence[Examined]) -> dict[Verdict, int]:
    verdicts = [finding.verdict for one in done for finding in one.findings]
    return {name: verdicts.count(name) for name in LOOKS}


def _document(device: DeviceInfo, done: Sequence[Examined], framework: str) -> dict[str, object]:
    """The whole kit as JSON: `counts` by verdict, and every finding under its check."""
    import msgspec

    from bench import __version__

    return {
        "accelmark": __version__,
        "framework": framework,
        "device": msgspec.to_builtins(device),
        "counts": _counts(done),
        "checks": [msgspec.to_builtins(one) for one in done],
    }


def _text(
    device: DeviceInfo, done: Sequence[Examined], width: int | None, framework: str = "torch"
) -> str:
    """For a terminal of any width; means the same without colour."""
    from bench.reports.terminal.drawn import drawn

    return drawn(canvas(width), functools.partial(_draw, device, done, framework))


def _draw(device: DeviceInfo, done: Sequence[Examined], framework: str, console: Console) -> None:
    simulated = ", simulated" if device.simulated else ""
    version = device.facts.get(framework, "unknown")
    console.print(
        f"accelmark check-backend {device.backend}: {device.name} ({device.address}{simulated}), "
        f"{framework} {version}",
        style="bold",
    )
    console.print()
    if console.width >= TABLE_WIDTH:
        console.print(_table(done))
    else:
        for line in _lines(done):
            console.print(line)
    console.print()
    counts = _counts(done)
    legend = " (it cannot be told here; the line says why)"
    console.print(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['not observable']} not seen"
        f"{legend if counts['not observable'] else ''}."
    )


def _table(done: Sequence[Examined]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("verdict", no_wrap=True, min_width=8)
    table.add_column("check", overflow="fold", ratio=2)
    table.add_column("observed", overflow="fold", ratio=3)
    for one in done:
        table.add_row("", one.check, one.summary, style="bold")
        for finding in one.findings:
            table.add_row(
                Text(*LOOKS[finding.verdict]),
                f"  {finding.title}",
                "\n".join(_said(finding)),
            )
    return table


def _lines(done: Sequence[Examined]) -> Iterator[RenderableType]:
    """What the table says, for a terminal too narrow for it."""
    from rich.padding import Padding
    from rich.text import Text

    for one in done:
        yield Text(f"{one.check}: {one.summary}", style="bold")
        for finding in one.findings:
            yield Text.assemble(LOOKS[finding.verdict], f" {finding.title}")
            for said in _said(finding):
                yield Padding(Text(said), (0, 0, 0, 2))


def _said(finding: Finding) -> list[str]:
    said = [
        finding.observed,
        f"why: {finding.reason}" if finding.reason else "",
        f"next: {finding.next}" if finding.next else "",
    ]
    return [line for line in said if line]

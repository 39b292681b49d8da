"""`accelmark list`, `devices` and `schema`: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click

from bench.commands.common import looking
from bench.commands.options import json_option
from bench.commands.streams import folded, put, put_file
from bench.errors import UnknownName, suggestion

LISTS = ("workloads", "suites", "backends", "frameworks", "reports", "precisions", "chips")


@click.command("list", short_help="List workloads, suites, backends, chips, ...")
@click.argument("what", default="all", metavar="[WHAT]")
@json_option
def list_command(what: str, as_json: bool) -> None:
    """List workloads, suites, backends, frameworks, reports, precisions or chips (default: all)."""
    if what not in (*LISTS, "all"):
        raise UnknownName(f"accelmark list {what}: unknown list.{suggestion(what, LISTS)}")
    listed = {name: _listing(name) for name in LISTS if what in (name, "all")}
    if as_json:
        put_file(json.dumps(listed, indent=2) + "\n")
        return
    for name, rows in listed.items():
        put(f"{name}:\n")
        width = max(len(key) for key in rows)
        for key, summary in rows.items():
            put(folded(f"  {key.ljust(width)}  {summary}", width + 4))


def _listing(what: str) -> dict[str, str]:
    from bench import catalogue
    from bench.judging import chips
    from bench.precision import PRECISIONS

    if what == "chips":
        return {chip.name: chip.summary for chip in chips.chips()}
    if what == "suites":
        return {name: _suite_summary(file) for name, file in catalogue.releases().items()}
    if what == "precisions":
        return {name: precision.summary for name, precision in PRECISIONS.items()}
    kind = cast("catalogue.Kind", what)
    return {name: plug_in.summary for name, plug_in in catalogue.plug_ins(kind).items()}


def _suite_summary(file: Path) -> str:
    from bench.planning import expected
    from bench.planning.suite_file import read_suite

    suite = read_suite(file)
    times = [
        f"{name}: {expected.said(expected.expected(suite, known))}"
        for name, known in expected.classes().items()
    ]
    return f"{suite.description} ({'; '.join(times)})"


@click.command(short_help="Show the devices that are here.")
@json_option
def devices(as_json: bool) -> None:
    """Show the devices that are here. For a backend without one: why, and what to do next."""
    import msgspec

    from bench import catalogue, units
    from bench.planning.instead import slow
    from bench.running import probe, reached
    from bench.running.elsewhere import TORCH

    with looking():
        found = [*probe.probe(list(catalogue.plug_ins("backends"))), *reached.by_frameworks()]
    if as_json:
        put_file(json.dumps(msgspec.to_builtins(found), indent=2) + "\n")
        return
    for one in found:
        for device in one.devices:
            memory = units.memory(device.memory_bytes) if device.memory_bytes else "memory unknown"
            facts = ", ".join(f"{key} {value}" for key, value in device.facts.items())
            told = [device.name, device.vendor, memory, " ".join(device.precisions)]
            told += ["simulated: no measurement"] if device.simulated else []
            told += [f"slow {', '.join(names)}: {why}" for why, names in slow(device).items()]
            by = "" if one.framework == TORCH else f" by {one.framework}"
            put(folded(f"{device.address}{by}: {', '.join(filter(None, told))} ({facts})", 4))
        if not one.devices:
            put(folded(f"no {one.reason}", 4))


@click.command(short_help="Print the JSON Schema of a record.")
def schema() -> None:
    """Print the JSON Schema of a record: of each of its lines."""
    from bench.records.schema import json_schema

    put_file(json.dumps(json_schema(), indent=2) + "\n")

"""The table of the house: every room, what it sees below it, and what it uses."""

from __future__ import annotations

from typing import NamedTuple

HOUSE = """
room               | sees                                                       | uses

errors             |                                                            |
units              |                                                            |
stats              |                                                            |
_own               |                                                            |
lifeline           |                                                            |
former             |                                                            |
precision          |                                                            | msgspec torch
dispatch           |                                                            | torch
rehearsal          | dispatch                                                   | torch
formats            | precision                                                  | torch
quantized_product  | formats precision                                          | torch

records/           | errors units                                               | msgspec psutil
                   |                                                            | torch
telemetry/         | former records stats units                                    | msgspec psutil

report             | records                                                    | msgspec
ranks              | records                                                    | msgspec torch
parameters         | errors records                                             | msgspec
workload           | parameters precision quantized_product ranks records       | msgspec torch
                   | rehearsal                                                  |
serving_job        | workload                                                   | msgspec
windowed_job       | workload                                                   | torch
backend            | errors precision quantized_product records telemetry       | msgspec torch
                   | workload                                                   |

framework          | backend precision records workload                         | numpy
backends/          | backend errors formats precision quantized_product records | msgspec psutil
                   | telemetry                                                  | torch pynvml
workloads/         | dispatch formats precision quantized_product ranks records | msgspec torch
                   | rehearsal serving_job units windowed_job workload          | transformers
                   |                                                            | diffusers peft
catalogue          | backend errors framework report workload                   | msgspec

planning/          | catalogue errors precision records stats telemetry units   | msgspec
                   | workload                                                   |
measuring/         | backend catalogue dispatch framework lifeline planning     | msgspec torch
                   | precision ranks records serving_job stats telemetry units  | numpy
                   | windowed_job workload                                      |
frameworks/        | backend backends catalogue errors framework lifeline       | msgspec numpy
                   | measuring planning precision ranks records rehearsal       | torch mindspore
                   | telemetry windowed_job workload workloads                  | psutil
running/           | backend catalogue errors framework lifeline measuring      | msgspec psutil
                   | planning precision records stats telemetry                 |
judging/           | catalogue errors planning precision records stats          | msgspec
                   | telemetry units                                            |
serving/           | backend catalogue errors judging lifeline measuring        | msgspec psutil
                   | planning precision records running telemetry workload      | torch transformers
                   | workloads                                                  |

exchange/          | errors judging planning records telemetry                  | msgspec
                   |                                                            | pytest_benchmark
reports/           | errors exchange judging planning records report stats      | msgspec rich
                   | telemetry units                                            | plotly jinja2
publishing/        | errors judging records report                              | msgspec
                   |                                                            | cryptography
conformance/       | backend backends catalogue errors formats framework        | msgspec torch
                   | judging lifeline measuring precision records running       | numpy
                   | telemetry units workload workloads                         |

plugins/           | backend backends errors formats framework judging          |
                   | precision quantized_product records report serving_job     |
                   | telemetry units workload workloads                         |
accelerator        | former                                                     |
models             | former                                                     |
record             | former                                                     |
guide/             | errors                                                     | msgspec
api                | backend catalogue errors exchange judging planning         |
                   | records report reports running                             |
commands/          | api backend catalogue conformance errors exchange guide    | click rich
                   | judging measuring planning precision publishing records    | msgspec
                   | report reports running serving stats units                 |
cli                | commands errors                                            | click
__main__           | cli errors                                                 |
pytest_plugin/     | catalogue commands errors exchange judging planning        | pytest
                   | records report running                                     | pytest_benchmark
suite/             | pytest_plugin                                              | pytest
                   |                                                            | pytest_benchmark
"""
"""From the ground up: every package and every loose file of `bench/`, which rooms below it its
files import (no others, and none in vain), and which distributions beside the standard library.
"""


class Room(NamedTuple):
    """A line of HOUSE."""

    package: bool
    sees: set[str]
    uses: set[str]


def house() -> dict[str, Room]:
    """HOUSE, read."""
    rooms: dict[str, Room] = {}
    name = ""
    for line in HOUSE.strip().splitlines()[1:]:
        if not line:
            continue
        first, sees, uses = (part.strip() for part in line.split("|"))
        if first:
            name = first.removesuffix("/")
            rooms[name] = Room(first.endswith("/"), set(), set())
        rooms[name].sees.update(sees.split())
        rooms[name].uses.update(uses.split())
    return rooms

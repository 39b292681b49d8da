"""Options that several commands have, and numbers whose messages say what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    Kind = click.ParamType[float]
else:
    Kind = click.ParamType  # which older versions of click cannot be asked of what


PATH = click.Path(path_type=Path)


class Number(Kind):
    """A number within limits."""

    name = "number"

    def __init__(
        self, kind: type[int] | type[float], allowed: str, allows: Callable[[float], bool]
    ) -> None:
        """allowed: what `allows` lets pass, in words."""
        self.kind = kind
        self.allowed = allowed
        self.allows = allows

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; `click.UsageError`, which says what is allowed, if it is none of those."""
        try:
            number = self.kind(str(value))
        except ValueError:
            number = None
        if number is None or not self.allows(number):
            option = "" if param is None else f"{param.opts[0]} "
            raise click.UsageError(f"{option}{value}: give {self.allowed}", ctx)
        return number


COLUMNS = Number(int, "a whole number from 40 to 500", lambda n: 40 <= n <= 500)
ABOVE_ZERO = Number(float, "a number above 0", lambda n: 0 < n < math.inf)
PERCENT = Number(float, "a number from 0 to 100", lambda n: 0 <= n <= 100)
DEVICES = Number(int, "a whole number from 1 up", lambda n: n >= 1)
LAUNCHES = Number(int, "a whole number from 1 to 1000", lambda n: 1 <= n <= 1000)
DEVICE = click.option(
    "--device",
    metavar="BACKEND[:INDEX]",
    help="See `accelmark devices`. Default: the first accelerator, else cpu.",
)
ONLY = click.option(
    "--only", metavar="GLOB", help="Measure only these cases, e.g. 'llama-*,*-train'."
)
SPREAD = click.option(
    "--devices",
    "spread",
    type=DEVICES,
    metavar="N",
    help="Spread over N devices the cases that leave it open. Default: all; cpu: 2.",
)
INDEX = Number(int, "a whole number from 0 up", lambda n: n >= 0)
SEED = Number(int, "a whole number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63)

OUT = click.option("--out", type=PATH, help="Folder for the record.  [default: runs]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
output_option = click.option(
    "--output", type=PATH, metavar="FILE", help="Write to this file, not to stdout."
)
width_option = click.option(
    "--width",
    type=COLUMNS,
    metavar="COLUMNS",
    help="Of the table, 40 to 500. Default: the terminal's.",
)
precision_option = click.option(
    "--precision",
    metavar="NAME",
    help="Measure every case in this precision that has it. Default: the suite's.",
)
framework_option = click.option(
    "--framework",
    metavar="NAME",
    help="What computes: see `accelmark list frameworks`.  [default: torch]",
)
python_option = click.option(
    "--python",
    metavar="PATH",
    help="The Python that has that framework. Default: $ACCELMARK_NAME_PYTHON, else this one.",
)


HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises to show help; older versions raise nothing."""


def complaint(error: click.ClickException) -> str:
    """What click says of a command line, as our own messages say it: one line, with what to do."""
    said = error.format_message().rstrip(".")
    said = said if said.startswith("-") else said[:1].lower() + said[1:]
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = "accelmark" if context is None else context.command_path
    end = "" if said.endswith(("?", "?)")) else "."
    return f"{said}{end} See `{path} --help`."


def require_once(command: click.Command, context: click.Context, words: Sequence[str]) -> None:
    """Raises `click.UsageError` where an option that takes one value is given several.

    click takes the last one, and says nothing of the others. context: of the command; words: those
    that follow its name.
    """
    try:
        _, _, order = command.make_parser(context).parse_args(list(words))
    except click.UsageError:  # which the command says itself
        return
    options = [one for one in order if isinstance(one, click.Option)]
    for option in options:
        if options.count(option) > 1 and not (option.multiple or option.is_flag or option.count):
            several = ": several globs go with commas between" if option.metavar == "GLOB" else ""
            raise click.UsageError(
                f"{option.opts[0]} is given {options.count(option)} times, and only one would "
                f"count. Give it once{several}",
                context,
            )

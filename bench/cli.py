"""The command `accelmark`. Data on stdout, progress on stderr, exit codes as in `bench.errors`.

Built on click: it imports in 40 ms, and says what is wrong with a command line in one message.
Everything that is slow to import is imported inside the command that needs it.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from bench import __version__
from bench.commands import (
    ab,
    check_backend,
    compare,
    explain,
    export_model,
    guide,
    listing,
    publish,
    report,
    run,
    serve_bench,
    streams,
    verify,
)
from bench.commands.common import say, termination_as_interrupt
from bench.commands.options import HELP, complaint, require_once
from bench.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    AccelmarkError,
    UnknownName,
    suggestion,
)

EXIT_CODES = """\b
Exit codes:
  0    every planned case was measured, or skipped because the device cannot do it
  1    the run ended, and at least one case failed, is void or was not reached;
       compare: no case could be compared, or --fail-if-slower could not judge one;
       ab: no ratio, or none of a case that both devices can do;
       check-backend: a check failed; explain: a case is not EXPLAINED;
       guide --search: nothing found; verify: a published run is not what was published
  2    bad input: the message says what, where, what is allowed and what to do
  3    compare --fail-if-slower: a case is slower
  130  interrupted: workers ended, what was measured is on disk and on the card"""


class Commands(click.Group):
    """A group that says which commands there are when it is given another."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Reads its own options, of which --help and --version print."""
        with streams.named():
            return super().make_context(info_name, args, parent, **extra)
        raise click.exceptions.Exit(EXIT_OK)  # who asked for help has left

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises `UnknownName` for a command that there is not."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UnknownName(
                f"accelmark {args[0]}: unknown command.{suggestion(args[0], self.commands)}"
            )
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            own = click.Context(command, parent=ctx, info_name=name)
            require_once(command, own, rest)
            if not ctx.resilient_parsing:
                try:
                    with streams.named():  # a command's --help is printed while its words are read
                        command.make_context(name, list(rest), ctx)
                except click.UsageError as error:
                    error.ctx = error.ctx or own
                    raise
        return name, command, rest


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="accelmark")
def commands() -> None:
    """The same step on any accelerator: who is faster, by how much, how surely.

    Runs offline and unprivileged, and sends nothing anywhere.
    """


for command in (
    *(run.run, compare.compare, ab.ab, report.report, publish.publish, verify.verify),
    *(listing.list_command, listing.devices, listing.schema, check_backend.check_backend),
    *(export_model.export_model, serve_bench.serve_bench, explain.explain, guide.guide),
):
    commands.add_command(command)


def main() -> None:
    """The console script: bad input is one message and exit code 2, never a traceback."""
    streams.prepare()
    try:
        with termination_as_interrupt():
            commands(prog_name="accelmark", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if isinstance(error, HELP):
            error.show(sys.stderr)
        else:
            say(f"error: {complaint(error)}")
        sys.exit(EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except AccelmarkError as error:
        say(f"error: {error}")
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        known = error.filename is not None and error.strerror
        if error.filename == streams.STDOUT:
            say(f"error: stdout: cannot be written ({error.strerror}). {streams.ELSEWHERE}")
        else:
            say(f"error: {f'{error.filename}: {error.strerror}.' if known else error}")
        # At an interruption click says a word of its own, which a terminal that is gone refuses.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        sys.exit(EXIT_INTERRUPTED if interrupted else EXIT_BAD_INPUT)

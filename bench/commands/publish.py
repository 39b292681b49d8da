"""`accelmark publish`: a run among the published results."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.common import say
from bench.commands.options import PATH
from bench.commands.streams import put_card


@click.command(short_help="Copy a run to the published results.")
@click.argument("run_path", type=PATH, metavar="RUN")
@click.option("--name", help="Name of its folder. Default: suite and device.")
@click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    show_default=True,
    help="Folder of published runs.",
)
@click.option(
    "--sign",
    "key",
    type=PATH,
    metavar="KEY",
    help="Sign it with this private key (ssh-keygen -t ed25519).",
)
def publish(run_path: Path, name: str | None, results: Path, key: Path | None) -> None:
    """Copy RUN to the published results, without what identifies people or machines.

    A published run is complete, has ten launches of every case, correct numbers, and says what it
    ran on. If RUN is not so, every reason is named and nothing is written.
    """
    from bench import catalogue
    from bench.publishing import publish as publishing
    from bench.publishing import signing
    from bench.records.runfile import read

    passphrase = None
    if key is not None:
        if signing.needs_passphrase(key):
            passphrase = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
        signing.private_key(key, passphrase)  # before anything is written

    def sign(folder: Path) -> None:
        if key is not None:
            say(f"signed by {signing.sign(folder, key, passphrase)}")

    card = catalogue.load("reports", "table")
    folder = publishing.publish(read(run_path), results, name, card, sign)
    put_card((folder / publishing.CARD).read_text(encoding="utf-8"))
    say(f"published: {folder}, and {results / publishing.INDEX} names it")

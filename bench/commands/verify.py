"""`accelmark verify`: whether published runs are what was published."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands.common import say
from bench.commands.options import PATH
from bench.commands.streams import folded, put
from bench.errors import EXIT_INCOMPLETE, RecordError


@click.command(short_help="Check published runs and their signatures.")
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option(
    "--signer",
    type=PATH,
    metavar="FILE",
    help="Public key (id_ed25519.pub) that must have signed each of them.",
)
def verify(folders: tuple[Path, ...], signer: Path | None) -> None:
    """Check that published FOLDERS are unchanged and may be published, and say who signed them.

    A folder of folders, such as results, stands for all of them. Exit code 1 if one was changed.
    """
    from bench.publishing import publish, signing

    wanted = None if signer is None else signing.fingerprint_of(signer)
    given = [one for one in folders if one.name != publish.INDEX or not one.is_file()] or folders
    for folder in given:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "there is no such folder"
            raise RecordError(f"{folder}: {what}. Give one of published runs.")
    each = [one for folder in given for one in publish.to_verify(folder)]
    wrong = 0
    for folder in each:
        complaints, signed = publish.verify(folder, wanted)
        wrong += bool(complaints)
        put(folded(f"{folder}: {'; '.join(complaints) or 'as published'}; {signed}", 4))
    if wrong:
        say(f"{wrong} of {len(each)} are not what was published, or were not checked.")
        sys.exit(EXIT_INCOMPLETE)

"""`accelmark publish`: a run among the published results."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.common import say


@click.command()
@click.argument("run_path", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--name", help="Of the folder. Default: suite and device.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of published runs.",
)
def publish(run_path: Path, name: str | None, results: Path) -> None:
    """Lay RUN among the published results, without what identifies people or machines.

    It must have ten launches of every case, have run to its end, have passed its numerics, and say
    what it ran on; else every reason is named.
    """
    from bench import catalogue
    from bench import publish as publishing
    from bench.runfile import read

    card = catalogue.load("reports", "table")
    folder = publishing.publish(read(run_path), results, name, card)
    click.echo((folder / publishing.CARD).read_text(encoding="utf-8"), nl=False)
    say(f"published: {folder}, and {results / publishing.INDEX} names it")

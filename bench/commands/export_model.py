"""`accelmark export-model`: the model that a server is to load."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import PATH, SEED
from bench.commands.streams import put


@click.command(short_help="Write a model that any server can load.")
@click.argument("model", metavar="MODEL")
@click.argument("folder", type=PATH, metavar="FOLDER")
@click.option(
    "--precision", default="bf16", show_default=True, help="Of its weights: bf16, fp16 or fp32."
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, metavar="N", help="Of its weights."
)
def export_model(model: str, folder: Path, precision: str, seed: int) -> None:
    """Write MODEL into FOLDER, with seeded weights, for vLLM, SGLang, MindIE, transformers, ...

    MODEL: a size of `accelmark guide llama` with an output matrix of its own, e.g. llama-3.1-8b or
    smollm2-135m-untied. Nothing is downloaded. No token ends its answers, so they are as long as
    was asked.
    """
    from bench.serving import export

    manifest = export.export(folder, model, precision, seed)
    put(f"{folder}: {manifest.model} {manifest.precision}, {manifest.parameters:,} parameters\n")
    put(f"weights {manifest.digest}, seed {manifest.seed}\n")

"""The model that a server is to load: a folder that any of them takes, made from a seed.

Nothing is downloaded, so that everybody can have the same model; and since its weights are known,
so are its answers. What the folder holds is in the layout of the Hugging Face hub, written by
transformers itself: `config.json`, `model*.safetensors`; a word-level tokenizer; and our manifest.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import OutputError, RecordError, SuiteError, suggestion
from bench.precision import PRECISIONS
from bench.records import digests
from bench.records.value import Value, positive_and_finite
from bench.serving import tokenizer

if TYPE_CHECKING:
    from torch import nn

MANIFEST = "accelmark.json"
FORMAT = 1
EXPORTED = ("bf16", "fp16", "fp32")
"""Precisions of weights that servers load as they lie; they quantize on their own."""


class Manifest(Value, frozen=True, kw_only=True):
    """What a folder holds, and that it has not been changed."""

    format: int = FORMAT
    model: str
    precision: str
    seed: int
    vocabulary: int
    positions: int
    """Longest text, prompt and answer together."""
    layers: int
    parameters: int
    files: dict[str, str]
    """SHA-256 of each other file of the folder."""

    def __post_init__(self) -> None:
        positive_and_finite(
            vocabulary=self.vocabulary,
            positions=self.positions,
            layers=self.layers,
            parameters=self.parameters,
        )
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}; this version reads format {FORMAT}")

    @property
    def digest(self) -> str:
        """Of all weights and settings: equal models, equal digest."""
        lines = "".join(f"{name} {sum}\n" for name, sum in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()[:16]


def sizes() -> dict[str, Any]:
    """The models that can be exported, by name."""
    from bench.workloads.language.llamas import UNTIED

    return dict(UNTIED)


def export(folder: Path, model: str, precision: str = "bf16", seed: int = 0) -> Manifest:
    """Writes the folder. `SuiteError` for a model or precision that there is not; `OutputError` if
    the folder has something in it, or cannot be written."""
    known = sizes()
    if model not in known:
        raise SuiteError(f"export-model {model}: unknown model.{suggestion(model, known)}")
    if precision not in EXPORTED:
        raise SuiteError(
            f"export-model --precision {precision}: weights cannot be handed on so."
            f"{suggestion(precision, EXPORTED)} What is quantized, the server quantizes."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(
                f"{folder}: there is something in it already. Give a new folder, or empty it."
            )
        built = build(known[model], precision, seed)
        _write(built, folder, known[model])
        manifest = Manifest(
            model=model,
            precision=precision,
            seed=seed,
            vocabulary=known[model].vocabulary,
            positions=known[model].positions,
            layers=known[model].layers,
            parameters=sum(p.numel() for p in built.parameters()),
            files={path.name: digests.sha256(path) for path in sorted(folder.iterdir())},
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (folder / MANIFEST).write_bytes(text + b"\n")
    except Exception as error:
        # The library that writes weights has an error of its own.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise OutputError(
            f"{folder}: the model cannot be written there ({why}). Give a folder that "
            "you may write to, with room for the weights."
        ) from error
    return manifest


def read(folder: Path) -> Manifest:
    """The manifest of a folder; `RecordError` if it is none, or a file was changed."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordError(
            f"{path}: not a model that `accelmark export-model` wrote ({why}). Export one, and "
            "have the server load it."
        ) from error
    for name, digest in manifest.files.items():
        if not (folder / name).is_file() or digests.sha256(folder / name) != digest:
            raise RecordError(
                f"{folder / name}: missing, or changed since it was exported. Export the model "
                "again, and restart the server on it."
            )
    return manifest


def build(size: Any, precision: str, seed: int) -> nn.Module:
    """The model on the CPU, in the dtype of its weights; the same as our own engine's at that seed.

    Raises RuntimeError if the installed library builds another.
    """
    import torch

    from bench.workload import Site
    from bench.workloads.jobs.seeded import SeededData, build_model

    site = Site(device=torch.device("cpu"), precision=PRECISIONS[precision], seed=seed)
    construct = functools.partial(size.construct, "sdpa")
    return build_model(construct, size.published_parameters, SeededData(seed), site)


def _write(model: nn.Module, folder: Path, size: Any) -> None:
    from transformers.utils import logging

    library: Any = model
    logging.disable_progress_bar()
    library.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # a server may run as somebody else
    # Servers sample as the model's own settings say where a request is silent: there are none here.
    (folder / "generation_config.json").write_text('{"_from_model_config": false}\n', "utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["transformers_version"]  # equal models, equal files
    # No token ends an answer: its length is what was asked for.
    config |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    rope = config["rope_parameters"]
    # As servers read it whose transformers is older than 5.
    config |= {"torch_dtype": config["dtype"], "rope_theta": rope["rope_theta"]}
    if rope["rope_type"] != "default":
        config["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    tokenizer.write(folder, size.vocabulary, size.positions)

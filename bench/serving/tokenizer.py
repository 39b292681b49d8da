"""A word-level tokenizer: the word `w17` is token 17, and no token ends a text.

Written as the JSON that the library `tokenizers` reads, so that whoever loads the folder needs no
code of ours, and a text of the server's can be read back into token ids by whoever has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORD = re.compile(r"\Aw(0|[1-9]\d*)\Z")
FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"


def words(tokens: Sequence[int]) -> str:
    """A prompt as text, which the tokenizer reads back into the same tokens."""
    return " ".join(f"w{token}" for token in tokens)


def tokens(text: str) -> tuple[int, ...] | None:
    """The token ids of a text; None if it holds anything but our words."""
    found = [WORD.match(word) for word in text.split()]
    if None in found:
        return None
    return tuple(int(word[1]) for word in found if word)


def write(folder: Path, vocabulary: int, positions: int) -> None:
    """The tokenizer's two files. `vocabulary`: tokens that it knows; `positions`: longest text."""
    model = {
        "type": "WordLevel",
        "vocab": {f"w{token}": token for token in range(vocabulary)},
        # Of words that there are not; the library asks for one. It is not declared below: servers
        # leave out of a text what a tokenizer calls special.
        "unk_token": "w0",
    }
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "unk_token": None,
        "bos_token": None,
        "eos_token": None,
        "clean_up_tokenization_spaces": False,
    }
    (folder / FILE).write_text(json.dumps(document), encoding="utf-8")
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")

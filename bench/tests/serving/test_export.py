"""The exported model: what a server loads is what was drawn, and what the reference says of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import OutputError, RecordError, SuiteError
from bench.serving import export, gate, reference, tokenizer
from bench.serving.export import Manifest
from bench.serving.reference import Text, Truth, distance

TINY = "tiny-untied"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    export.export(folder, TINY, "bf16", seed=3)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[Any]:
    """As transformers loads it, without a network."""
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    yield library.from_pretrained(folder, local_files_only=True, dtype="auto")


def test_transformers_loads_it_offline_and_gives_the_same_logits(folder: Path, loaded: Any) -> None:
    import torch

    built: Any = export.build(export.sizes()[TINY], "bf16", 3)
    tokens = torch.arange(60)[None]
    with torch.inference_mode():
        assert torch.equal(built(input_ids=tokens).logits, loaded(input_ids=tokens).logits)
    manifest = export.read(folder)
    assert manifest.parameters == sum(p.numel() for p in loaded.parameters())
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight.data_ptr() != loaded.model.embed_tokens.weight.data_ptr()


def test_no_token_ends_an_answer_and_a_word_is_a_token(folder: Path, loaded: Any) -> None:
    from transformers import AutoTokenizer

    library: Any = AutoTokenizer
    words = library.from_pretrained(folder, local_files_only=True)
    assert words("w17 w3 w511").input_ids == [17, 3, 511]
    assert words.decode([17, 0, 3], skip_special_tokens=True) == "w17 w0 w3"
    assert words.eos_token_id is None
    assert loaded.config.eos_token_id is None and loaded.generation_config.eos_token_id is None
    assert tokenizer.tokens(tokenizer.words([17, 3])) == (17, 3)
    assert tokenizer.tokens("w17 x3") is None and tokenizer.tokens("w017") is None


def test_older_servers_find_the_rotary_frequencies_where_they_look(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500_000.0
    assert config["torch_dtype"] == "bfloat16" and not config["tie_word_embeddings"]


def test_a_changed_folder_is_no_model_of_ours(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert export.read(copy) == export.read(folder)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(RecordError, match="changed since it was exported"):
        export.read(copy)
    (copy / export.MANIFEST).unlink()
    with pytest.raises(RecordError, match="not a model that"):
        export.read(copy)


def test_what_cannot_be_exported_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="unknown model"):
        export.export(tmp_path / "a", "tiny-unteid")
    with pytest.raises(SuiteError, match="the server quantizes"):
        export.export(tmp_path / "a", TINY, "int8")
    with pytest.raises(OutputError, match="something in it already"):
        export.export(folder, TINY)
    with pytest.raises(OutputError, match="cannot be written"):
        export.export(folder / "config.json" / "below", TINY)


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
def test_a_disk_that_fills_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the weights, whose library has an error of its own, or under what comes last."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OutputError, match=r"cannot be written there \(.*too large.*for the w"):
            export.export(tmp_path / "a", TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot be written there \(No space left on device\)"):
        export.export(tmp_path / "b", TINY)


def test_equal_models_have_equal_digests_whatever_wrote_them() -> None:
    given: dict[str, Any] = {
        "model": TINY,
        "precision": "bf16",
        "seed": 0,
        "vocabulary": 4,
        "positions": 4,
        "layers": 1,
        "parameters": 4,
    }
    one = Manifest(**given, files={"a": "1", "b": "2"})
    assert one.digest == Manifest(**given, files={"b": "2", "a": "1"}).digest
    assert one.digest != Manifest(**given, files={"a": "1", "b": "3"}).digest
    with pytest.raises(ValueError, match="format 2"):
        Manifest(**given, files={}, format=2)


@pytest.fixture(scope="module")
def answered(folder: Path, loaded: Any) -> list[Text]:
    """Greedy answers of a right server in bfloat16, which keeps a cache."""
    import torch

    texts = []
    for asked in gate.questions(512, 1, "before")[:4]:
        given = torch.tensor([asked.prompt])
        answer = loaded.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False
        )
        texts.append(Text(prompt=asked.prompt, tokens=tuple(answer[0, 32:].tolist())))
    return texts


@pytest.fixture(scope="module")
def truth(folder: Path, answered: list[Text]) -> Truth:
    return reference.truth(folder, answered, True)


def test_the_reference_is_float64_and_leaves_the_model_as_it_was(
    folder: Path, answered: list[Text], truth: Truth
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    wide = library.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    text = answered[0]
    with torch.inference_mode():
        logits = wide(input_ids=torch.tensor([[*text.prompt, *text.tokens]])).logits[0, 31:-1]
    exact = torch.log_softmax(logits, -1).gather(1, torch.tensor(text.tokens)[:, None])[:, 0]
    assert truth.logprobs[0] == pytest.approx(exact.tolist(), abs=1e-9)
    assert truth.best[0] == pytest.approx(torch.log_softmax(logits, -1).amax(-1).tolist(), abs=1e-9)


def test_a_right_server_passes_and_wrong_models_are_told_apart(truth: Truth) -> None:
    rounding = distance(truth.rounded, truth.logprobs)
    assert 0 < rounding < gate.bound(rounding)
    assert gate.regret(truth, rounding).passed
    assert truth.wrong.keys() == {reference.INT8, reference.NO_LAYER}
    assert all(far > gate.bound(rounding) for far in truth.wrong.values())


def test_another_seed_is_another_model(tmp_path: Path, answered: list[Text], truth: Truth) -> None:
    export.export(tmp_path / "other", TINY, "bf16", seed=4)
    other = reference.truth(tmp_path / "other", answered, False)
    far = distance(other.logprobs, truth.logprobs)
    assert far > 10 * gate.bound(distance(truth.rounded, truth.logprobs))
    assert not gate.regret(other, distance(truth.rounded, truth.logprobs)).passed


def test_the_reference_keeps_no_row_of_a_text_that_it_has_read(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answered: list[Text]
) -> None:
    """A row has a value for each token of the vocabulary: 1 MB of 128,256."""
    import gc

    import torch
    from transformers import LlamaForCausalLM

    rows, forward = 512 * len(answered[0].tokens), LlamaForCausalLM.forward
    kept: list[int] = []

    def looked(model: Any, **given: Any) -> Any:
        alive = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        kept.append(sum(one.shape[-1:] == (512,) and one.numel() >= rows for one in alive))
        return forward(model, **given)

    monkeypatch.setattr(LlamaForCausalLM, "forward", looked)
    reference.truth(folder, answered[:3], False)
    assert len(kept) == 6 and len(set(kept)) == 1, kept


def test_one_module_at_a_time_is_wide(folder: Path, loaded: Any) -> None:
    """The output matrix and the embedding are large too."""
    import torch

    def size(of: Any) -> int:
        return sum(one.numel() for one in of if one.dtype is torch.float64)

    wide: list[int] = []
    modules = [loaded.model.embed_tokens, *loaded.model.layers, loaded.model.norm, loaded.lm_head]
    with torch.inference_mode(), reference._widened(loaded):
        hooks = [
            module.register_forward_pre_hook(lambda *_: wide.append(size(loaded.parameters())))
            for module in modules
        ]
        loaded(input_ids=torch.arange(4)[None])
        for hook in hooks:
            hook.remove()
    own = [sum(one.numel() for one in module.parameters()) for module in modules]
    assert wide == [0, *own[1:]] and size(loaded.parameters()) == 0

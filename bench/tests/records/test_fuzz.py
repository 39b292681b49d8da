"""A few hundred of the ten thousand spoiled records of `python -m bench.tests.scripts.fuzz`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.judging.summary import summarize
from bench.records.runfile import read
from bench.tests.scripts import fuzz
from bench.tests.scripts.regenerate import RUN


def test_spoiled_records_give_an_error_or_true_figures(tmp_path: Path) -> None:
    counts, broken = fuzz.fuzz(120, 7, tmp_path)
    assert broken == []
    assert min(counts[word] for word in ("refused", "damaged", "read")) > 0, "each was tried"


def test_a_wrong_figure_would_be_noticed() -> None:
    run = read(RUN)
    row = next(row for row in summarize(run) if row.status == "measured")
    fuzz.check(row, run)
    assert row.throughput is not None
    with pytest.raises(fuzz.Broken, match="where its launches say"):
        fuzz.check(msgspec.structs.replace(row, throughput=row.throughput * 1.001), run)
    failed = next(row for row in summarize(run) if row.status == "failed")
    with pytest.raises(fuzz.Broken, match="a number for a case that is"):
        fuzz.check(msgspec.structs.replace(failed, throughput=1.0), run)


def test_an_unexpected_exception_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(fuzz, "summarize", broken)
    counts, said = fuzz.fuzz(5, 7, tmp_path)
    assert counts["broken"] > 0 and "surprise" in said[0]

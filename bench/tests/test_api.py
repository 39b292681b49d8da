"""What a program calls: a real run from a suite to its comparison, and paths as text or as Path."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import bench
from bench import api
from bench.backend import DeviceInfo
from bench.errors import ComparisonError, HostsError, RecordError, SuiteError, UnknownName
from bench.exchange import benchmark_json
from bench.planning.suite_file import find_suite, read_suite
from bench.publishing import publish, signing
from bench.records import digests, runfile
from bench.records.run import Launch, Settings
from bench.records.runfile import Writer, read
from bench.running import probe
from bench.running.face import Face, Nobody
from bench.tests.values import another

pytestmark = pytest.mark.usefixtures("forked")

GOLDEN = Path(__file__).parent / "golden"
BASE, OTHER = GOLDEN / "base.jsonl", GOLDEN / "other.jsonl"
SUITE = """
[settings]
launches = 2
warmup_seconds = 0.0
warmup_limit_seconds = 0.2
block_seconds = 0.001
steady_limit_seconds = 0.1

[[case]]
workload = "gemm"
precision = "fp32"
shape = ["64x64x64", "32x32x32"]
"""
as_given = pytest.mark.parametrize("given", [str, Path], ids=["text", "Path"])


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups")
def test_a_suite_is_measured_read_judged_compared_and_shown(suite: Path) -> None:
    """As the docstring of `bench.api` tells it."""
    heard: list[str] = []

    class Listener(Nobody):
        def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
            heard.append(launch.case.detail)

    @contextmanager
    def watch(device: DeviceInfo, remarks: Sequence[str], settings: Settings) -> Iterator[Face]:
        heard.append(f"{device.address}, {settings.launches} launches")
        yield Listener()

    run = bench.run_suite(
        str(suite), device="cpu", only="gemm*", launches=1, out="out", watch=watch
    )
    assert heard == ["cpu, 1 launches", "64x64x64", "32x32x32"]
    assert run.end is not None and run.end.reason == "complete"
    assert run.run.command == (
        *("accelmark", "run", "tiny.toml", "--device", "cpu"),
        *("--only", "gemm*", "--launches", "1", "--out", "out"),
    )
    (path,) = Path("out").iterdir()
    assert run.path == str(path)
    assert [row.status for row in bench.summarize_run(run)] == ["measured"] * 2
    assert bench.summarize_run(str(path)) == bench.summarize_run(path)
    assert bench.render(run).startswith("accelmark tiny on ")
    with pytest.raises(ComparisonError, match=r"are the same run, or a copy of it"):
        bench.compare_runs(run, path)
    comparison = bench.compare_runs(another(run), path)
    assert [case.ratio for case in comparison.cases] == [1.0, 1.0]
    assert bench.resume_run(path).launches == run.launches, "nothing is left to measure"


@pytest.mark.skipif(os.name != "posix", reason="workers need POSIX process groups")
def test_a_run_that_ended_early_goes_on(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.run_suite(suite, device="cpu", budget_minutes=1e-6, out=Path("out"))
    assert first.end is not None and first.end.reason == "budget"
    done = len(first.launches)
    assert done == 1, "the very first has the whole budget, which nothing else fits"
    whole = bench.resume_run(first.path)
    assert whole.end is not None and whole.end.reason == "complete"
    assert list(whole.launches[:done]) == list(first.launches)
    assert sorted((x.case.detail, x.launch) for x in whole.launches) == [
        ("32x32x32", 0),
        ("32x32x32", 1),
        ("64x64x64", 0),
        ("64x64x64", 1),
    ]
    lines = Path(whole.path).read_bytes().splitlines(keepends=True)
    Path(whole.path).write_bytes(b"".join(lines[:-2]))
    monkeypatch.setattr(runfile, "LARGE_BYTES", -1)  # its launches stay in the file
    again = bench.resume_run(whole.path)
    assert len(again.launches) == 4 and list(again.launches[:3]) == list(whole.launches[:3])
    assert again.end is not None and again.end.reason == "complete"


def test_what_goes_on_has_the_budget_of_its_suite(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another is given, which is nobody's but that call's."""
    device = DeviceInfo(backend="cpu", index=0, name="A CPU", memory_bytes=1 << 30)
    monkeypatch.setattr(probe, "probe", lambda *_: [probe.Found(backend="cpu", devices=(device,))])
    budgets: list[float | None] = []

    def opened(*given: Any, **named: object) -> Mock:
        budgets.append(given[3])
        return Mock()

    monkeypatch.setattr(api, "open_session", opened)
    for words, given in (("", None), ("budget_minutes = 12\n", None), ("", 5)):
        suite.write_text(words + SUITE, encoding="utf-8")
        run = bench.run_suite(suite, device="cpu", budget_minutes=given, out="out")
        bench.resume_run(run.path)
    bench.resume_run(run.path, budget_minutes=2)
    assert budgets == [None, None, 720.0, 720.0, 300.0, None, 120.0]


def test_bad_input_is_an_error_of_ours_before_anything_is_measured(suite: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown suite `qick`\. Did you mean `quick`"):
        bench.run_suite("qick")
    with pytest.raises(SuiteError, match="--launches 0: give a number from 1 to"):
        bench.run_suite(suite, launches=0)
    with pytest.raises(bench.AccelmarkError, match="unknown backend `cpo`"):
        bench.run_suite(suite, device="cpo")
    minutes: Any
    for minutes in ("x", 0, -1, float("nan"), True):
        for measure in (bench.run_suite, bench.resume_run):
            with pytest.raises(SuiteError, match="`budget_minutes` must be a number above 0, not"):
                measure(suite, budget_minutes=minutes)
    globs: Any = ["gemm"]
    with pytest.raises(SuiteError, match="only: give one text, with commas between its globs"):
        bench.run_suite(suite, device="cpu", only=globs)
    with pytest.raises(SuiteError, match="takes 2 devices or more, not 0"):
        bench.run_suite("collectives", devices=0)
    assert not Path("runs").exists()


def test_a_program_that_a_launcher_starts_on_several_hosts_is_told(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would do the whole work."""
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostsError, match="this goes over one host, and RANK and WORLD_SIZE has"):
        api.run_suite(suite, device="cpu", out=suite.parent / "none")
    assert not (suite.parent / "none").exists()


def test_what_is_no_price_is_said_to_be_none() -> None:
    prices: Any
    for prices in ([2.1], (2.1, 2), 3):
        for judge in (bench.compare_runs, bench.compare_systems):
            with pytest.raises(ComparisonError, match=r"give bench\.Prices\(base=, other=\), not"):
                judge(BASE, OTHER, prices)
    for price in ("2", 0, -1, float("nan"), None):
        with pytest.raises(ComparisonError, match="must be a number above 0, not"):
            bench.Prices(base=2.5, other=price)  # type: ignore[arg-type]


def test_a_damaged_run_is_shown_but_not_compared(tmp_path: Path) -> None:
    damaged = tmp_path / "run.jsonl"
    damaged.write_bytes(BASE.read_bytes()[:-40])
    assert bench.read_run(damaged).damage
    assert bench.render(damaged)
    with pytest.raises(RecordError, match=r"An incomplete run is not compared.*copy it again"):
        bench.compare_runs(BASE, damaged)


@as_given
def test_what_is_rendered(given: Callable[[Path], Any]) -> None:
    base, other = given(BASE), given(OTHER)
    assert bench.render(base) == bench.render([bench.read_run(base)])
    assert json.loads(bench.render([base, other], "json"))
    comparison = bench.compare_runs(base, other, bench.Prices(base=2.5, other=2))
    assert bench.render(comparison, width=80) != bench.render(comparison, width=120)
    (flat,) = json.loads(bench.render([comparison], "json"))
    assert len(flat["cases"]) == len(comparison.cases)
    with pytest.raises(
        ComparisonError, match=r"no comparison is rendered as `html`\. Allowed: table, json"
    ):
        bench.render(comparison, "html")
    with pytest.raises(ComparisonError, match="give runs or comparisons, not both"):
        bench.render([comparison, base])
    with pytest.raises(UnknownName, match=r"unknown report `tabel`\. Did you mean `table`"):
        bench.render(base, "tabel")


def key_in(folder: Path) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    path = folder / "key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_suffix(".pub").write_bytes(public)
    return path


@as_given
def test_wherever_a_path_is_taken_a_text_will_do(
    given: Callable[[Path], Any], suite: Path, tmp_path: Path
) -> None:
    assert read_suite(given(suite)).name == read_suite(find_suite(given(suite))).name == "tiny"
    assert read_suite(given(suite)).source == str(suite)
    run = read(given(BASE))
    assert run.path == str(BASE) == benchmark_json.read_any(given(BASE)).path
    folder = tmp_path / f"{given.__name__}-folder"
    writer = Writer(given(folder / "run.jsonl"))
    writer.append(run.run)
    writer.close()
    assert read(given(folder)).run == run.run, "the one run in a folder"
    document = tmp_path / "saved.json"
    document.write_text(bench.render(given(BASE), "pytest-benchmark"), encoding="utf-8")
    assert benchmark_json.read_any(given(document)).run.plan == run.run.plan
    digests.write(given(folder), ["run.jsonl"])
    assert digests.noted(given(folder)) == {
        "run.jsonl": digests.sha256(given(folder / "run.jsonl"))
    }
    digests.check(given(folder / "run.jsonl"))
    assert publish.digest(given(folder)) == digests.sha256(folder / "run.jsonl")[:16]
    key = key_in(tmp_path)
    fingerprint = signing.sign(given(folder), given(key))
    assert not signing.needs_passphrase(given(key))
    assert signing.signer(given(folder)) == fingerprint
    assert signing.fingerprint_of(given(key.with_suffix(".pub"))) == fingerprint
    complaints, who = publish.verify(given(folder), fingerprint)
    assert "it did not run to its end" in complaints and fingerprint in who


def test_nobody_watches_by_default() -> None:
    context: AbstractContextManager[Face] = api.silent(
        DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=None), (), Settings()
    )
    with context as face:
        face.turn("A")


class Planned(Exception):
    """As far as these tests go."""


def begins(*arguments: Any) -> Any:
    raise Planned


def test_what_two_devices_cannot_do_is_asked_of_the_devices_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hsdp` takes four or more, and the suite leaves the number to the run."""
    path = tmp_path / "sharded.toml"
    case = {"workload": "llama", "mode": "train", "model": "smollm2-135m", "parallelism": "hsdp"}
    lines = [f'{key} = "{value}"' for key, value in case.items()]
    path.write_text("\n".join(["[[case]]", *lines, "batch_size = 8", "sequence_length = 16"]))

    eight = DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=None)
    monkeypatch.setattr(api, "choose", lambda *_: probe.Chosen(eight, [], 8))
    with pytest.raises(Planned):
        bench.run_suite(path, watch=begins)
    with pytest.raises(Planned):
        bench.run_suite(path, devices=4, only="llama", watch=begins)
    with pytest.raises(SuiteError, match="hsdp2x2"):
        bench.run_suite(path, devices=2, watch=begins)


def test_a_case_is_named_by_what_is_measured_in_its_place_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 in the suite, fp32 on a device that lacks it: the card says `gemm-matmul-fp32`."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '[instead]\nbf16 = "fp32"\n[[case]]\nworkload = "gemm"\nshape = "32x32x32"\n',
        encoding="utf-8",
    )

    def device(**slow: str) -> DeviceInfo:
        known = ("bf16", "fp32")
        return DeviceInfo(
            backend="cpu", index=0, name="x", memory_bytes=None, precisions=known, slow=slow
        )

    for measure in (bench.run_suite, bench.explain_suite):
        monkeypatch.setattr(api, "choose", lambda *_: probe.Chosen(device(bf16="reference"), [], 1))
        for name in ("gemm-matmul-fp32", "gemm-matmul-bf16", "gemm"):
            with pytest.raises(Planned):
                measure(path, only=name, watch=begins)
        with pytest.raises(SuiteError, match="--only gemm-matmul-fp16: matches no case"):
            measure(path, only="gemm-matmul-fp16", watch=begins)
        monkeypatch.setattr(api, "choose", lambda *_: probe.Chosen(device(), [], 1))
        with pytest.raises(SuiteError, match="--only gemm-matmul-fp32: matches no case"):
            measure(path, only="gemm-matmul-fp32", watch=begins)
        with pytest.raises(Planned):
            measure(path, only="gemm-matmul-fp32", precision="fp32", watch=begins)


@pytest.mark.parametrize("launches", ["auto", "3", 2.0, 0])
def test_how_often_a_case_is_explained_is_a_whole_number(tmp_path: Path, launches: Any) -> None:
    """Else a record said what no reader takes, and the run ended in a traceback."""
    with pytest.raises(SuiteError, match=f"{launches!r}|--launches 0"):
        bench.explain_suite("smoke", device="cpu", launches=launches, out=tmp_path)
    assert not list(tmp_path.iterdir())

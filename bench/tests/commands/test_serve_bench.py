"""`accelmark serve-bench` and `export-model`, on a server that is a mock."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import guide
from bench.errors import ServerError
from bench.records import digests
from bench.records.outcome import Measured
from bench.records.run import MOST_LAUNCHES
from bench.records.runfile import read
from bench.serving import export, gate, run, session, verdict
from bench.serving.cases import LEAST_REQUESTS, ROUNDS, Asks, cases, ramp_of
from bench.serving.gate import FLOOR, ROUNDING, bound
from bench.tests.conftest import Accelmark
from bench.tests.serving.mock import Manners, Mock, reference
from bench.tests.serving.values import MANIFEST, asks

SECRET = "sk-of-mine-1234"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder that has the manifest of a model, and nothing to load."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    manifest = msgspec.structs.replace(
        MANIFEST, files={"model.safetensors": digests.sha256(folder / "model.safetensors")}
    )
    (folder / export.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder


@pytest.fixture(autouse=True)
def without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mock's own, at once; and a machine that has other things to do."""
    given = {**(run.run.__kwdefaults__ or {}), "reference": reference}
    monkeypatch.setattr(run.run, "__kwdefaults__", given)
    monkeypatch.setattr(verdict, "LATE_SECONDS", 60.0)
    monkeypatch.setattr(verdict, "BUSY", 60.0)
    monkeypatch.setattr(gate, "PROMPTS", 4)


SMALL = ("--input-tokens", "8", "--output-tokens", "6", "--requests", "20", "--concurrency", "1,4")


def test_a_run_its_card_its_rows_and_what_it_compares_with(
    accelmark: Accelmark, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there
    given = ("--weights", str(weights), *SMALL, "--token-variable", "MINE")
    with Mock(Manners(token=SECRET)).running() as url:
        code, card, said = accelmark("serve-bench", "--endpoint", url, *given)
        assert code == 0, card + said
        again, *_ = accelmark("serve-bench", "--endpoint", url, *given)
        assert again == 0
    assert max(map(len, card.splitlines())) <= 80
    assert "2 of 2 cases OK" not in card, "a server that ran before is one launch"
    plain = " ".join(card.split())
    for words in (
        "server: mock 1.2.3, serving m; one launch: no interval",
        "checked: log-probabilities before the load off by 0 (tolerance 0.045);",
        "client: took up to",
        "speculation: not observable",
        "run again with more --launches, and --server-command",
    ):
        assert words in plain, card
    first, second = sorted(Path("runs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    text = first.read_text("utf-8")
    assert SECRET not in text and "127.0.0.1" not in text and str(weights) not in text
    rows = json.loads(accelmark("report", str(first), "--format", "json")[1])
    row = (rows if isinstance(rows, list) else rows["rows"])[1]
    assert (row["server"], row["launches"], row["ci_low"]) == ("mock 1.2.3", 1, None)
    assert row["cached_prompt_tokens"] == 0 and row["client_late_p99_seconds"] >= 0
    assert row["peak_memory_bytes"] is None and row["energy_absent"].startswith("not observed")
    header = accelmark("report", str(first), "--format", "csv")[1].splitlines()[0]
    assert "client_busy_fraction" in header
    code, compared, said = accelmark("compare", str(first), str(second))
    assert code == 0 and "no interval" in compared, compared + said


def test_a_server_that_is_started_for_each_launch_has_an_interval(
    tmp_path: Path, weights: Path, accelmark: Accelmark
) -> None:
    """Three servers, one after the other; in the record stands how, without its secrets."""
    import contextlib

    mocks = [Mock(Manners()) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        started: list[str] = []

        class Process:
            """In the place of a server's process: the next mock, on the same port."""

            def __init__(self, command: str) -> None:
                started.append(command)
                self.one = contextlib.ExitStack()
                mock = mocks.pop()
                mock.port = port
                self.one.enter_context(mock.running())

            async def ready(self, *given: Any) -> None:
                return None

            def stop(self) -> None:
                self.one.close()

        with Mock(Manners()).running() as url:
            port = int(url.rpartition(":")[2])
        patch.setattr("bench.serving.server.Process", Process)
        command = "serve /srv/secret-place/model --api-key hunter22 --port 1"
        code, card, said = accelmark(
            *("serve-bench", "--endpoint", url, "--weights", str(weights), *SMALL),
            *("--server-command", command, "--launches", "3"),
        )
    assert code == 0, card + said
    assert started == [command] * 3 and "each launch a start of its own" in card
    (path,) = Path("runs").glob("*.jsonl")
    text = path.read_text("utf-8")
    assert "hunter22" not in text and "secret-place" not in text
    file = read(path)
    assert [launch.launch for launch in file.launches] == [0, 0, 1, 1, 2, 2]
    seeds = {launch.seed for launch in file.launches}
    assert len(seeds) == 3 and file.run.settings.launches == 3
    loads = {
        launch.outcome.served.load
        for launch in file.launches
        if isinstance(launch.outcome, Measured) and launch.outcome.served
    }
    assert len(loads) == 1 + 1, "one a concurrency, whatever the launch"
    served = file.launches[0].endpoint
    assert served is not None and served.server.command[:2] == ("serve", "model")


def test_a_launch_that_cannot_begin_costs_itself_alone(
    accelmark: Accelmark, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of four serves another model, the third is cut short: the first is measured."""
    launch = session.launch
    started: list[int] = []

    def one(ask: Any, number: int, *rest: Any) -> Any:
        started.append(number)
        if number == 1:
            raise ServerError("--model m: the server has n. Name one.")
        if number == 2:
            raise session.Interrupted(launch(ask, number, *rest))
        return launch(ask, number, *rest)

    monkeypatch.setattr(run, "launch", one)
    with Mock(Manners()).running() as url:
        given = ("--server-command", "serve", "--launches", "4")
        monkeypatch.setattr("bench.serving.server.nobody_there", ready)
        monkeypatch.setattr("bench.serving.server.Process", Nobody)
        code, _, said = accelmark(
            "serve-bench", "--endpoint", url, "--weights", str(weights), *SMALL, *given
        )
        assert code == 130
    (path,) = Path("runs").glob("*.jsonl")
    file = read(path)
    assert started == [0, 1, 2] and file.end is not None and file.end.reason == "interrupted"
    assert [isinstance(launch.outcome, Measured) for launch in file.launches] == [
        *(True, True, False, False, True, True)
    ]
    assert f"record: {path}" in said


async def ready(pool: Any) -> None:
    """In the place of `server.nobody_there`."""


class Nobody:
    """In the place of a server's process, where one answers already."""

    def __init__(self, command: str) -> None:
        pass

    async def ready(self, *given: Any) -> None:
        pass

    def stop(self) -> None:
        pass


def test_a_token_that_a_server_repeats_is_not_in_the_record(
    accelmark: Accelmark, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    mock = Mock(Manners(token=SECRET, error="status", says=f"no room for {SECRET}"))
    with mock.running() as url:
        code, card, said = accelmark(
            *("serve-bench", "--endpoint", url, "--weights", str(weights), *SMALL),
            *("--token-variable", "MINE"),
        )
    why = "launch 0: error in warm-up: status 503"
    assert said.count(why) == 1 and SECRET not in said, "once for both cases, and whole"
    assert code == 1 and "no room for (not recorded)" in " ".join(card.split())
    (path,) = Path("runs").glob("*.jsonl")
    assert SECRET not in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--launches", "3"), "a server that runs already is one launch"),
        (("--token-variable", "NOBODY_SET_THIS"), "is not set, or holds no token"),
        (("--ca", "ca.pem"), "the endpoint is http://"),
        (
            ("--endpoint", "https://127.0.0.1:9", "--ca", "none.pem"),
            "none.pem: no certificates in PEM form can be read there ([Errno 2] No such file",
        ),
        (("--concurrency", "4,4"), "each number once"),
        (("--concurrency", "0"), "a whole number from 1 up"),
        (
            ("--launches", "1001", "--server-command", "x"),
            f"--launches 1001: give a whole number from 1 to {MOST_LAUNCHES}",
        ),
        (("--seed", "9223372036854775808"), "give a whole number from 0 to 2^63 - 1"),
        (("--rate", "-1"), "a number above 0"),
        (("--rate", "1,,2"), "--rate 1,,2: give a number above 0, or several with commas"),
        (("--requests", "5"), "at least 16 of concurrency 4"),
        (("--input-tokens", "4000"), "holds 2048"),
        (("--server-command", "serve 'x"), "Quote it as for a shell"),
        (("--endpoint", "http://198.51.100.7:1", "--device", "cpu"), "is not this host"),
    ],
)
def test_what_cannot_be_asked_is_said(
    accelmark: Accelmark, weights: Path, words: tuple[str, ...], why: str
) -> None:
    endpoint = () if "--endpoint" in words else ("--endpoint", "http://127.0.0.1:9")
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    small = [word for option, value in pairs if option != words[0] for word in (option, value)]
    code, _, said = accelmark("serve-bench", *endpoint, "--weights", str(weights), *small, *words)
    assert code == 2 and re.search(re.escape(why), said), said
    assert not Path("runs").exists()


def test_no_server_leaves_a_message(accelmark: Accelmark, weights: Path) -> None:
    with Mock(Manners()).running() as url:
        pass
    code, _, said = accelmark("serve-bench", "--endpoint", url, "--weights", str(weights), *SMALL)
    assert code == 2 and "no connection" in said and "Traceback" not in said
    assert list(Path("runs").iterdir()) == []


def test_a_model_that_nobody_exported_is_refused(accelmark: Accelmark, tmp_path: Path) -> None:
    code, _, said = accelmark(
        *("serve-bench", "--endpoint", "http://127.0.0.1:9", "--weights", str(tmp_path))
    )
    assert code == 2 and "not a model that `accelmark export-model` wrote" in said


def test_a_load_of_our_own_engine_is_never_the_same_work() -> None:
    wanted: Asks = asks()
    (case,) = cases(wanted, MANIFEST)
    assert case.workload == "endpoint" and case.execution == "server"
    assert case.parameters["weights"] == MANIFEST.digest


def test_export_model_writes_a_folder_and_says_what_it_is(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    code, said, _ = accelmark("export-model", "tiny-untied", "out")
    assert code == 0 and "tiny-untied bf16, 176,576 parameters" in said
    assert export.read(Path("out")).digest in said
    code, _, said = accelmark("export-model", "smollm2-135m", "other")
    assert code == 2 and "Did you mean `smollm2-135m-untied`?" in said
    code, _, said = accelmark("export-model", "tiny-untied", "other", "--seed", str(2**63))
    assert code == 2 and "give a whole number from 0 to 2^63 - 1" in said


def test_help_and_guide_say_how_many_requests_a_load_has(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("serve-bench", "--help")
    said = f"{ROUNDS} for each in flight, {LEAST_REQUESTS} at least."
    assert code == 0 and f"Of each load. Default: {said}" in " ".join(out.split())
    assert said in guide.page("serve-bench").text


def test_the_guide_says_what_is_right_and_when_an_open_load_is_full() -> None:
    said = " ".join(guide.page("serve-bench").text.split())
    assert f"within {ROUNDING:g} times that of the same model" in said
    assert f"on this host, or {FLOOR:g}." in said and bound(0.0) == FLOOR
    assert "begins when a tenth of the requests has ended" in said
    open_ones = cases(asks(concurrencies=(), offline=True, rates=(2.0,), requests=200), MANIFEST)
    assert [ramp_of(case) for case in open_ones] == [20, 20]

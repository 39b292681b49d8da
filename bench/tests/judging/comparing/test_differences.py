"""In what two runs differ."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
import pytest

from bench.judging.comparing.compare import compare
from bench.records.endpoint import Endpoint, Server
from bench.records.run import RunFile, Settings
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, FAST, FIXED, GEMM, SLOW, run, seen, steps
from bench.tests.served_runs import measured as load_measured
from bench.tests.served_runs import serve_case
from bench.tests.served_runs import served as load_served
from bench.tests.values import another, failed, make_file, make_launch, make_measured


def differences(base: RunFile, other: RunFile) -> dict[str, tuple[str, str]]:
    return {d.name: (d.base, d.other) for d in compare(base, other).differences}


def on(system: str) -> RunFile:
    return run(FAST, host={"system": system})


@pytest.mark.parametrize(
    ("base", "other", "listed"),
    [
        ("Linux 6.18.44-fc", "Linux 6.18", False),
        ("Linux 6.18", "Linux 6.18.44-fc", False),
        ("Linux 6.18", "Linux 6.17.1", True),
        ("(private)", "odd", False),
        ("Linux 6.18.44-fc", "Linux 6.18.45-fc", True),
    ],
)
def test_a_published_run_is_on_the_system_that_it_was_on(
    base: str, other: str, listed: bool
) -> None:
    """Published is only a system's release; of two whose whole is known, it counts."""
    assert ("host system" in differences(on(base), on(other))) == listed


@pytest.mark.parametrize(("version", "listed"), [("0.1", False), ("0.2", True)])
def test_what_an_older_version_did_not_ask_of_a_device_is_no_difference(
    version: str, listed: bool
) -> None:
    device = {"backend": "cpu", "index": 0, "name": "Fake CPU"}
    base = run(FAST, host={"accelmark": version}, device={**device, "facts": {"driver": "1"}})
    facts = {"driver": "2", "board": "new"}
    other = run(SLOW, host={"accelmark": "0.2"}, device={**device, "facts": facts})
    for found in (differences(base, other), differences(other, base)):
        assert "driver" in found and ("board" in found) == listed


def test_what_differs_is_listed_and_what_is_equal_is_not() -> None:
    base = seen(
        {
            "torch": "2.13.0",
            "packages": {"transformers": "5.0.0", "numpy": "2.0"},
            "plug_ins": {"theirs": "1.0", "alike": "3"},
            "threads": 8,
            "variables": {"OMP_NUM_THREADS": "8", "LD_PRELOAD": "x.so"},
            "device": {"facts": {"driver": "580"}, "memory_bytes": 1},
            "device_state": {"power_limit": "700 W", "sm_clock_mhz": "1980"},
            "job": {"memory_format": "channels_last"},
        }
    )
    other = seen(
        {
            "torch": "2.12.0",
            "packages": {"transformers": "5.0.0", "numpy": "2.1"},
            "plug_ins": {"theirs": "1.1", "alike": "3"},
            "threads": 8,
            "variables": {"LD_PRELOAD": "x.so"},
            "device": {"facts": {"driver": "550"}, "memory_bytes": 2},
            "device_state": {"power_limit": "500 W", "sm_clock_mhz": "1200"},
            "job": {"memory_format": "contiguous"},
        }
    )
    assert differences(base, other) == {
        "torch": ("2.13.0", "2.12.0"),
        "numpy": ("2.0", "2.1"),
        "theirs": ("1.0", "1.1"),
        "OMP_NUM_THREADS": ("8", "absent"),
        "driver": ("580", "550"),
        "power_limit": ("700 W", "500 W"),
        "bert-train memory_format": ("channels_last", "contiguous"),
    }
    assert differences(base, another(base)) == {}
    said = render([compare(base, another(base))], Canvas())
    assert "The runs differ in nothing that both recorded." in said
    assert "not known of base and other: an older version" in said and "nothing else" not in said
    whole = seen({"variables": {}, "variables_looked_for": ["OMP_*"]})
    said = render([compare(whole, another(whole))], Canvas())
    assert "The runs differ in nothing else." in said and "not known" not in said


def served_by(version: str = "1", **settings: str) -> RunFile:
    return served(
        Server(
            name="x",
            version=version,
            model="m",
            settings=settings,
            started="by the run",
            same_host=True,
        )
    )


def served(server: Server, prompts: Literal["token ids", "text"] = "token ids") -> RunFile:
    seen = Endpoint(server=server, weights="0", prompts=prompts, warm_up_requests=1)
    return make_file([CASE], [make_launch(make_measured(), CASE, endpoint=seen)], settings=FIXED)


def test_a_server_whose_prompts_another_process_reads_may_be_faster_by_it() -> None:
    """16 prompts of 7 tokens, all counted as cached."""
    case, sides = serve_case(), []
    for cached in (0, 16 * 6):
        server = Server(
            name="x", version="1", model="m", settings={}, started="by the run", same_host=True
        )
        seen = Endpoint(
            server=server, weights="0", prompts="text", warm_up_requests=1, cached_tokens=cached
        )
        launch = make_launch(load_measured(load_served()), case, endpoint=seen)
        sides.append(
            make_file([case], [launch], settings=FIXED, run_id=f"20260101T000000Z-{cached:04}")
        )
    assert differences(*sides) == {"server's prefill": ("absent", "another process")}
    said = render([compare(sides[0], sides[1])], Canvas(width=200))
    assert re.search(r"MAY EXPLAIN IT:? +server's prefill: absent \| another process", said), said


def test_settings_of_a_server_that_an_older_version_left_out_are_no_difference() -> None:
    """It withheld every token, and all behind the first 200; what is null has no value in any."""
    new = served_by(tokenizer_mode="auto", quantization="fp8", max_total_tokens="5")
    other = {"server quantization": ("absent", "fp8")}
    assert differences(served_by(), new) == other
    said = render([compare(served_by(), new)], Canvas())
    assert "tokenizer_mode" not in said and "MAY EXPLAIN" not in said
    first = {f"a{n:03}": "1" for n in range(200)}
    cut, whole = served_by("0", **first), served_by(**first, attention_backend="fa3")
    assert differences(cut, whole) == {"server version": ("0", "1")}
    assert differences(whole, served_by("2", **first)) == {"server version": ("1", "2")}
    few = served_by(a000="1")
    assert differences(served_by(a000="1", attention_backend="fa3"), few) == {
        "server attention_backend": ("fa3", "absent")
    }
    today = [
        served_by(tokenizer_mode="auto"),
        served_by(tokenizer_mode="auto", max_total_tokens="5"),
    ]
    assert differences(*today) == {"server max_total_tokens": ("absent", "5")}, "null was no value"
    modes = [served_by(tokenizer_mode=mode) for mode in ("auto", "slow")]
    assert differences(*modes) == {"server tokenizer_mode": ("auto", "slow")}


@pytest.mark.parametrize("count", [0, 200])
def test_how_a_server_was_started_and_asked_is_compared(count: int) -> None:
    """However many of its settings are known."""
    one = Server(
        name="vllm",
        version="1",
        model="m",
        settings={f"a{n}": "1" for n in range(count)},
        started="by the run",
        command=("vllm", "serve", "w", "--note", "a b"),
        same_host=True,
    )
    other = msgspec.structs.replace(one, command=(*one.command, "--enforce-eager", "-tp", "2"))
    command = "vllm serve w --note 'a b'"
    assert differences(served(one), served(other)) == {
        "server's command": (command, f"{command} --enforce-eager -tp 2")
    }
    said = render([compare(served(one), served(other))], Canvas())
    assert "MAY EXPLAIN IT server's command" in " ".join(said.split())
    assert differences(served(one), served(one, "text")) == {
        "server prompts": ("token ids", "text")
    }
    far = msgspec.structs.replace(one, started="before the run", command=(), same_host=False)
    assert differences(served(one), served(far)) == {
        "server started": ("by the run", "before the run"),
        "server same_host": ("True", "False"),
        "server's command": (command, "absent"),
    }


def test_device_host_commit_and_settings() -> None:
    device = {"backend": "cpu", "index": 0, "name": "Fake CPU"}
    git = {"commit": "0123456789abcdef", "changed": True}
    base = run(FAST, device=device, host={"cpu": "A", "git": git, "load_1min": 1.0})
    other = run(
        SLOW,
        device={**device, "name": "Other CPU"},
        host={"cpu": "B", "git": {**git, "changed": False}, "load_1min": 9.0},
        settings=Settings(launches=10, block_seconds=0.5),
    )
    assert differences(base, other) == {
        "device": ("Fake CPU", "Other CPU"),
        "accelmark commit": ("0123456789ab with changes", "0123456789ab"),
        "setting block_seconds": ("0.05", "0.5"),
        "host cpu": ("A", "B"),
    }


def varying(*values: Any) -> RunFile:
    launches = [
        make_launch(outcome, CASE, launch=k, order=k, environment={"threads": value})
        for k, (outcome, value) in enumerate(zip(steps([0.01] * len(values)), values, strict=True))
    ]
    return make_file([CASE], launches, settings=FIXED)


def test_values_that_vary_within_a_run() -> None:
    assert differences(varying(1, 2, 1), varying(1, 1, 1)) == {"threads": ("1, 2", "1")}
    assert differences(varying(1, 2, 1), varying(2, 1, 1)) == {}, "in another order"
    many = differences(varying(1, 2, 3, 4, 5), varying(1, 2, 3, 4))
    assert many == {"threads": ("1, 2, 3, ...", "1, 2, 3, ...")}


def test_a_kind_of_work_that_one_run_lacks_is_no_difference_of_how_it_was_run() -> None:
    job = {"job": {"memory_format": "channels_last"}}
    launch = make_launch(make_measured(), GEMM, environment=job)
    base = seen({})
    both = make_file([CASE, GEMM], [*base.launches, launch], settings=FIXED)
    assert differences(both, base) == {}


def test_what_only_one_runs_launches_say_is_no_difference() -> None:
    """The other was interrupted before its first, or its launches ended before they said it."""
    base = seen({"threads": 2, "mkldnn": True, "variables": {"OMP_NUM_THREADS": "2"}})
    launches = [make_launch(failed(), CASE, environment={})]
    for other in (make_file([CASE], [], end=None), make_file([CASE], launches)):
        assert "threads" not in differences(base, other) | differences(other, base)
        card = render([compare(base, other)], Canvas(width=200))
        assert "MAY EXPLAIN" not in card and "OMP_NUM" not in card and "| absent" not in card


@pytest.mark.parametrize("odd", [[], None, 3, "x", {"facts": 3}], ids=repr)
def test_descriptions_of_another_version_are_borne(odd: Any) -> None:
    base = seen({"packages": odd, "device": odd, "job": odd, "variables": odd})
    render([compare(base, run(FAST, host={"git": odd}))], Canvas())

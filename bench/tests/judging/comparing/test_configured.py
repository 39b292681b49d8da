"""Settings that may be why one run is faster: named before any figure, and no chip judged by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import Comparison
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.markdown import REPORT as MARKDOWN
from bench.reports.page.pair import Pair
from bench.reports.page.side import Side
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import FIXED, GEMM, steps
from bench.tests.values import make_file, make_launch

FAMILIES = ["DNNL_*", "OMP_*", "MALLOC_*", "NCCL_*", "TORCH*", "UCX_*", "FI_*", "NVSHMEM_*", "ZE_*"]
CPU = {"backend": "cpu", "index": 0, "name": "Fake CPU"}


def ran(
    seconds: float = 0.01,
    variables: dict[str, str] | None = None,
    device: dict[str, Any] = CPU,
    run: dict[str, Any] | None = None,
    **environment: Any,
) -> RunFile:
    """A run of one matrix product, in five launches, that says which families it looked for."""
    told = {"variables": variables or {}, "variables_looked_for": FAMILIES, **environment}
    told = {name: value for name, value in told.items() if value is not None}
    launches = [
        make_launch(outcome, GEMM, launch=k, order=k, environment=told)
        for k, outcome in enumerate(steps([seconds + k * 1e-6 for k in range(5)], flop=100))
    ]
    return make_file([GEMM], launches, settings=FIXED, device=device, **(run or {}))


def said(comparison: Comparison, *, wide: bool = False) -> str:
    """The card, its lines as one text."""
    return " ".join(render([comparison], Canvas(width=100, wide=wide)).split())


def test_a_setting_that_differs_is_named_before_the_ratio_and_is_not_the_chip() -> None:
    """769 and 2.73 GFLOP/s of one CPU: once `chip 0.00 x software 1.00`."""
    found = compare(ran(), ran(2.8, {"DNNL_MAX_CPU_ISA": "SSE41"}))
    card = said(found)
    named = "SETTINGS DIFFER DNNL_MAX_CPU_ISA: absent | SSE41"
    assert 0 < card.index(named) < card.index(" SLOWER*"), "the verdict stays, marked"
    assert card.count("*: settings differ") == 1
    assert "chip x software" not in card and "ceiling x share" in card and "0.0036 x 1.00" in card
    assert "0.0036 = ceiling 0.0036 x share 1.00" in said(found, wide=True)
    assert (
        "No verdict on the chip: a setting may be the cause: DNNL_MAX_CPU_ISA (absent, SSE41)"
        in card
    )
    assert "run both under the same settings: DNNL_MAX_CPU_ISA" in card
    row = flat(found)
    (case,) = row["cases"]
    assert (case["chip_ratio"], case["software_ratio"]) == (None, None)
    assert case["settings_differ"] and case["ceiling_ratio"] == pytest.approx(0.01 / 2.8, rel=0.01)
    assert row["settings_that_differ"] == [
        {"name": "DNNL_MAX_CPU_ISA", "base": "absent", "other": "SSE41"}
    ]
    assert "a setting may be the cause" in row["chip_doubt"]


def chip(
    name: str, architecture: str = "gfx950", units: str = "256", gb: float = 288, **facts: str
) -> RunFile:
    told = {"architecture": f"{architecture}:xnack-", "multiprocessors": units, **facts}
    whole = round(gb * 1e9)
    device = {"backend": "some", "index": 0, "name": name, "memory_bytes": whole, "facts": told}
    return ran(0.01, device=device)


def test_one_chip_is_one_kind_by_whatever_name_its_driver_has_for_it() -> None:
    """Names are of a table that an image may lack; `chip 0.80 x software 1.00` of one MI355X."""

    def doubt(base: RunFile, other: RunFile) -> str:
        return compare(base, other).configured.chip_doubt

    known = chip("AMD Instinct MI355X", driver="6.16.6")
    for name in ("AMD Radeon Graphics", "", "AMD gfx950, 256 CUs", "AMD Instinct MI355X"):
        newer = chip(name, driver="7.2.4")
        for pair in ((known, newer), (newer, known)):
            assert doubt(*pair).startswith("it is one kind of device, "), name
    less = chip("AMD Radeon Graphics", driver="7.2.4", gb=256)
    assert doubt(known, less) == doubt(less, known) == "", "one that has less memory"
    newer = chip("AMD Instinct MI350X", driver="7.2.4")
    assert doubt(known, newer) == "", "two names are two chips"
    two = (chip("AMD Radeon VII", driver="6.1"), chip("AMD Instinct MI50", driver="7.2"))
    assert doubt(*two) == "", "a name without a number is one"
    for name in ("AMD Radeon Graphics", "AMD Instinct MI355X"):
        for parts in (("gfx942", "304"), ("gfx950", "32")):
            other = chip(name, *parts, driver="7.2.4")
            assert doubt(chip(name, driver="6.16.6"), other) == "", "a part, or another chip"
    unsaid = ran(device={**CPU, "name": "AMD Radeon Graphics", "facts": {"driver": "7.2.4"}})
    assert doubt(known, unsaid) == "", "what the other does not say is not known to be alike"
    older = ran(device={**CPU, "name": "AMD Radeon Graphics", "facts": {"driver": "6.16.6"}})
    assert doubt(older, unsaid).startswith("it is one kind of device, ")


def with_torch(version: str, seconds: float = 0.01, name: str = "Fake CPU") -> RunFile:
    device = {**CPU, "name": name, "facts": {"torch": version, "usable_cores": "2"}}
    return ran(seconds, device=device, torch=version)


def test_what_another_version_makes_of_one_chip_is_not_the_chips() -> None:
    """As `ab --python OLD --python NEW` tries: once `chip 1.20 x software 1.00`."""
    found = compare(with_torch("2.6.0+cpu", 0.012), with_torch("2.13.0+cpu", 0.01))
    assert found.configured.chip_doubt == (
        "it is one kind of device, and a ceiling is each version's own: torch (2.6.0+cpu, "
        "2.13.0+cpu)"
    )
    assert found.configured.doubt_code == "versions-differ"
    (case,) = flat(found)["cases"]
    assert (case["chip_ratio"], case["settings_differ"]) == (None, False)
    other = compare(with_torch("2.6.0+cpu", 0.012), with_torch("2.13.0+cpu", 0.01, "New CPU"))
    assert not other.configured.chip_doubt, "of two chips each has the version that it needs"


@pytest.mark.parametrize(("vendor", "differ"), [("Moore Threads", False), ("Cambricon", True)])
def test_what_one_vendors_plug_in_needs_is_no_setting_of_anothers(
    vendor: str, differ: bool
) -> None:
    """Of one vendor's, an older version let operators run on the host."""
    device = {"backend": "generic", "index": 0, "name": "MLU590", "vendor": "Cambricon"}
    looked: dict[str, Any] = {
        "variables_looked_for": list(catalogue.backend("generic").recorded_variables())
    }
    base = ran(0.01, {"ENABLE_FALLBACK_TO_CPU": "0"}, device, **looked)
    other = ran(0.01, device={**device, "vendor": vendor}, **looked)
    assert bool(compare(base, other).configured.settings) is differ
    said = {"ENFLAME_LOG_DEBUG_LEVEL": "DEBUG", "ENFLAME_LOG_DEBUG_MOD": "FALLBACK"}
    announced = ran(0.01, said, {**device, "vendor": "Enflame"}, **looked)
    assert not compare(announced, other).configured.settings, "no user sets it for a worker"


def test_other_reports_name_it_too() -> None:
    base, other = ran(), ran(2.8, {"DNNL_MAX_CPU_ISA": "SSE41"})
    text = MARKDOWN.render([base, other], Canvas())
    assert text.index("**Settings differ**") < text.index("| case | base | other")
    assert "**SLOWER**: settings differ" in text
    pair = Pair(Side(0, base), Side(1, other))
    assert pair.settings == ["Settings differ: DNNL_MAX_CPU_ISA (run 0: absent, run 1: SSE41)."]


def test_without_a_difference_the_chip_is_judged() -> None:
    same = {"DNNL_MAX_CPU_ISA": "AVX2"}
    found = compare(ran(0.01, same), ran(0.005, same))
    assert not found.configured.settings and not found.configured.chip_doubt
    card = said(found)
    assert "chip x software" in card and "settings differ" not in card
    assert "2.00 = chip 2.00 x software 1.00" in said(found, wide=True)
    assert flat(found)["cases"][0]["chip_ratio"] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("old", ["base", "other", "both"])
def test_what_an_older_version_did_not_look_for_is_not_known(old: str) -> None:
    sides = [ran(0.01), ran(0.005)]
    for index, who in enumerate(("base", "other")):
        if old in (who, "both"):
            sides[index] = ran(0.01 / (index + 1), variables_looked_for=None)
    found = compare(sides[0], sides[1])
    card = said(found)
    assert "differ in nothing else" not in card and "chip x software" not in card
    assert "No verdict on the chip: whether a setting is the cause is not known" in card
    assert flat(found)["cases"][0]["chip_ratio"] is None
    assert len(found.configured.not_recorded) == (2 if old == "both" else 1)


def test_launches_that_say_nothing_are_no_older_version() -> None:
    silent = ran(variables_looked_for=None)
    launches = [msgspec.structs.replace(x, environment={}) for x in silent.launches]
    found = compare(msgspec.structs.replace(silent, launches=launches), ran())
    assert found.configured.not_recorded == ("base: no launch says its environment variables",)


@pytest.mark.parametrize(
    "name",
    [
        *("CUDA_VERSION", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "ROCR_VISIBLE_DEVICES"),
        *("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR", "GPU_DEVICE_ORDINAL"),
    ],
)
def test_furniture_and_the_choice_of_a_device_are_listed_and_no_cause(name: str) -> None:
    found = compare(ran(0.01), ran(0.005, {name: "1"}))
    assert [d.name for d in found.differences] == [name] and not found.configured.settings


@pytest.mark.parametrize(
    "name", ["NCCL_ALGO", "TORCH_NCCL_BLOCKING_WAIT", "UCX_TLS", "FI_PROVIDER", "NVSHMEM_X"]
)
def test_variables_of_links_are_settings_of_several_devices_alone(name: str) -> None:
    assert compare(ran(), ran(variables={name: "1"})).configured.settings == ()
    asked = ran(variables={name: "1"}, variables_compared=[name])
    assert [one.name for one in compare(ran(), asked).configured.settings] == [name]
    world = {"devices": 2, "hosts": 1}
    (found,) = compare(
        ran(world=world), ran(variables={name: "1"}, world=world)
    ).configured.settings
    assert (found.name, found.base, found.other) == (name, "absent", "1")


def test_a_part_of_a_device_is_another_chip() -> None:
    """`0` is a card, `0.0` a tile of it, by one name."""
    sides = ran(variables={"ZE_AFFINITY_MASK": "0"}), ran(variables={"ZE_AFFINITY_MASK": "0.0"})
    assert [one.name for one in compare(*sides).configured.settings] == ["ZE_AFFINITY_MASK"]
    sides = ran(variables={"ZE_AFFINITY_MASK": "0"}), ran(variables={"ZE_AFFINITY_MASK": "1"})
    assert compare(*sides).configured.settings == ()


def test_what_one_side_did_not_look_for_is_no_difference() -> None:
    sides = ran(), ran(variables={"UCX_TLS": "rc"}, world={"devices": 2, "hosts": 1})
    assert [one.name for one in compare(*sides).configured.settings] == ["UCX_TLS"]
    older = ran(variables_looked_for=["OMP_*"]), ran(variables={"DNNL_VERBOSE": "1"})
    assert compare(*older).configured.settings == ()


def test_what_a_launcher_sets_is_no_setting() -> None:
    world = {"devices": 2, "hosts": 1}
    given = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    assert not compare(ran(variables=given, world=world), ran(world=world)).configured.settings


def test_what_a_backend_sets_itself_is_no_setting_against_another_backend() -> None:
    own = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    device = {"backend": "unheard of", "index": 0, "name": "Other"}
    assert not compare(ran(0.01, own), ran(0.005, device=device)).configured.settings
    users = {**own, "MALLOC_MMAP_THRESHOLD_": "1"}
    (found,) = compare(ran(0.01, users), ran(0.005, device=device)).configured.settings
    assert (found.name, found.base, found.other) == ("MALLOC_MMAP_THRESHOLD_", "1", "absent")
    assert compare(ran(0.01, own), ran(0.01)).configured.settings, "on one backend it is one"


AB = {"run": {"run_id": "20260101T000000Z-abcd-a"}}, {"run": {"run_id": "20260101T000000Z-abcd-b"}}
ONE = {"OMP_NUM_THREADS": "1"}
COMPARED: dict[str, Any] = {"variables_compared": ["OMP_NUM_THREADS"]}


def test_the_variable_of_an_ab_is_what_is_compared() -> None:
    found = compare(ran(0.01, **AB[0]), ran(0.02, ONE, **AB[1], **COMPARED))
    assert found.configured.compared == ("OMP_NUM_THREADS",) and not found.configured.unintended
    card = said(found)
    assert "COMPARED OMP_NUM_THREADS: absent | 1" in card and "SETTINGS DIFFER" not in card
    assert "settings differ" not in card and "chip x software" not in card
    alone = compare(ran(0.01), ran(0.02, ONE, **AB[1], **COMPARED))
    assert "SETTINGS DIFFER OMP_NUM_THREADS" in said(alone), "another run is no side of that ab"


def host(**facts: Any) -> dict[str, Any]:
    return {"run": {"host": facts}}


@pytest.mark.parametrize(
    ("base", "other", "name"),
    [
        (host(cpu_quota_cores=None), host(cpu_quota_cores=0.5), "host cpu_quota_cores"),
        (host(affinity_cores=8), host(affinity_cores=1), "host affinity_cores"),
        (host(governor="performance"), host(governor="powersave"), "host governor"),
        (
            {"device_state": {"power_limit_watts": "700"}},
            {"device_state": {"power_limit_watts": "500"}},
            "power_limit_watts",
        ),
        ({"threads": 8}, {"threads": 1}, "threads"),
        ({"cpu_capability": "AVX512"}, {"cpu_capability": "DEFAULT"}, "cpu_capability"),
    ],
)
def test_other_settings_than_variables(
    base: dict[str, Any], other: dict[str, Any], name: str
) -> None:
    found = compare(ran(0.01, **base), ran(0.02, **other))
    assert [d.name for d in found.configured.settings] == [name]
    assert "chip x software" not in said(found)


def test_what_a_variable_explains_is_no_second_setting() -> None:
    found = compare(ran(0.01, threads=2), ran(0.02, ONE, threads=1))
    assert [d.name for d in found.configured.settings] == ["OMP_NUM_THREADS"]


@pytest.mark.parametrize("odd", [[], None, 3, "x", {"facts": 3}], ids=repr)
def test_descriptions_of_another_version_are_borne(odd: Any) -> None:
    odd_one = ran(0.01, device_state=odd, variables_compared=odd, variables_looked_for=odd)
    render([compare(odd_one, ran(variables={"A": "1"}))], Canvas())


def test_what_an_older_version_did_not_ask_of_the_host_is_no_setting_that_differs() -> None:
    """Its record lacks the fact; that is not another value of it."""
    new = host(affinity_cores=2, cpu_quota_cores=0.5)
    found = compare(ran(**host()), ran(**new))
    assert found.configured.settings == ()
    assert compare(ran(**new), ran(**host())).configured.settings == ()


def test_what_an_older_version_did_not_ask_of_the_device_is_none_either() -> None:
    def state(**facts: str) -> RunFile:
        return ran(device_state={"power_limit_watts": "700", **facts})

    old, new = state(), state(ecc_mode="1")
    assert compare(old, new).configured.settings == compare(new, old).configured.settings == ()
    (named,) = compare(new, state(ecc_mode="0")).configured.settings
    assert named.name == "ecc_mode"


def test_what_one_framework_alone_says_of_its_stack_is_no_setting() -> None:
    """Both have threads, and those differ."""
    torchs = ran(mkldnn=True, cpu_capability="AVX512", threads=1)
    others = ran(threads=2, framework="other", run={"framework": "other"})
    found = compare(torchs, others)
    assert [one.name for one in found.configured.settings] == ["threads"]
    (named,) = (one for one in found.differences if one.name == "framework")
    assert (named.base, named.other) == ("torch", "other")
    assert "framework: torch | other" in said(found)


def test_chip_against_chip_each_in_its_own_framework() -> None:
    """A ratio, and in one place by what it was reached on either side."""
    chips = ("cuda", "NVIDIA H100", "torch"), ("ascend", "Ascend910B4", "mindspore")
    base, other = (
        ran(
            seconds,
            device={"backend": backend, "index": 0, "name": name},
            framework=framework,
            run={"framework": framework},
        )
        for seconds, (backend, name, framework) in zip((0.01, 0.011), chips, strict=True)
    )
    found = compare(base, other)
    (case,) = found.cases
    assert case.verdict == "SLOWER"
    named = {one.name: (one.base, one.other) for one in found.differences}
    assert named["framework"] == ("torch", "mindspore")
    assert named["device"] == ("NVIDIA H100", "Ascend910B4")
    card = said(found)
    assert "framework: torch | mindspore" in card and "NVIDIA H100" in card
    assert found.configured.chip_doubt == "a ceiling is each framework's own: torch, mindspore"


def test_the_threads_that_ranks_of_a_host_are_given_are_no_setting() -> None:
    """Two ranks on 2 cores and on 8: each has half of them, and no user said so."""

    def two_ranks(cores: int, threads: int, **changes: Any) -> RunFile:
        device = {**CPU, "name": f"A CPU of {cores}"}
        variables = {"OMP_NUM_THREADS": str(threads)}
        host = {"usable_cores": cores}
        ranks = {"world": {"devices": 2, "shared_host": True}, **changes}
        return ran(variables=variables, device=device, run={"host": host}, **ranks)

    small = two_ranks(2, 1)
    assert compare(small, two_ranks(8, 4)).configured.settings == ()
    (named,) = compare(small, two_ranks(8, 3)).configured.settings
    assert (named.name, named.base, named.other) == ("OMP_NUM_THREADS", "1", "3")
    (named,) = compare(small, two_ranks(8, 4, world=None)).configured.settings
    assert named.name == "OMP_NUM_THREADS", "a user's, where one process computes"

"""The cleaner of texts: every form loses what is private, and what is not private stays."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.records import private
from bench.records.paths import without_paths
from bench.records.private import PRIVATE, cleaned, cleaned_argument, cleaned_facts
from bench.running import child
from bench.running.header import command_line
from bench.tests.publishing.forms import AROUND, forms


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("text", "gone"), forms())
def test_no_form_keeps_what_is_private(text: str, gone: str, around: str) -> None:
    planted = around.format(text)
    assert gone in planted
    found = cleaned(planted)
    assert gone not in found
    assert found.strip() and cleaned(found) == found


@pytest.mark.parametrize(("text", "gone"), forms())
def test_no_word_of_a_command_line_keeps_it(text: str, gone: str) -> None:
    """Where a record is first written: the same forms, and `NAME=` before them."""
    for typed in (text, f"--out={text}", f"--env=CONFIG={text}"):
        assert gone not in " ".join(command_line("accelmark", ["run", typed]))


KEPT = [
    "cannot read x.so: image/s and 3/4 stay, 701 TFLOP/s of 989 too; 5.1e3 GB/s, n/a",
    "a / b, std::vector<c10::Error>, aten::_foreach_add, torch.nn.functional.linear",
    "RuntimeError: CUDA error: out of memory; tried to allocate 20.00 GiB (GPU 0; 79.10 GiB)",
    "2026-11-22T02:45:40.700+00:00, 12:34:56, 45:27.5 after",
    "2.13.0+cpu, 12.4.131, libcudart.so.12, commit 1dd04213cbb2e1f10e6195ddfb8efd24f1f7c76b",
    "AMD EPYC, Intel(R) Xeon(R) Processor @ 2.20GHz, ~5 % of it, 1024x1024x1024",
    "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S, SPX/NPS1 at 1980 MHz/2100 MHz, 350 W/700 W",
    "OperationUtils.mm:1022, x.hip:1234",
    "x.py:1234: in f, RegisterCPU.cc:2300, libc10.so.1, a.b.py, v1.model.pt, README.de.md, x.at(3)",
    "torch.ops.aten.lt, aten.add.to, torch._inductor.ir, llama-3.2-1b:1024",
    "",
    " ",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_not_private_stays(text: str) -> None:
    assert cleaned(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot read ../../me/secret project/x.toml: gone", "cannot read x.toml: gone"),
        ("C:\\Users\\me one\\x.toml failed", "x.toml failed"),
        ("'/home/o'me/x y/z.so' is gone", "'z.so' is gone"),
        ("file:///home/me/x.toml", "x.toml"),
        ("/home/me", "~"),
        ("see /tmp/me/x.txt.", "see x.txt."),
        ('File "/srv/me/a b/x.py", line 3, in f', 'File "x.py", line 3, in f'),
        ("from /srv/of me/", "from (folder)"),
        ("me@node7", PRIVATE),
        ("ME/LAB is full", "LAB is full"),
    ],
)
def test_of_a_path_the_last_name_stays(text: str, left: str) -> None:
    assert cleaned(text) == left


@pytest.mark.parametrize(
    ("word", "left"),
    [
        ("../../me/secret project/x.toml", "x.toml"),
        ("C:\\Users\\me one\\two\\y.toml", "y.toml"),
        ("--env=B=x/y", "--env=B=y"),
        ("--only=llama-*", "--only=llama-*"),
        ("gemm:1", "gemm:1"),
    ],
)
def test_a_word_of_a_command_line_is_one_path(word: str, left: str) -> None:
    assert cleaned_argument(word) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[c10d] failed to connect to [node7.hpc.tu-zqx.de]:29500", "to connect to [{}]:29500"),
        ("peer gpu03.cluster.zqx.ch, and login1.zqx.ai.", "peer {}, and {}."),
        ("from [node7.zqx]:22: node7.zqx:29500 refused", "from [{}]:22: {}:29500 refused"),
        ("n1.zqx.edu.cn (gpu7.zqx.ac.uk)", "{} ({})"),
        ("n1.zqx.edu.py or n2.zqx.co.in", "{} or {}"),
    ],
)
def test_names_of_hosts_are_gone_wherever_they_end(text: str, left: str) -> None:
    assert cleaned(text).endswith(left.format(*[PRIVATE] * 2)) and "zqx" not in cleaned(text)


NAMES = [
    "AMD Radeon RX 6700/6700 XT/6750 XT",
    "Radeon RX 7700S/7600/7600S/7600M XT/PRO W7600",
    "AMD Ryzen AI 9 HX 370 w/ Radeon 890M",
    "AMD Instinct MI250X / MI250",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_device_s_name_keeps_its_slashes(name: str) -> None:
    facts = {"name": name, "nested": [{"cpu": name}]}
    assert cleaned_facts(facts, kinds=("name", "cpu")) == facts


@pytest.mark.parametrize(("text", "gone"), forms())
def test_a_device_s_name_keeps_no_path(text: str, gone: str) -> None:
    found = cleaned_facts({"name": f"Chip of {text}, 6700 XT/6750 XT"}, kinds=("name",))
    assert gone not in found["name"]


@given(st.text(alphabet="ab1:. /\\'\"~@-=(),\n", max_size=60))
def test_any_text_is_cleaned_and_never_emptied(text: str) -> None:
    found = cleaned(text)
    assert bool(found.strip()) == bool(text.strip())


PIECES = (
    "a",
    "/",
    "a/",
    "/a b",
    "a@",
    "ab:",
    "'",
    "'/",
    "~",
    "1.",
    "a.",
    "-",
    "\\ ",
    "0:",
    "user ",
)


def cpu_seconds(text: str) -> float:
    """Of cleaning it, the fastest of three."""
    took = []
    for _ in range(3):
        begun = time.process_time()
        cleaned(text)
        took.append(time.process_time() - begun)
    return min(took)


@pytest.mark.alone
@pytest.mark.parametrize("piece", PIECES)
def test_a_text_of_eight_times_the_length_takes_no_sixty_four_times_as_long(piece: str) -> None:
    """Nothing in it is tried again for every character."""
    short = piece * (4_000 // len(piece))
    assert cpu_seconds(short * 8) < 32 * cpu_seconds(short)


def test_facts_lose_private_names_and_keep_versions() -> None:
    facts = {
        "driver": "24.1.0.3",
        "serial_number": "S1",
        "host_name": "n",
        "nested": [{"uuid": "u", "place": "10.77.0.9", "usable_cores": 2}],
        "packages": {"diffusers": "0.36.0", "user": "me", "superuser": "me"},
        "/home/me/key": 1,
        "host memory": "pinned",
    }
    assert cleaned_facts(facts) == {
        "driver": "24.1.0.3",
        "nested": [{"place": PRIVATE, "usable_cores": 2}],
        "packages": {"diffusers": "0.36.0"},
        "key": 1,
        "host memory": "pinned",
    }


def test_names_of_this_machine_and_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "zqxnode7.cluster")
    monkeypatch.setattr("getpass.getuser", lambda: "zqxuser")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/root"))
    own = private.own_names.__wrapped__()
    assert own == ("zqxnode7.cluster", "zqxnode7", "zqxuser"), "`root` tells nobody from others"
    assert cleaned("rank 0 on ZQXnode7: zqxuser, zqxusers", own=own) == (
        f"rank 0 on {PRIVATE}: {PRIVATE}, zqxusers"
    )


def test_a_user_without_a_home_has_a_name_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number alone, as of `docker run --user 12345`, and no HOME."""

    def nobody(path: str) -> str:
        return path  # as it is where no home can be told

    monkeypatch.setattr("os.path.expanduser", nobody)
    with pytest.raises(RuntimeError):
        Path.home()
    monkeypatch.setattr("socket.gethostname", lambda: "zqxnode7")
    monkeypatch.setattr("getpass.getuser", lambda: "zqxuser")
    assert private.own_names.__wrapped__() == ("zqxnode7", "zqxuser")
    assert without_paths("/opt/lib/libx.so:y") == "libx.so:y"


def test_the_end_of_stderr_names_no_folder_but_the_project_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = Path(bench.__file__).parents[1]
    lines = [
        f'File "{project}/bench/api.py", line 1',
        'File "/srv/zqxword/my plug-in/x.py", line 2',
        "open ../../zqxword/secret zqxword/x.toml by zqxword@node7 on GPU-1f0e8a2c",
        "C:\\Users\\zqxword one\\y.py",
    ]
    text = child.tail(io.BytesIO("\n".join(lines).encode()))
    assert text.splitlines() == [
        'File "./bench/api.py", line 1',
        'File "x.py", line 2',
        f"open x.toml by {PRIVATE} on {PRIVATE}",
        "y.py",
    ]


def test_a_secret_that_looks_like_a_path_is_gone_whole() -> None:
    given = {"REGISTRY_TOKEN": "abcdef/ghijkl/mnopqr"}
    said = child.tail(io.BytesIO(b"no access with abcdef/ghijkl/mnopqr to it"), given)
    assert said == "no access with (not recorded) to it"

"""No locale, code page or odd byte of a name loses a record, or breaks a card, message or page."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.backend import DeviceInfo
from bench.commands import common, streams
from bench.commands.live import LiveFace
from bench.commands.plain import PlainFace
from bench.commands.streams import in_line
from bench.errors import DeviceUnavailable
from bench.records.run import Settings
from bench.records.runfile import read
from bench.running import probe, reached
from bench.tests import forked
from bench.tests.commands.tiny import TINY
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import GOLDEN, RUN

C = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": C,
    "coerced": {"LANG": "C", "PYTHONUTF8": "0"},
    "strict": {**C, "PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "cp437": {"PYTHONIOENCODING": "cp437"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}
LOADED = ("C", "coerced", "strict")
"""Of these an interpreter asks more when it starts than PYTHONIOENCODING: from one of each that has
started so its commands are forked."""
IMPORTED = " ".join(
    f"bench.{name}"
    for name in ("cli", "api", "commands.report", "commands.compare", "reports.html")
)
STARTED: dict[str, str] = {}
"""Where those interpreters listen."""
pytestmark = pytest.mark.usefixtures("forked")
posix = pytest.mark.skipif(os.name != "posix", reason="names of files in bytes")


def variables(locale: str) -> dict[str, str]:
    """Of a process in that locale."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO"))}
    return {**known, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **LOCALES[locale]}


@pytest.fixture(scope="module", autouse=True)
def started() -> Iterator[None]:
    """An interpreter in each of those locales."""
    with contextlib.ExitStack() as stack:
        for locale in LOADED if forked.AVAILABLE else ():
            there = forked.starting(IMPORTED, variables(locale))
            STARTED[locale] = stack.enter_context(there)
        yield


def interpreted(
    locale: str, *words: str | bytes | Path, folder: Path = GOLDEN, real: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """What Python does in that locale; stdin is closed. real: an interpreter that starts for it."""
    loaded = locale in LOADED
    real = real or (loaded and not forked.AVAILABLE)
    there = forked.known(STARTED[locale]) if loaded and not real else contextlib.nullcontext()
    with (
        there,
        (forked.Real if real else subprocess.Popen)(
            [sys.executable, "-W", "error", *words],
            env=variables(locale),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def command(
    locale: str, *arguments: str | bytes | Path, folder: Path = GOLDEN, real: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """The command, of which nothing may end in a traceback."""
    done = interpreted(locale, "-m", "bench", *arguments, folder=folder, real=real)
    assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
    return done


@functools.cache
def in_utf8(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command where everything can be said: asked once for each."""
    return command("utf-8", *arguments)


TOLD = """
import locale, os, sys
streams = [(s.encoding, s.errors) for s in (sys.stdin, sys.stdout, sys.stderr)]
said = streams, sys.argv[1:], os.environ.get("ODD"), os.getcwd(), sys.getfilesystemencoding()
print(ascii((said, locale.getpreferredencoding(False), locale.setlocale(locale.LC_CTYPE))))
"""


@posix
@pytest.mark.parametrize("locale", LOADED)
def test_what_is_forked_is_in_that_locale(
    locale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an interpreter had started for it."""
    monkeypatch.setenv("ODD", "\udcff \u00fc")
    folder = tmp_path / "\udcff \u00fc"
    folder.mkdir()
    words = ("-c", TOLD, b"\xff \xc3\xbc")
    forks, starts = (interpreted(locale, *words, folder=folder, real=x) for x in (False, True))
    assert forks.stdout == starts.stdout and starts.stdout, starts.stderr


# --- Cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", ["C", "strict"])
def test_a_card_in_ascii_says_the_same_in_the_same_columns(locale: str) -> None:
    done = command(locale, "report", RUN.name, "--width", "81")
    lines = done.stdout.decode("ascii").splitlines()
    golden = (GOLDEN / "report-table-80.txt").read_text(encoding="utf-8").splitlines()
    assert (done.returncode, len(lines)) == (0, len(golden))
    for line, expected in zip(lines, golden, strict=True):
        said = expected.replace("─", "-").replace("—", "-").replace("±", "+-")
        assert line.split() == said.split()
        if "─" in expected or expected.endswith(("OK", "NOISY", "INVALID")):
            assert len(line) == len(expected), "the columns stand where they stood"
    assert "?" not in done.stdout.decode("ascii")


@pytest.mark.parametrize("locale", ["C", "coerced", "latin-1", "cp437"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["report", RUN.name, "--width", "104"],
        ["compare", "base.jsonl", "other.jsonl", "--width", "100"],
        ["list"],
    ],
)
def test_every_command_that_reads_says_the_same_in_every_locale(
    locale: str, arguments: list[str]
) -> None:
    encoding = {"C": "ascii", "coerced": "utf-8"}.get(locale, locale)
    done, expected = command(locale, *arguments), in_utf8(*arguments)
    said = in_line(expected.stdout.decode("utf-8"), encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    words = done.stdout.decode(encoding).replace("-", "").split()
    assert sorted(words) == sorted(said.replace("-", "").split()), "a column less may fold them"


def test_only_what_cannot_be_said_is_replaced() -> None:
    card = "a  ±2%  1 kB/s\n──────\n(±2% of —)"
    assert in_line(card, "utf-8") == card
    assert in_line("after 2 s, 60 °C", "ascii") == "after 2 s, 60 deg C"
    assert in_line(card, "cp1252") == "a  ±2%  1 kB/s\n------\n(±2% of —)"
    assert in_line(card, "ascii") == "a +-2%  1 kB/s\n------\n(+-2% of -)"


PLAIN: dict[tuple[str, ...], str] = {}
"""What a list is elsewhere, which has no width: by its words."""


@pytest.mark.parametrize("width", [40, 60, 79, 80, 81, 120, 200, 400])
@pytest.mark.parametrize("arguments", [["list"], ["devices"], ["verify", ".", "folder"]])
def test_lists_on_a_terminal_break_no_word(
    accelmark: Accelmark,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    width: int,
) -> None:
    """Elsewhere one item is one line."""
    (tmp_path / "folder").mkdir()
    reason = "fake: its runtime is not installed. Install what its vendor gives for it, or another"
    found = [probe.Found(backend="fake", reason=reason)]
    monkeypatch.setattr(probe, "probe", lambda *_: found)
    monkeypatch.setattr(reached, "by_frameworks", list)
    plain = PLAIN.get(tuple(arguments)) or accelmark(*arguments)[1]
    PLAIN[tuple(arguments)] = plain
    monkeypatch.setattr(streams, "stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = accelmark(*arguments)
    assert out.split() == plain.split()
    assert max(map(len, out.splitlines())) <= max(width, max(map(len, plain.split())) + 4)
    assert (len(out.splitlines()) > len(plain.splitlines())) == (
        max(map(len, plain.splitlines())) > width
    )


def test_while_devices_are_looked_for_a_terminal_says_so_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with common.looking():
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(DeviceUnavailable), common.looking():
        said = capsys.readouterr().err
        raise DeviceUnavailable("none")
    assert said == "looking for devices ..."
    assert capsys.readouterr().err == f"\r{' ' * len(said)}\r", "nothing of it is left"


@pytest.mark.parametrize(
    ("terminal", "term", "face"),
    [(True, "xterm", LiveFace), (True, "dumb", PlainFace), (False, "xterm", PlainFace)],
)
def test_what_shows_a_run_goes_by_stderr(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, face: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with common.face_of(Settings()) as found:
        assert type(found) is face


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_what_is_said_of_the_device_breaks_no_word_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(
        probe, "held_back", lambda device: "8 threads on a CPU quota of 2 cores. " * 4
    )
    device = DeviceInfo(backend="cpu", index=0, name="x", memory_bytes=1)
    remarks = ["cuda: this torch is built without CUDA. " * 3]
    common._say_chosen(device, remarks)
    plain = capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    common._say_chosen(device, remarks)
    folded = capsys.readouterr().err
    assert plain.split() == folded.split()
    assert len(plain.splitlines()) == 3 and max(map(len, folded.splitlines())) <= width


# --- Documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["html", "markdown", "csv", "json", "pytest-benchmark"])
@pytest.mark.parametrize("locale", ["C", "cp1252"])
def test_a_document_on_stdout_is_the_same_bytes_everywhere(name: str, locale: str) -> None:
    """A page whose scripts were changed by a code page runs none of them."""
    expected = in_utf8("report", RUN.name, "--format", name)
    done = command(locale, "report", RUN.name, "--format", name)
    assert done.stdout == expected.stdout
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode("utf-8")


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "words",
    [
        *("report run.jsonl", "report run.jsonl --format csv", "guide", "list suites"),
        *("--help", "--version", "run --help", "compare a b -h"),
    ],
)
def test_a_stdout_that_takes_nothing_is_named(words: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bench", *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=variables("utf-8"),
            cwd=GOLDEN,
        )
    said = b"error: stdout: cannot be written (No space left on device). Make room there, or send"
    assert done.returncode == 2 and done.stderr.startswith(said)


@posix
@pytest.mark.parametrize(
    ("words", "code"),
    [
        *(("list", 0), ("guide api", 0), ("report run.jsonl --format csv", 0), ("--help", 0)),
        *(("compare -h", 0), ("compare base.jsonl other.jsonl --fail-if-slower 1", 3)),
    ],
)
def test_a_reader_that_left_changes_no_verdict(words: str, code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=variables("utf-8"),
        cwd=GOLDEN,
    )
    os.close(writer)
    assert done.returncode == code
    assert (b"slower by 20.0%" in done.stderr) == (code == 3) and b"rror" not in done.stderr


SLOWER = "compare base.jsonl other.jsonl --fail-if-slower 1"


@posix
@pytest.mark.parametrize(
    ("words", "closed", "code", "said"),
    [
        (SLOWER, ">&-", 3, "slower by 20.0%"),
        (SLOWER, "2>&-", 3, ""),
        ("report -", "<&-", 2, "stdin, line 1: not an accelmark record (it is empty)"),
    ],
)
def test_what_is_closed_is_empty(words: str, closed: str, code: int, said: str) -> None:
    """And what would be said there goes nowhere else."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-W", "error", "-m", "bench"]
    done = subprocess.run(
        [*shell, *words.split()],
        capture_output=True,
        env=variables("utf-8"),
        cwd=GOLDEN,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == code and "Traceback" not in done.stderr
    assert said in done.stderr and bool(said) == bool(done.stderr)
    assert "slower by 20.0%" not in done.stdout


@posix
def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    """Of this process, or of one that it starts: a library's words would lie in the record."""
    opened = "print(open('/dev/null').fileno() > 2, flush=True)"
    own = f"from bench.commands.streams import prepare as p; p(); {opened}"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {opened!r}])"
    shell = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", f"{own}; {start}"]
    done = subprocess.run(shell, capture_output=True, env=variables("utf-8"), text=True)
    assert done.stdout.split() == ["True"] * 2


# --- Names ---------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("locale", ["strict", "cp1252", "utf-8"])
def test_a_message_about_a_name_that_is_no_text(locale: str) -> None:
    done = command(locale, "report", b"nowhere \xff \xc3\xbc")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: nowhere ")
    assert b"there is no such file" in done.stderr
    done = command(locale, b"walk\xff\xc3\xbc")
    assert (done.returncode, done.stdout) == (2, b"") and b"unknown command" in done.stderr
    done = command(locale, "report", b"--widt\xff")
    assert (done.returncode, done.stdout) == (2, b"") and b"no such option" in done.stderr


@posix
@pytest.mark.parametrize("locale", ["C", "utf-8"])
def test_reports_of_a_file_whose_name_is_no_text(locale: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/r \xff \xc3\xbc.jsonl"
    Path(os.fsdecode(path)).write_bytes(RUN.read_bytes()[:-20])
    for name in ("table", "html", "markdown", "csv", "json", "pytest-benchmark"):
        done = command(
            locale, "report", path, "--format", name, "--output", f"{name}.out", folder=tmp_path
        )
        assert done.returncode == 2 and b"cut short" in done.stderr, "it is damaged, and says so"
        (tmp_path / f"{name}.out").read_text(encoding="utf-8")
    for name in ("table", "html"):
        assert command(locale, "report", path, "--format", name).stdout


@posix
def test_a_run_whose_every_name_is_odd_is_recorded_and_shown(tmp_path: Path) -> None:
    """In a locale that can say none of them: suite, folder of the record, a variable's value."""
    suite = os.fsencode(tmp_path) + b"/s\xff \xc3\xbc.toml"
    Path(os.fsdecode(suite)).write_text(TINY.format(launches=1), encoding="utf-8")
    done = command(
        *("C", "run", suite, "--device", "cpu", "--out", b"r 4 \xc3\xbc", "--launches", "1"),
        folder=tmp_path,
        real=True,
    )
    assert done.returncode in (0, 1), done.stderr
    record = next(Path(os.fsdecode(os.fsencode(tmp_path) + b"/r 4 \xc3\xbc")).glob("*.jsonl"))
    assert b"record: r 4 \xc3\xbc/" in done.stderr, "as it was typed, so that it can be copied"
    found = read(record)
    assert found.damage is None and found.end is not None
    assert found.run.suite == "s\\xff ü"
    assert found.run.command[-3:] == ("r 4 ü", "--launches", "1")
    assert b"accelmark s\\xff" in done.stdout

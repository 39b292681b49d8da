"""Fixtures of several test files."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bench import cli
from bench.tests import forked as forking
from bench.tests.simulated.processes import Processes
from bench.tests.values import SMALL_RESNET, SMALL_VIT, small_unets

NURSERY = pytest.StashKey[str]()
"""Where the nursery is that all processes of pytest-xdist ask."""
Outcome = tuple[int, str, str]
Accelmark = Callable[..., Outcome]
"""Runs the command with these arguments: its exit code, stdout and stderr."""


def pytest_configure(config: pytest.Config) -> None:
    """A shell's background job ignores Ctrl-C, one under `nohup` a terminal that goes: and so would
    all that the tests start.

    Beside another process of pytest-xdist: threads that wait for one another give up the core,
    and here there is one, or each step of a job would wait for a core that another test has. What
    a test starts does not hear of the other process."""
    gc.disable()  # until all is imported and collected: a quarter of the time
    usual: dict[str, Any] = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for number in (getattr(signal, name) for name in usual if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual[number.name])
    if config.getoption("numprocesses", None) and forking.AVAILABLE:
        stack = contextlib.ExitStack()  # here, once for all the processes of pytest-xdist
        config.stash[NURSERY] = stack.enter_context(forking.starting())
        config.add_cleanup(stack.close)
    if config.pluginmanager.hasplugin("hypothesispytest"):  # draws the same each time, at any load
        from hypothesis import settings

        settings.register_profile("accelmark", deadline=None, derandomize=True, database=None)
        settings.load_profile("accelmark")
    if hasattr(config, "workerinput"):
        os.environ["GOMP_SPINCOUNT"] = "0"
        import torch

        torch.set_num_threads(1)
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
            del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """The processes of pytest-xdist are forked, and so import no library."""
    place = session.config.stash.get(NURSERY, "")
    if not place:
        return (yield)
    with forking.known(place + forking.WIDE), mock.patch.object(subprocess, "Popen", forking.Plain):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """What a process of pytest-xdist is told."""
    node.workerinput["nursery"] = node.config.stash.get(NURSERY, "")
    whole = node.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    node.workerinput["imported_first"] = node.workerinput["workercount"] if whole else 0


def pytest_collection(session: pytest.Session) -> None:
    """Each process of pytest-xdist begins with other files of a whole run: who first imports one
    writes down what it was compiled to, which takes longest, and the others read that."""
    given = getattr(session.config, "workerinput", {})
    if not (count := given.get("imported_first")):
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    for path in files[int(given["workerid"].removeprefix("gw")) :: count]:
        names = path.relative_to(session.config.rootpath).with_suffix("").parts
        with contextlib.suppress(Exception, pytest.skip.Exception):  # it will be said
            importlib.import_module(".".join(names))


def pytest_collection_finish() -> None:
    """Garbage is collected again."""
    gc.enable()


def _may_be_alone(file: Path) -> bool:
    """Whether a test of that file may have the mark `alone`, by what it says, or its folder's
    conftest."""
    here = (file, file.with_name("conftest.py"))
    return any("mark.alone" in one.read_text("utf-8") for one in here if one.exists())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m alone` imports no file that has none: all others take longer than the tests."""
    if config.getoption("markexpr") != "alone" or not collection_path.match("test_*.py"):
        return None
    return None if _may_be_alone(collection_path) else True


LONG = (
    "backends/test_ascend_works.py",
    "running/test_faults.py",
    "conformance/test_check_backend.py",
    "running/test_resume.py",
    "commands/test_streams.py",
    "reports/page/test_html_browser.py",
    "test_third_party.py",
    "planning/test_search_workers.py",
    "pytest_plugin/",
    "commands/",
    "running/",
    "backends/",
    "measuring/",
    "workloads/",
    "test_truth.py",
    "planning/test_memory_fit.py",
    "publishing/",
)
"""Files that take long or wait for processes, first: side by side, none is left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long ones first (`--no-loadscope-reorder` keeps them there)."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((k for k, start in enumerate(LONG) if path.startswith(start)), len(LONG))

    items.sort(key=place)
    for path in {item.path for item in items if item.get_closest_marker("alone")}:
        assert _may_be_alone(path), f"{path} does not say mark.alone: `-m alone` passes it over"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fixtures draw, and then the test, what they drew in every run before: one that fails by its
    draw fails always."""
    pytest_runtest_call(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    random.seed(item.originalname if isinstance(item, pytest.Function) else item.name)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(random.getrandbits(32))


@pytest.fixture(scope="session")
def freeze() -> Iterator[Callable[[], None]]:
    """`gc.freeze`; what an engine freezes stays as it is, or its end would undo that of the tests'
    own, and each launch look through torch and what all tests have imported."""
    freeze, unfreeze = gc.freeze, gc.unfreeze
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield freeze
    unfreeze()


@pytest.fixture(scope="module", autouse=True)
def little_to_collect(freeze: Callable[[], None]) -> None:
    """What was there before is not looked through: a launch collects garbage after each block."""
    gc.collect()
    freeze()


@pytest.fixture
def small_vision(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-50 has 1 of its 26 million parameters, ViT-B/16 a sixteenth of its layers', the toy of
    a UNet a quarter."""
    from bench.workloads import _denoisers, resnet50, vit_b16

    for module, values in ((resnet50, SMALL_RESNET), (vit_b16, SMALL_VIT)):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    for name, narrow in small_unets().items():
        monkeypatch.setitem(_denoisers.UNETS, name, narrow)


@pytest.fixture
def accelmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Accelmark:
    """Runs the command in this process, in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["accelmark", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            assert isinstance(error.code, int)
            code = error.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture(scope="session")
def nursery(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process that has imported torch once, for all tests."""
    place = getattr(request.config, "workerinput", {}).get("nursery")
    with forking.known(place) if place else forking.nursery():
        yield


@pytest.fixture(scope="module")
def forked(request: pytest.FixtureRequest) -> Iterator[None]:
    """What this module's tests start as Python processes is forked; see `forked.py`."""
    if not forking.AVAILABLE:
        yield
        return
    request.getfixturevalue("nursery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", forking.Popen)
        yield


@pytest.fixture
def forked_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test alone starts as Python processes is forked."""
    if forking.AVAILABLE:
        request.getfixturevalue("nursery")
        monkeypatch.setattr(subprocess, "Popen", forking.Popen)


@pytest.fixture
def processes(nursery: None) -> Processes:
    """Runs code with the simulated device."""
    return Processes()


@pytest.fixture
def reaper() -> Iterator[None]:
    """Orphans are this process's meanwhile, as they are PID 1's (Linux)."""
    subreaper, system = 36, ctypes.CDLL(None)
    assert system.prctl(subreaper, 1, 0, 0, 0) == 0
    yield
    system.prctl(subreaper, 0, 0, 0, 0)

"""The options of a pytest run, and the cases, the settings and the device that they name."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.pytest_plugin.keys import PLAN

if TYPE_CHECKING:
    from bench.planning.plan import Plan as Whole
    from bench.planning.suite_file import Suite
    from bench.records.case import Case
    from bench.records.run import Settings

DEFAULT_SUITE = "quick"
SUITE_FOLDER = Path(__file__).parents[1] / "suite"
OPTIONS: Mapping[str, dict[str, Any]] = {
    "suite": {"metavar": "SUITE", "help": "A suite's name or a .toml file. [quick]"},
    "device": {
        "action": "append",
        "metavar": "BACKEND[:INDEX]",
        "help": "Default: the first accelerator, else cpu.",
    },
    "only": {"metavar": "GLOB", "help": "Only these cases, e.g. 'llama-*,*-train'."},
    "precision": {
        "metavar": "NAME",
        "help": "Every case that has it, in this precision. Default: as the suite is written.",
    },
    "launches": {
        "metavar": "N",
        "help": "Of each case; or `auto`: until the interval is within 2 percent.",
    },
    "out": {"metavar": "DIR", "help": "Keep the record (.jsonl) in this folder."},
}
"""Those of `accelmark run` that there are here, under a prefix."""
XDIST = (
    "accelmark cannot measure under pytest-xdist: tests that run side by side slow each other, and "
    "pytest-benchmark disables itself. Run without -n, or with -n 0."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `OPTIONS`."""
    group = parser.getgroup("accelmark", "accelmark: cases of a suite as benchmarks")
    for name, how in OPTIONS.items():
        group.addoption(f"--accelmark-{name}", **how)


def pytest_configure(config: pytest.Config) -> None:
    """Reads what the options name, if there are any: what is wrong is said before all else."""
    config.stash[PLAN] = Plan(config)
    given = [name for name in OPTIONS if config.getoption(f"accelmark_{name}") is not None]
    asked = any(_names_the_suite(argument, config) for argument in config.args)
    if (given or asked) and distributed(config):
        raise pytest.UsageError(XDIST)
    if given:
        _ = config.stash[PLAN].names, config.stash[PLAN].settings, device(config)


def _names_the_suite(argument: str, config: pytest.Config) -> bool:
    """As a package, or by a path into its folder; another project's folders have like names."""
    name = argument.partition("::")[0]
    path = Path(os.path.realpath(config.invocation_params.dir / name))
    ours = path.is_relative_to(os.path.realpath(SUITE_FOLDER))
    return ours or re.fullmatch(r"bench\.suite(\.\w+)*", name) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Leaves the name `bench` to a project's folder of tests or package, in a run that is not ours.

    Not where others have imported ours, unless it is that package.
    """
    theirs, own = early_config.rootpath / "bench" / "__init__.py", SUITE_FOLDER.parent
    if theirs.exists() and theirs.parent.samefile(own):
        return
    if any("--accelmark" in word or _names_the_suite(word, early_config) for word in args):
        return
    # The plug-in's own stay: pytest has their hooks, which must find what they left in its stash.
    names = [name for name in sys.modules if re.match(r"bench(\.(?!pytest_plugin\b)|$)", name)]
    if theirs.exists() or names == ["bench"]:
        for name in names:
            del sys.modules[name]


class Plan:
    """The cases that the options name; the suite is read when it is first asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @functools.cached_property
    def suite(self) -> Suite:
        """The suite as it stands."""
        from bench.planning import suite_file

        name = self._config.getoption("accelmark_suite") or DEFAULT_SUITE
        with usage_errors():
            return suite_file.read_suite(suite_file.find_suite(name))

    @functools.cached_property
    def whole(self) -> Whole:
        """What of the suite is measured, and what otherwise than it says."""
        from bench.planning import plan
        from bench.planning.instead import wanted

        only = self._config.getoption("accelmark_only")
        with usage_errors():
            taken = wanted(None, self._config.getoption("accelmark_precision"))
            return plan.whole(self.suite, wanted=taken, only=only)

    @functools.cached_property
    def names(self) -> dict[str, Case]:
        """Every case by the name of its item, in the order of the suite."""
        from bench.exchange import benchmark_json

        cases = self.whole.cases
        names = benchmark_json.names(cases)
        return {names[case.fingerprint]: case for case in cases}

    @functools.cached_property
    def settings(self) -> Settings:
        """How they are measured: the suite's way, but for `--accelmark-launches`."""
        from bench.planning import suite_file

        given = self._config.getoption("accelmark_launches")
        if benchmarks_disabled(self._config):
            given = "1"
        with usage_errors():
            return suite_file.with_launches(self.suite.settings, given, "--accelmark-launches")

    @property
    def budget_minutes(self) -> float | None:
        """Of the suite; None where everything runs once."""
        return None if benchmarks_disabled(self._config) else self.suite.budget_minutes


def benchmarks_disabled(config: pytest.Config) -> bool:
    """`--benchmark-disable`: run everything once, measure nothing."""
    disabled = config.getoption("benchmark_disable", False)
    return bool(disabled and not config.getoption("benchmark_enable", False))


def device(config: pytest.Config) -> str | None:
    """The one device of this session, as it was named."""
    named = sorted(set(config.getoption("accelmark_device") or ()))
    if len(named) > 1:
        raise pytest.UsageError(
            f"--accelmark-device {' and '.join(named)}: one session measures on one device. Run "
            "pytest once for each with --benchmark-save. Then compare: accelmark compare A B."
        )
    return named[0] if named else None


def distributed(config: pytest.Config) -> bool:
    """Whether pytest-xdist spreads the items over processes, or this is one of them."""
    return config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Bad input is one message of pytest's, in the words of this command line."""
    from bench.errors import AccelmarkError

    try:
        yield
    except AccelmarkError as error:
        raise pytest.UsageError(translated(str(error))) from None


def translated(text: str) -> str:
    """A message of the command line in the words of this one."""
    return re.sub(rf"--({'|'.join(OPTIONS)})\b", r"--accelmark-\1", text)

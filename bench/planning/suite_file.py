"""Suites: TOML files that name work and never a device. Read, checked, not yet expanded.

Those that are shipped (`configs/`) have numbers: `quick@1` stays what it was when it was released,
and runnable; `quick` is the newest of them. A file of somebody's own has none.

description = "one line"

budget_minutes = 12       # if it is to end by then, unless the user says otherwise

[instead]                 # what is measured on a device that lacks the arithmetic of a precision
bf16 = ["fp16", "fp32"]   # the first that the device has, and the case

[settings]                # how it is measured; see `bench.records.run.Settings`
launches = 3

[[case]]                  # what is measured; a list of values means a sweep
workload = "llama"
mode = ["prefill", "decode"]
precision = "bf16"
batch_size = [1, 8]       # every other key is a parameter of the workload's mode

[[case]]                  # 1, 2, 4, ... until memory runs out: a larger batch is then not tried
workload = "llama"
mode = "train"
batch_size = { from = 1, doubling_to = 4096 }

[[case]]                  # one case of the tuned track: the best of what its table leaves open
workload = "resnet50"
mode = "infer"
tuned = { batch_size = [8, 64], execution = ["eager", "compile"] }
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.catalogue import releases, suites
from bench.errors import SuiteError, UnknownName, suggestion
from bench.planning.spread import KEYS
from bench.planning.wrong_value import wrong_value
from bench.precision import PRECISIONS
from bench.records.run import MOST_LAUNCHES, Settings

if TYPE_CHECKING:
    from _typeshed import StrPath

AUTO_TARGET = 0.02
"""`--launches auto` aims at this half-width even where the suite is content with more."""
INSTEAD = 'For example: bf16 = ["fp16", "fp32"]'
COMMON_KEYS = ("workload", "mode", "precision", "execution", *KEYS)
"""Of a case of any workload."""
TOP_KEYS = ("budget_minutes", "case", "description", "instead", "settings")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite file as it stands."""

    name: str
    source: str
    """The file, as messages name it."""
    number: int | None = None
    """Of a shipped suite, which never changes: a new idea has the next one. None for a file of
    somebody's own."""
    description: str
    settings: Settings
    budget_minutes: float | None = None
    """Within which a run ends that is not told otherwise; None for all that is planned."""
    instead: dict[str, tuple[str, ...]] = {}
    """By precision: those that take its place, the best first, on a device that lacks it."""
    entries: tuple[dict[str, Any], ...]
    """The `[[case]]` tables, sweeps not yet expanded."""

    @property
    def title(self) -> str:
        """What the record calls it: `quick@2`; `mine` where it has no number."""
        return self.name if self.number is None else f"{self.name}@{self.number}"


def find_suite(name: StrPath) -> Path:
    """A shipped suite by name, or a file by path (anything with a slash or ending in .toml).

    A name alone is the newest of that name; `quick@1` is that number of it.
    """
    path = Path(name)
    of_path = path.suffix == ".toml" or path.parent != Path()
    if of_path and path.is_file():
        return path
    name, known = str(name), suites()
    if of_path or (name not in known and path.is_dir()):
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise SuiteError(
            f"{name}: {what}. Give a .toml file, or the name of a suite: "
            f"{', '.join(sorted(known))}."
        )
    if "@" in name:
        known = releases()
    if name not in known:
        raise UnknownName(
            f"unknown suite `{name}`.{suggestion(name, known)} A suite of your own: give its .toml "
            "file."
        )
    return known[name]


def read_suite(path: StrPath) -> Suite:
    """Reads a suite; `SuiteError` says where it is wrong and what is allowed."""
    path = Path(path)
    source = path.name if path.parent.name == "configs" else str(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SuiteError(
            f"{source}: cannot be read ({why}). Give a .toml file in UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:  # TOML, or numbers and nesting beyond Python
        quotes = (
            ' A text stands in quotes: mode = "train".' if "Invalid value" in str(error) else ""
        )
        raise SuiteError(f"{source}: not valid TOML: {error}.{quotes}") from error
    for key in content:
        if key not in TOP_KEYS:
            hint = elsewhere(key) or suggestion(key, TOP_KEYS)
            raise SuiteError(f"{source}: unknown key `{key}`.{hint}")
    description = content.get("description", "")
    if not isinstance(description, str):
        raise SuiteError(f"{source}: `description` must be a text.")
    entries = content.get("case", [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise SuiteError(f"{source}: each case must be a table headed [[case]].")
    if not entries:
        raise SuiteError(f"{source}: it has no case. Add a [[case]] table with a `workload`.")
    name, number = _title(path)
    return Suite(
        name=name,
        number=number,
        source=source,
        description=description,
        settings=_settings(source, content.get("settings", {})),
        budget_minutes=budget(source, content.get("budget_minutes")),
        instead=_instead(source, content.get("instead", {})),
        entries=tuple(entries),
    )


def elsewhere(key: str) -> str:
    """Where a key belongs that stands in another table; empty for what is none of a suite's."""
    if key in COMMON_KEYS:
        return " It belongs in a [[case]] table."
    if key in Settings.__struct_fields__:
        return " It belongs in the table [settings]."
    return " It belongs above every table, at the top." if key in TOP_KEYS else ""


def _title(path: Path) -> tuple[str, int | None]:
    """The name in a file's name, and the number of a shipped one."""
    for title, file in releases().items():
        if file.resolve() == path.resolve():
            name, _, number = title.partition("@")
            return name, int(number)
    if re.search(r"@\d*$", path.stem):
        raise SuiteError(
            f"{path}: only suites that are shipped have a number (`{path.stem}`). Rename the file."
        )
    return path.stem, None


def budget(source: str, value: Any) -> float | None:
    """In minutes; `SuiteError` for what is no number above 0. source: who gave it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SuiteError(f"{source}: `budget_minutes` must be a number above 0, not {value!r}.")
    return float(value)


def times(value: Any) -> str:
    """How often each case is explained, for `with_launches`; `SuiteError` for no whole number."""
    if not isinstance(value, int):
        raise SuiteError(f"explain_suite: `launches` must be a whole number, not {value!r}.")
    return str(value)


def _instead(source: str, table: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(table, dict):
        raise SuiteError(f"{source}: `instead` must be a table, headed [instead]. {INSTEAD}")
    found: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names:
            raise SuiteError(
                f"{source}, instead: `{key}` must name a precision, or a list of them. {INSTEAD}"
            )
        for name in (key, *map(str, names)):
            if name not in PRECISIONS:
                hint = suggestion(name, PRECISIONS)
                raise SuiteError(f"{source}, instead: unknown precision `{name}`.{hint}")
        found[key] = tuple(names)
    return found


def _settings(source: str, table: Any) -> Settings:
    if not isinstance(table, dict):
        raise SuiteError(f"{source}: `settings` must be a table, headed [settings].")
    allowed = Settings.__struct_fields__
    for key in table:
        if key not in allowed:
            hint = elsewhere(key) or suggestion(key, allowed)
            raise SuiteError(f"{source}, settings: unknown key `{key}`.{hint}")
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        raise SuiteError(f"{source}, settings: {wrong_value(error, Settings, table)}.") from error
    if (target := settings.target_half_width) >= 1:
        raise SuiteError(
            f"{source}, settings: `target_half_width` is a share below 1, not {target:g}: 0.02 is "
            "±2 %."
        )
    if not -(2**63) <= settings.seed < 2**63:
        raise SuiteError(f"{source}, settings: seed: a whole number below 2^63.")
    return settings


def with_launches(settings: Settings, launches: str | None, option: str) -> Settings:
    """The settings with another number of launches, or `auto`; None leaves them.

    option: how the user gave it, for the message of the `SuiteError` about anything else.
    """
    if launches is None:
        return settings
    if launches == "auto":
        target = min(settings.target_half_width, AUTO_TARGET)
        return msgspec.structs.replace(settings, launches="auto", target_half_width=target)
    if not launches.isdecimal() or not 1 <= int(launches) <= MOST_LAUNCHES:
        raise SuiteError(f"{option} {launches}: give a number from 1 to {MOST_LAUNCHES} or `auto`.")
    return msgspec.structs.replace(settings, launches=int(launches))

"""Texts without what tells one machine, or its owner, from others: one cleaner for every record.

Paths lose their folders, in each form in which they are written; what a person or a host is called,
and every identifier of a device, is put in words that say nothing. Where a text leaves it open how
far a path goes (a folder may have blanks in its name), rather a word too many is taken out.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import ipaddress
import re
import socket
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.records import environment

PRIVATE = "(private)"
"""Stands where something was taken out."""
FOLDER = "(folder)"
"""Stands for a path that ends in a folder's name and a slash."""

_SLASHES = r"[/\\]+"
_QUANTITY = (
    r"(?:\d[\d.,]*/\d[\d.,]*|w/(?=\s)|[CDQST]PX/NPS\d"
    r"|(?:[kMGT]?Hz|[mk]?W|[kMGT]i?B)/\d[\d.,]*"
    r"|[^\W_]+/(?:s|h|J|W|step|item|token|image|sequence|sample|kernel|launch|FLOP|OP|B)"
    r"|[Nn]/[Aa]|I/O|and/or)(?![\w/\\])"
)
"""What has a slash and is no path: rates, fractions, modes (`SPX/NPS1`), `w/` for with."""
_FOLDER_NAME = rf"(?:(?![:,;]\s|\s{_QUANTITY})[^/\\\n\r\t\"`<>|])*"
"""Blanks included; an end of a clause, or of a quotation, is not in it."""
_LAST_NAME = r"(?:(?![:,;.]?(?:\s|$))[^\s/\\\"'`<>|)\]},;])*"
_TOKEN_START = r"(?<![^\s\"'`=:,;()\[\]{}<>|])"


def _path(relative: str = "", slash: str = "") -> re.Pattern[str]:
    """Paths of every form; relative, slash: what else holds where one begins so."""
    return re.compile(
        rf"""
        (?P<quantity> (?<![\w/\\.~-]){_QUANTITY} )
      | (?<!\w)(?P<quote>["'`])(?P<quoted>(?:(?!(?P=quote))[^\n])*?[/\\](?:(?!(?P=quote))[^\n])*)
        (?P=quote)(?!\w)
      | (?P<url> (?<![A-Za-z0-9+.-])[A-Za-z0-9][A-Za-z0-9+.-]*://[^\s/\\"'`<>]* )
        (?P<url_folders> {_SLASHES}(?:{_FOLDER_NAME}{_SLASHES})* )?(?P<page> {_LAST_NAME} )
      | (?P<root> (?<![A-Za-z])[A-Za-z]:{_SLASHES}    # a drive, in Windows' form
          | (?<![\w.-])[\w.-]+:(?=/[^\s/])/                      # a host's, as scp and NFS name it
          | ~[\w.-]*{_SLASHES} | (?<![/\\]){slash}[/\\]+(?=[^\s/\\])
          | {_TOKEN_START}{relative}[^\s"'`=:,;()\[\]{{}}<>|/\\]+{_SLASHES} )
        (?P<folders> (?:{_FOLDER_NAME}{_SLASHES})* )(?P<last> {_LAST_NAME} )
      | (?P<home> (?<![\w/\\.~])~[A-Za-z_][\w.-]* )
        """,
        re.VERBOSE | re.MULTILINE,
    )


_PATH = _path()
_PATH_IN_NAME = _path(r"(?=[^\n]*\w\.[A-Za-z]|[^\s/]*\\)", r"(?<!\w)")
"""In what a device is called, `RX 6700/6750 XT`, only a file's relative path is one."""
_HOMES = {"home", "users"}
"""Folders whose folders are called as people are."""

_HEX = "[0-9A-Fa-f]"
_DEVICE = re.compile(
    rf"(?<![\w-])(?:(?:[A-Z]+-)*{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}(?:/\d+)*"
    rf"|(?:GPU|MIG)-(?:GPU-)?{_HEX}{{4}}[\w/-]*"
    rf"|{_HEX}{{32}}"
    rf"|(?:{_HEX}{{2}}[:-]){{5,19}}{_HEX}{{2}})(?![\w-])"
)
"""UUIDs, whole and cut short; hardware addresses of six bytes and more."""
_PCI = re.compile(rf"(?<![\w:.])(?:{_HEX}{{4,8}}:)?{_HEX}{{2}}:[01]{_HEX}\.[0-7](?!\w|[.:]\w)")
_ADDRESS = re.compile(
    rf"(?<![\w:.])(?:(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?:/\d+)?|{_HEX}{{0,4}}(?::{_HEX}{{0,4}}){{2,7}}"
    r"(?:\.\d{1,3}){0,3})(?:%\w+)?(?![\w]|\.\d)"
)
"""What may be an IP address; whether it is, is asked."""
_NO_ACCOUNT = r"\s\"'`<>()\[\]{},;:=@/\\|"
_ACCOUNT = re.compile(
    rf"(?<![^{_NO_ACCOUNT}])[^{_NO_ACCOUNT}]+@(?!\d{{1,3}}(?![\w.-]))(?:[\w.-]*\w|\[[^\]\s]*\])"
)
"""`user@host`, and mail. (No host is called by a small number: `quick@2` is a suite.)"""
_COUNTRIES = (
    "ae ai ar at au be bg br ca ch cn cz de dk ee eg es eu fi fr gr hk hr hu ie il is it jp ke kr "
    "kz li lt lu lv mx ng nl no nz ph pk pl qa ro ru sa se sg si sk th tr tw ua uk uy vn za"
).replace(" ", "|")
"""Ends of hosts' names, but for what ends the names of files and of modules, too."""
_SOURCE = (
    "c|cc|cl|cpp|cu|cuh|cxx|f90|go|h(?:ip|pp)?|inc|inl|java|js|json|ll|log|metal|mlir|mm|ptx|py|pyx|rs"
    "|safetensors|sh|so|toml|ttg?ir|txt|ya?ml"
)
_LABELS = r"(?<![\w.-])(?:[A-Za-z0-9_-]+\.)"
_DOMAIN = re.compile(
    rf"{_LABELS}+(?:com|org|net|edu|gov|mil|int|lan|local|localdomain|internal|intranet|corp"
    rf"|home\.arpa|(?:ac|co|edu|gov|go|or)\.[a-z][a-z])(?![\w(-]|\.\w)"
    rf"|(?!(?:aten|bench|prims|torch)\.){_LABELS}{{2,}}(?:{_COUNTRIES})(?![\w(-]|\.\w)"
    rf"|{_LABELS}+(?!(?:{_SOURCE})\b)[A-Za-z][\w-]*(?=\]:\d|:\d{{4,5}}(?![\w.:]))"
)
"""Names of hosts that end as such names do, or stand before a port."""
_NAMED = re.compile(
    r"(?P<what>\b(?:hosts?[ _-]?names?|hosts?|nodes?[ _-]?names?|nodelist|user[ _-]?names?|users?"
    r"|logins?|log[ _-]?names?|accounts?|owners?|e-?mail|s/n"
    r"|serial(?:[ _-]?(?:numbers?|no\.?|num))?|uuid|unique[ _-]?id|asset[ _-]?tag"
    r"|computer[ _-]?name)\b[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|\(private\)|[^\s,;)\]}]+)",
    re.IGNORECASE,
)
"""`Serial Number: 1324`, `hostname=node7`."""

_KEYS = re.compile(
    r"uuid|serial|hostname|host_name|(?<!diff)user|unique_?id|asset|nodename|node_name|nodelist|owner|e?mail$"
    r"|(^|_)(bus|pci|login|home|domain|ip|mac|cwd|address|addr|account)(_|$)|\bpath",
    re.IGNORECASE,
)
"""Names of facts that tell one machine, or its owner, from others like it."""
_VARIABLES = "variables"
"""The fact that holds environment variables. Many are called like what is private, and change speed
(`UR_L0_SERIALIZE`): none is left out by its name."""
_VERSIONS = re.compile(
    r"version|driver|firmware|packages|torch|runtime|python|accelmark", re.IGNORECASE
)
"""Names of facts whose four numbers with dots between are a version."""
_FOUR_NUMBERS = re.compile(r"\d+(?:\.\d+){3}")
LEAST_NAME = 4
"""Characters: a shorter name of a user or host would be found in every word."""
COMMON = {
    *("root", "user", "users", "admin", "localhost", "ubuntu", "nobody", "home"),
    *("linux", "test", "torch"),
}
"""Names that tell nobody from others."""


def cleaned(
    text: str,
    public: Mapping[str, str] | None = None,
    own: Iterable[str] = (),
    path: re.Pattern[str] = _PATH,
) -> str:
    """A text without folders, accounts, names of hosts, addresses and identifiers of devices.

    public: folders of which everybody has one (the project, an interpreter's packages) and the
    names to call them by; below them a path stays whole. own: names that are private here. path:
    what counts as a path. A text that says something still does: it never becomes empty.
    """
    if public:
        roots = sorted(public, key=len, reverse=True)
        known = "|".join(re.escape(root) for root in roots)
        parts = re.split(rf"(?<![\w/\\.-])({known})((?:[/\\][\w.+-]+)+)", text)
        if len(parts) > 1:
            for k in range(0, len(parts), 3):
                parts[k] = cleaned(parts[k], None, own)
            for k in range(1, len(parts), 3):
                parts[k] = public[parts[k]]
            return "".join(parts)
    bare = _ACCOUNT.sub(PRIVATE, text)
    bare = _NAMED.sub(lambda found: found["what"] + PRIVATE, bare)
    bare = _DEVICE.sub(PRIVATE, bare)
    bare = _PCI.sub(PRIVATE, bare)
    bare = path.sub(_last_name, bare)
    bare = _ADDRESS.sub(_address, bare)
    bare = _DOMAIN.sub(PRIVATE, bare)
    for name in own:
        whole = rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"
        bare = re.sub(whole, PRIVATE, bare, flags=re.IGNORECASE)
    return PRIVATE if text.strip() and not bare.strip() else bare


def cleaned_argument(word: str) -> str:
    """A word of a command line: all before its last slash is folders, but for `NAME=` in front."""
    found = re.match(r"((?:--[\w-]+=)?(?:[A-Za-z_]\w*=)?)(.*)", word, re.DOTALL)
    assert found is not None  # for the type checker: it may match nothing
    front, value = found[1], found[2]
    if re.search(r"[/\\]", value) and not re.fullmatch(_QUANTITY, value):
        value = _of_path(value)
    return cleaned(front + value)


def cleaned_facts(
    facts: Any, own: Iterable[str] = (), name: str = "", kinds: Container[str] = ()
) -> Any:
    """Facts, however deep, cleaned: names too; what is private by its name is left out.

    own: names that are private here, looked for in values. name: what the facts are called, where
    they are one value. kinds: facts of such a name say what a device is called: they are not
    searched for `own`, and what has a slash is seldom a path.
    """
    if isinstance(facts, Mapping) and name == _VARIABLES:
        return {cleaned(str(key)): _variable(str(key), facts[key], own) for key in facts}
    if isinstance(facts, Mapping):
        return {
            cleaned(str(key)): cleaned_facts(
                value, own, f"{name}.{key}" if _VERSIONS.search(name) else str(key), kinds
            )
            for key, value in facts.items()
            if not _KEYS.search(str(key))
        }
    if isinstance(facts, list | tuple):
        return [cleaned_facts(one, own, name, kinds) for one in facts]
    if not isinstance(facts, str):
        return facts
    if _VERSIONS.search(name) and _FOUR_NUMBERS.fullmatch(facts):
        return facts
    return cleaned(facts, None, (), _PATH_IN_NAME) if name in kinds else cleaned(facts, None, own)


def _variable(name: str, value: Any, own: Iterable[str]) -> Any:
    """The value of an environment variable."""
    return environment.NOT_RECORDED if environment.is_withheld(name) else cleaned_facts(value, own)


def release(system: str) -> str:
    """An operating system's name and release: what follows may name whoever built the kernel."""
    found = re.match(r"[A-Za-z]+ \d+(?:\.\d+)?", system)
    return found[0] if found else PRIVATE


@functools.cache
def own_names() -> tuple[str, ...]:
    """What this machine and whoever uses it are called, longest first."""
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        names.add(getpass.getuser())
    with contextlib.suppress(RuntimeError):  # nor a home
        names.add(Path.home().name)
    told = [name for name in names if len(name) >= LEAST_NAME and name.lower() not in COMMON]
    return tuple(sorted(told, key=len, reverse=True))


def _last_name(found: re.Match[str]) -> str:
    if found["quantity"] is not None:
        return found[0]
    if found["home"] is not None:
        return "~"
    if found["quote"] is not None:
        quoted = found["quoted"]
        if not re.search(r"[/\\]", re.sub(_QUANTITY, "", quoted)):
            return found[0]
        return found["quote"] + _of_path(quoted) + found["quote"]
    if found["url"] is not None:
        page = re.split(r"[?#]", found["page"])[0]
        return _named(page, re.split(_SLASHES, found["url_folders"] or "")) or PRIVATE
    return _of_path(found[0])


def _of_path(path: str) -> str:
    """The last name of a path that is nothing else."""
    parts = re.split(_SLASHES, path)
    if "://" in path:
        parts[-1] = re.split(r"[?#]", parts[-1])[0]
    last = _named(parts[-1], parts[:-1])
    return last or FOLDER


def _named(last: str, folders: list[str]) -> str:
    """A last name, unless it is that of a person."""
    named = [folder for folder in folders if folder]
    if last and named and named[-1].lower() in _HOMES:
        return "~"
    return last


def _address(found: re.Match[str]) -> str:
    text = found[0].partition("%")[0].partition("/")[0]
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return found[0]
    return found[0] if set(text) == {":"} else PRIVATE

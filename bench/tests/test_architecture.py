"""The house: its packages, and their arrows, read from the imports of every file. They go down."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import catalogue
from bench.errors import UnknownName
from bench.tests.house import house

PACKAGE = Path(bench.__file__).parent
TESTS = PACKAGE / "tests"
MOST_LINES = 400

ROOMS = house()
ORDER = list(ROOMS)

HEAVY = (
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "numpy",
    "scipy",
    "plotly",
    "jinja2",
    "cryptography",
)
"""Never imported where a module loads: only in a function, or for the type checker."""

VENDORS = (
    *("nvidia", "nvml", "cuda", "cudnn", "nccl", "cublas", "tensorrt", "hopper", "ampere"),
    *("ascend", "npu", "cann", "hccl", "torch_npu", "huawei", "atlas"),
    *("rocm", "rccl", "hip", "amdgpu", "radeon", "miopen"),
    *("xpu", "gaudi", "hpu", "habana", "musa", "mlu", "mps", "tpu", "cuda_visible_devices"),
)
"""Words that only a backend may know."""


@functools.cache
def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "tests" not in p.relative_to(PACKAGE).parts)


def name_of(file: Path) -> str:
    """`stats`, `backends.cpu`: as a module, without the package."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def room_of(name: str) -> str | None:
    """`records` of `records.case`; None for the package itself."""
    return None if name == "__init__" else name.partition(".")[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module, wherever it is imported, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = node.module or ""
            for alias in node.names:
                # `from bench import stats` imports a module, `from bench.stats import x` a name.
                folder = PACKAGE.parent.joinpath(*module.split(".")).is_dir()
                yield (f"{module}.{alias.name}" if folder else module), node.lineno


def seen(module: str) -> str | None:
    """The room of ours that an import names; None for another's, and for the package itself."""
    ours, _, name = module.partition(".")
    return room_of(name) if ours == "bench" and not name.startswith("__") and name else None


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def at_load(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: not in functions, not for types only."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        for field in ("body", "orelse", "finalbody", "handlers"):
            for inner in getattr(node, field, ()):
                waiting += inner.body if isinstance(inner, ast.ExceptHandler) else [inner]


def offenders(look: Callable[[Path], object], some: Iterable[Path] | None = None) -> dict[str, Any]:
    """By name, what is wrong with each file that has anything wrong."""
    found = ((name_of(file), look(file)) for file in (files() if some is None else some))
    return {name: wrong for name, wrong in found if wrong}


def test_every_room_is_in_the_table() -> None:
    """A loose file is a decision; so is a package."""
    loose = {f.stem for f in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {f.relative_to(PACKAGE).parts[0] for f in files() if f.parent != PACKAGE}
    assert loose == {name for name, room in ROOMS.items() if not room.package}
    assert packages == {name for name, room in ROOMS.items() if room.package}


@pytest.mark.parametrize("name", ORDER)
def test_a_room_sees_what_the_table_says_and_only_below(name: str) -> None:
    above = [other for other in ROOMS[name].sees if ORDER.index(other) >= ORDER.index(name)]
    assert above == [], "arrows go down"
    found: dict[str, list[str]] = {}
    for file in files():
        if room_of(name_of(file)) == name:
            for module, line in imports(parse(file)):
                if (room := seen(module)) not in (None, name):
                    found.setdefault(str(room), []).append(f"{name_of(file)}, line {line}")
    more = {room: places for room, places in found.items() if room not in ROOMS[name].sees}
    assert more == {}, "not in the table"
    assert ROOMS[name].sees == set(found), "an arrow in the table that no file needs"


@pytest.mark.parametrize("kind", catalogue.CONSTANTS)
def test_no_plug_in_imports_another(kind: str) -> None:
    plug_ins = {f"bench.{kind}.{file.stem}" for file in (PACKAGE / kind).glob("[!_]*.py")}
    for file in sorted((PACKAGE / kind).rglob("*.py")):
        assert plug_ins.isdisjoint(m for m, _ in imports(parse(file))), file.name


@pytest.mark.parametrize(
    ("room", "order"),
    [
        ("reports", ("wording", "flat", "terminal", "page")),
        ("workloads", ("layers", "spots", "jobs", "exchange", "contexts", "decoding", "language")),
        ("measuring", ("ranks", "timing", "proving", "gates", "explaining")),
        ("judging", ("ranks", "comparing", "explaining")),
    ],
)
def test_the_packages_of_a_room_see_those_below_them(room: str, order: tuple[str, ...]) -> None:
    assert set(order) == {file.parent.name for file in (PACKAGE / room).glob("*/__init__.py")}
    for place, name in enumerate(order):
        for file in (PACKAGE / room / name).glob("*.py"):
            seen = {m.split(".")[2] for m, _ in imports(parse(file)) if f"bench.{room}." in m}
            assert seen.isdisjoint(order[place + 1 :]), file.name


def test_nothing_heavy_is_imported_where_a_module_loads() -> None:
    def heavy(file: Path) -> list[str]:
        return [
            module
            for node in at_load(parse(file))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for module, _ in imports(node)
            if module.split(".")[0] in HEAVY
        ]

    assert offenders(heavy) == {}


def test_each_room_uses_only_its_distributions() -> None:
    def others(file: Path) -> set[str]:
        mine = room_of(name_of(file))
        if mine is None:
            return set()
        allowed = {*sys.stdlib_module_names, "_typeshed", "bench", *ROOMS[mine].uses}
        return {module.split(".")[0] for module, _ in imports(parse(file))} - allowed

    assert offenders(others) == {}


def test_every_dependency_is_used_and_declared() -> None:
    project = PACKAGE.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package has no pyproject.toml beside it")
    content = tomllib.loads(project.read_text(encoding="utf-8"))
    extras = content["project"]["optional-dependencies"]
    needed = (d for name, extra in extras.items() if name not in ("all", "test") for d in extra)
    given = (*content["project"]["dependencies"], *needed)
    declared = {re.split(r"[<>=~! \[]", d)[0] for d in given}
    modules = {"nvidia-ml-py": "pynvml", "pytest-benchmark": "pytest_benchmark"}
    used = {m.split(".")[0] for file in files() for m, _ in imports(parse(file))}
    assert (known := {modules.get(name, name) for name in declared}) <= used
    assert used - sys.stdlib_module_names - {"bench", "_typeshed"} <= known


def test_no_vendor_is_named_outside_the_backends() -> None:
    def vendors(file: Path) -> set[str]:
        # By that name the whole field defines algorithm and bus bandwidth.
        text = file.read_text(encoding="utf-8").lower().replace("nccl-tests", "")
        words = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", text))
        return {part for word in words for part in (word, *word.split("_"))} & set(VENDORS)

    assert offenders(vendors, (f for f in files() if f.parent != PACKAGE / "backends")) == {}


def test_the_list_of_vendors_would_be_noticed() -> None:
    """The check above can fail: the accelerator backends are full of such words."""
    of_all = {"__init__", "cpu", "_host", "_read_back", "_trial"}
    of_all |= {"_torch_device", "_graphs", "_host_fallback"}

    def silent(file: Path) -> bool:
        text = file.read_text(encoding="utf-8").lower()
        return not any(re.search(rf"\b{word}\b", text) for word in VENDORS)

    backends = [f for f in files() if f.parent == PACKAGE / "backends" and f.stem not in of_all]
    assert backends and offenders(silent, backends) == {}


def test_a_long_file_says_why() -> None:
    """In its docstring: `Long because ...`. Else carve it."""

    def too_long(file: Path) -> int:
        text = file.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines <= MOST_LINES:
            return 0
        reason = re.search(r"\bLong because ([^.]+)\.", ast.get_docstring(ast.parse(text)) or "")
        return 0 if reason and len(reason[1].split()) >= 5 else lines

    assert offenders(too_long, sorted(PACKAGE.rglob("*.py"))) == {}


def test_nothing_imports_the_tests() -> None:
    """They are not in the wheel."""
    found = [
        name_of(f) for f in files() for m, _ in imports(parse(f)) if m.startswith("bench.tests")
    ]
    assert found == []


def test_tests_lie_as_the_packages_do() -> None:
    """A folder of tests is that of a package, or of what tests share; or of what is set beside the
    whole harness."""
    folders = {f.relative_to(TESTS).parts[0] for f in TESTS.rglob("test_*.py") if f.parent != TESTS}
    folders -= {"validation"}
    assert folders <= {name for name, room in ROOMS.items() if room.package}
    assert folders >= {name for name, room in ROOMS.items() if room.package} - {"plugins", "suite"}


def test_only_the_face_prints() -> None:
    def printing(file: Path) -> list[int]:
        if name_of(file).startswith(("cli", "commands.")):
            return []
        return [
            node.lineno
            for node in ast.walk(parse(file))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo")
        ]

    assert offenders(printing) == {}


def test_nothing_is_asserted_of_what_users_give() -> None:
    """An assert is for the type checker: `is not None` and `isinstance` of our own values only."""

    def asserting(file: Path) -> list[int]:
        return [
            node.lineno
            for node in ast.walk(parse(file))
            if isinstance(node, ast.Assert)
            and not re.search(r"is not None|isinstance\(", ast.unparse(node.test))
        ]

    assert offenders(asserting) == {}


def widened_on_the_way(tree: ast.AST) -> list[int]:
    """Lines of calls that move a tensor and make it float64 in one: `x.to("cpu", torch.float64)`.

    Such a copy converts where it starts from, and not every device has float64.
    """
    wide = ("torch.float64", "torch.double")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {one.arg: one.value for one in node.keywords if one.arg in ("dtype", "device")}
            given = [ast.unparse(one) for one in (*node.args, *named.values())]
            if node.func.attr == "to" and len(given) > 1 and set(given) & {*wide}:
                found.append(node.lineno)
    return found


def test_no_tensor_becomes_float64_on_its_way() -> None:
    """`x.cpu().to(torch.float64)`: see `bench/tests/backends/test_without_float64.py`."""
    assert offenders(lambda file: widened_on_the_way(parse(file))) == {}
    seen = ast.parse(
        'x.to("cpu", torch.float64)\n'
        "x.to(device=place, dtype=torch.double)\n"
        "x.detach().to(place, torch.float64, copy=True)\n"
        "x.to(torch.float64, device=place)\n"
        "x.cpu().to(torch.float64, copy=True)\n"
        "x.to(place, torch.float32)\n"
    )
    assert widened_on_the_way(seen) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", catalogue.CONSTANTS)
def test_every_plug_in_file_exposes_its_constant_and_says_what_it_is(kind: catalogue.Kind) -> None:
    found = catalogue.plug_ins(kind)
    ours = {f.stem.replace("_", "-") for f in (PACKAGE / kind).glob("[!_]*.py")}
    assert set(found) >= ours and ours
    for name in ours:
        assert found[name].summary, f"{kind}/{name}.py has no docstring"
        assert len(found[name].summary) <= 100
        assert catalogue.load(kind, name) is not None
        if kind != "reports":
            assert catalogue.load(kind, name).name == name


def test_an_unknown_plug_in_is_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownName) as caught:
        catalogue.load("reports", "tabel")
    assert str(caught.value).startswith("unknown report `tabel`. Did you mean `table`? Allowed: ")


def test_the_readme_names_every_room() -> None:
    """Each room of `bench/` in one line, so that what is in it can be found."""
    readme = PACKAGE.parent / "README.md"
    if not readme.exists():
        pytest.skip("an installed package has no README beside it")
    text = readme.read_text(encoding="utf-8")
    written = {
        name: f"`{name}/`" if room.package else f"`{name}.py`" for name, room in ROOMS.items()
    }
    missing = [name for name, words in written.items() if words not in text]
    assert missing == []


def test_the_readme_names_the_packages_of_measuring() -> None:
    """The room that has most files."""
    readme = PACKAGE.parent / "README.md"
    if not readme.exists():
        pytest.skip("an installed package has no README beside it")
    (row,) = [line for line in readme.read_text("utf-8").splitlines() if "| `measuring/` |" in line]
    inside = {file.parent.name for file in (PACKAGE / "measuring").glob("*/__init__.py")}
    assert inside == set(re.findall(r"`(\w+)`", row))


def test_at_load_sees_what_it_should() -> None:
    """The reader itself: loading statements, not functions', not the type checker's."""
    tree = ast.parse(
        "import a\n"
        "if TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    import e\nfinally:\n    import f\n"
        "class X:\n    import g\n    def m(self):\n        import h\n"
        "with x:\n    import i\n"
        "def f():\n    import j\n"
    )
    found = {m for n in at_load(tree) if isinstance(n, ast.Import) for m, _ in imports(n)}
    assert found == set("acdefgi")

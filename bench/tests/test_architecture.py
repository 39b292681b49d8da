"""The layers of the design, read from the imports of every file: they go down only."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench
from bench import catalogue
from bench.errors import UnknownName

PACKAGE = Path(bench.__file__).parent

LAYERS = (
    ("ground", ("errors", "units", "lifeline", "stats")),
    (
        "values",
        (
            *("case", "observed", "record", "energy", "flags", "contention"),
            *("digests", "runfile", "environment", "precision", "rehearsal", "sweep", "tuning"),
        ),
    ),
    ("protocols", ("telemetry", "backend", "workload", "report")),
    (
        "plug-in helpers",
        ("quantized", "trial", "models", "language", "pipeline", "graphs", "accelerator"),
    ),
    ("plug-ins", ("backends.*", "workloads.*")),
    ("planning", ("catalogue", "config", "plan")),
    ("measuring", ("measure", "numerics", "fit", "worker", "sampler")),
    (
        "judging",
        (
            "chips",
            "summary",
            "compare",
            "compare_card",
            "wording",
            "curves",
            "tracks",
            "flat",
            "publish",
            "signing",
            "benchmark_json",
            "plots",
            "reports.*",
        ),
    ),
    ("conformity", ("conformance", "checks.*", "check_worker")),
    ("running", ("child", "monitor", "launcher", "probe", "run", "resume", "examine")),
    (
        "face",
        (
            "live",
            "cli",
            "commands.*",
            "agreement",
            "bare.*",
            "against_generate",
            "pytest_plugin",
            "suite.*",
            "__main__",
        ),
    ),
)
"""Lowest first. A file imports from its own layer and from those below."""

LEVEL = {name: level for level, (_, names) in enumerate(LAYERS) for name in names}

FORBIDDEN = {
    "backends.*": ("workload", "workloads.*", "models", "language", "catalogue", "report"),
    "workloads.*": ("backend", "backends.*", "accelerator", "catalogue", "environment", "report"),
    "models": ("backend", "backends.*", "accelerator"),
    "language": ("backend", "backends.*", "accelerator"),
    "accelerator": ("workload", "models", "language", "report"),
    "quantized": ("backend", "backends.*", "accelerator"),
    "trial": ("models", "language", "report"),
    "reports.*": ("backend", "workload", "measure", "worker", "catalogue"),
    "summary": ("backend", "workload", "measure", "worker", "catalogue"),
    "measure": ("catalogue", "plan", "config"),
    "numerics": ("catalogue", "plan", "config", "backend"),
}
"""What a file may not import although it lies below: a plug-in knows its own protocol only."""

DISTRIBUTIONS = {
    "ground": set[str](),
    "values": {"msgspec", "psutil", "torch"},
    "protocols": {"msgspec", "torch"},
    "plug-in helpers": {"msgspec", "torch", "transformers", "psutil"},
    "plug-ins": {"msgspec", "torch", "transformers", "diffusers", "peft", "psutil", "pynvml"},
    "planning": {"msgspec"},
    "measuring": {"msgspec", "torch"},
    "judging": {"msgspec", "rich", "plotly", "jinja2", "cryptography"},
    "conformity": {"msgspec", "torch"},
    "running": {"msgspec"},
    "face": {
        *("msgspec", "click", "rich", "pytest", "pytest_benchmark"),
        *("torch", "transformers", "diffusers", "peft"),
    },
}
"""What each layer uses beside the standard library."""

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


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "tests" not in p.relative_to(PACKAGE).parts)


def name_of(file: Path) -> str:
    """`stats`, `backends.cpu`: as a module, without the package."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def key(name: str) -> str | None:
    """The entry of LAYERS for a module: None for the package itself and its empty parts."""
    folder, _, rest = name.partition(".")
    found = f"{folder}.*" if rest and rest != "__init__" else folder
    return None if name.endswith("__init__") else found


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


def own(module: str) -> str | None:
    """The module of ours that an import names, without the package; None for another's."""
    if not module.startswith("bench."):
        return None
    name = module.removeprefix("bench.")
    return None if name.startswith("__version") else name


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


every_file = pytest.mark.parametrize("file", files(), ids=name_of)


def test_every_file_has_a_layer() -> None:
    unknown = [n for n in map(name_of, files()) if key(n) and key(n) not in LEVEL]
    assert unknown == [], "name them in LAYERS, and in the README"


@every_file
def test_imports_go_down(file: Path) -> None:
    mine = key(name_of(file))
    if mine is None:
        return
    wrong = []
    for module, line in imports(parse(file)):
        name = own(module)
        theirs = key(name) if name else None
        if theirs is None or theirs == mine:
            continue
        if LEVEL[theirs] > LEVEL[mine] or theirs in FORBIDDEN.get(mine, ()):
            wrong.append(f"line {line}: {name}")
    assert wrong == []


@pytest.mark.parametrize("kind", catalogue.CONSTANTS)
def test_no_plug_in_imports_another(kind: str) -> None:
    for file in sorted((PACKAGE / kind).glob("*.py")):
        found = [m for m, _ in imports(parse(file)) if m.startswith(f"bench.{kind}.")]
        others = [m for m in found if not m.startswith(f"bench.{kind}._")]
        assert others == [], file.name


@every_file
def test_nothing_heavy_is_imported_where_a_module_loads(file: Path) -> None:
    found = [
        module
        for node in at_load(parse(file))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module, _ in imports(node)
        if module.split(".")[0] in HEAVY
    ]
    assert found == []


@every_file
def test_each_layer_uses_only_its_distributions(file: Path) -> None:
    mine = key(name_of(file))
    if mine is None:
        return
    allowed = {*sys.stdlib_module_names, "bench", *DISTRIBUTIONS[LAYERS[LEVEL[mine]][0]]}
    used = {module.split(".")[0] for module, _ in imports(parse(file))}
    assert used <= allowed


def test_every_dependency_is_used_and_declared() -> None:
    """The `pyproject.toml` of a clone and the imports of the package name the same things."""
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
    known = {modules.get(name, name) for name in declared}
    assert known <= used
    others = used - sys.stdlib_module_names - {"bench"}
    assert others <= known


@pytest.mark.parametrize(
    "file", [f for f in files() if f.parent != PACKAGE / "backends"], ids=name_of
)
def test_no_vendor_is_named_outside_the_backends(file: Path) -> None:
    words = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", file.read_text(encoding="utf-8").lower()))
    parts = {part for word in words for part in (word, *word.split("_"))}
    assert parts & set(VENDORS) == set()


@pytest.mark.parametrize(
    "file", [f for f in files() if f.parent == PACKAGE / "backends"], ids=name_of
)
def test_the_list_of_vendors_would_be_noticed(file: Path) -> None:
    """The check above can fail: the accelerator backends are full of such words."""
    if file.stem in ("__init__", "cpu", "_host"):
        return
    text = file.read_text(encoding="utf-8").lower()
    assert any(re.search(rf"\b{word}\b", text) for word in VENDORS)


@every_file
def test_only_the_face_prints(file: Path) -> None:
    if name_of(file).startswith(("cli", "commands.", "live", "agreement", "against_generate")):
        return
    calls = [
        node.lineno
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo")
    ]
    assert calls == []


@every_file
def test_nothing_is_asserted_of_what_users_give(file: Path) -> None:
    """An assert is for the type checker: `is not None` and `isinstance` of our own values only."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Assert):
            assert re.search(r"is not None|isinstance\(", ast.unparse(node.test)), node.lineno


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


def test_the_readme_names_every_file() -> None:
    """Each file of `bench/` in one line, so that its content can be found."""
    readme = PACKAGE.parent / "README.md"
    if not readme.exists():
        pytest.skip("an installed package has no README beside it")
    text = readme.read_text(encoding="utf-8")
    missing = [f.name for f in files() if not f.stem.startswith("__") and f.name not in text]
    assert missing == []


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

"""The arrows of the design, read from the imports of every file: cli -> cache -> mmkd, never back."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("mmkd", "cache", "cli")
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "h5py",
    "faiss",
    "matplotlib",
    "scipy",
    "numpy",
    "PIL",
}
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION_LINES = 50


def layer_of(module: str) -> str:
    """``mmkd.cache.store`` is of ``cache``, ``mmkd.losses.kd`` of ``mmkd``."""
    parts = module.split(".")
    return parts[1] if parts[0] == "mmkd" and len(parts) > 1 and parts[1] in {"cache", "cli"} else parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere in the file; ``from mmkd import cache`` counts as ``mmkd.cache``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported: not function bodies, not ``if TYPE_CHECKING``."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from at_import_time(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from at_import_time(getattr(node, field, []))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_arrows_run_from_cli_to_cache_to_core(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    if path == ROOT / "mmkd/__init__.py":
        allowed.add("cache")  # the front door offers open_cache, lazily
    if path == ROOT / "mmkd/__main__.py":
        allowed.add("cli")  # the program starts here
    for module in imports(parse(path)):
        root = module.split(".")[0]
        assert root not in {"cli", "cache", "configs"}, f"{module}: write mmkd.{module}"
        if root == "mmkd":
            assert layer_of(module) in allowed, f"{layer}/ may not import {module}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "mmkd")], ids=name)
def test_core_knows_no_hdf5_and_never_prints(path: Path) -> None:
    tree = parse(path)
    assert not {module.split(".")[0] for module in imports(tree)} & {"h5py", "typer", "rich"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "cache")], ids=name)
def test_cache_never_prints(path: Path) -> None:
    tree = parse(path)
    assert not {module.split(".")[0] for module in imports(tree)} & {"typer", "rich"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def source_of(module: str) -> Path | None:
    """The file of ``mmkd.cli.app``, or of the module that ``mmkd.errors.MmkdError`` is in."""
    parts = module.split(".")
    if parts[0] != "mmkd":
        return None
    base = ROOT / "mmkd" if len(parts) < 2 or parts[1] not in {"cache", "cli", "configs"} else ROOT
    for path in (base.joinpath(*parts[1:]), base.joinpath(*parts[1:-1])):
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def test_command_line_starts_without_a_heavy_library() -> None:
    files, seen = [ROOT / "cli" / "app.py"], set()
    while files:
        file = files.pop()
        seen.add(file)
        for node in at_import_time(parse(file).body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = list(imports(node))
                heavy = {module.split(".")[0] for module in modules} & HEAVY
                assert not heavy, f"{name(file)}:{node.lineno} imports {heavy} whenever mmkd starts"
                files += [found for module in modules if (found := source_of(module)) and found not in seen]
    assert ROOT / "cli" / "train.py" in seen


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_one_sitting_and_a_function_one_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0]
            documented = isinstance(start, ast.Expr) and isinstance(start.value, ast.Constant)
            first = node.body[1] if documented and len(node.body) > 1 else start
            assert node.end_lineno is not None
            length = node.end_lineno - first.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_front_door_opens_quickly_and_leads_somewhere() -> None:
    code = """
import sys, mmkd
assert "torch" not in sys.modules
missing = [name for name in mmkd.__all__ if getattr(mmkd, name, None) is None]
assert not missing, missing
assert set(mmkd.__all__) <= set(dir(mmkd))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_name_is_an_attribute_error() -> None:
    import mmkd

    with pytest.raises(AttributeError, match="halv"):
        mmkd.halv  # noqa: B018

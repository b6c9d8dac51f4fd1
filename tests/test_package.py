"""Hygiene of the packages: which way the arrows go, what importing costs, what is public."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import oracles
import structlat as sl

ROOT = Path(__file__).parent.parent
# Lowest first: a module imports from its own layer or those above it in this list.
LAYERS = (
    {"errors"},
    {"operators"},
    {"map_oracle", "simplex"},
    {"closed_form", "lawler"},
    {"structure"},
    {"problem"},
    {"tractable"},
    {"structures"},
    {"solvers"},
    {"opaque"},
    {"distribution"},
    {"gibbs"},
    {"assemble"},
    {"normalizers"},
    {"perturbation"},
    {"factors"},
    {"layers", "losses", "plot", "testing"},
    {"estimators"},
)


def imports(path):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_oracles_know_neither_torch_nor_structlat():
    for path in (ROOT / "oracles").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "structlat"}, path


def test_arrows_go_one_way():
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for path in (ROOT / "structlat").rglob("*.py"):
        own = path.relative_to(ROOT / "structlat").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "structlat" and len(parts) > 1:
                assert rank[parts[1]] <= rank[own], f"{path} imports {name}"


def test_no_module_bears_the_name_of_a_public_function():
    modules = {m.name for m in pkgutil.iter_modules(sl.__path__)}
    public_modules = {"estimators", "losses", "structures", "testing"}
    functions = {name for name in sl.__all__ if not name[0].isupper()} - public_modules
    assert not modules & functions


def test_everything_public_is_there_and_described():
    for name in sl.__all__:
        assert getattr(sl, name).__doc__, name
    for name in oracles.__all__:
        assert importlib.import_module(f"oracles.{name}").__doc__, name


def test_the_library_imports_without_any_extra():
    code = (
        "import sys; import structlat; "
        "sys.exit(len({'matplotlib', 'lightning', 'sklearn', 'torchmetrics', 'jsonargparse'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_types_are_shipped():
    for package in (sl, oracles):
        assert (Path(package.__file__).parent / "py.typed").exists()


def test_no_path_of_one_machine():
    for folder in ("structlat", "oracles", "examples", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".jsonl", ".json"}:
                text = path.read_text()
                assert not any(place in text for place in ("/home/", "/ro" + "ot/", "/tm" + "p/")), path

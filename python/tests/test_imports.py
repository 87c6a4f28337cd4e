"""The modules of the package import each other in one direction, so that each can be read without those above it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pitwarden

PACKAGE = Path(pitwarden.__file__).parent


def imported_modules(source: str, package: str, modules: set[str]) -> Iterator[str]:
    """Every module of the package that the source imports, also inside functions and for type checkers only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)]
            base = ".".join([*(parents if node.level else []), *([node.module] if node.module else [])])
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in submodules]
        else:
            continue
        yield from (name for name in names if name in modules)


def import_graph(root: Path) -> dict[str, set[str]]:
    sources: dict[str, tuple[str, str]] = {}
    for path in root.rglob("*.py"):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        sources[name] = (path.read_text(), name if is_package else ".".join(parts[:-1]))
    modules = set(sources)
    return {name: set(imported_modules(source, package, modules)) for name, (source, package) in sources.items()}


def test_no_module_of_the_package_imports_itself_through_others() -> None:
    graph = import_graph(PACKAGE)
    assert "pitwarden._link" in graph["pitwarden.worker"]
    assert "pitwarden.worker" in graph["pitwarden.app"]
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "statement",
    [
        "from .b import thing",
        "from . import b",
        "import pkg.b",
        "def function():\n    from .b import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import thing",
    ],
)
def test_a_circle_is_found_however_a_module_is_imported(tmp_path: Path, statement: str) -> None:
    root = tmp_path / "pkg"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text(statement)
    (root / "b.py").write_text("from .a import other")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(root)).prepare()

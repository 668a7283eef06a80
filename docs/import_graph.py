"""Count the import graph of a folder: `python -m docs.import_graph service models load_tests`.

A room is a folder, or a file directly in the given one; an arrow is an import from one room into
another. Prints rooms, arrows, cycles of modules, the largest file and the longest function.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, set[str]]


def main(folders: list[str]) -> int:
    """Print one line for each folder, and each cycle."""
    if missing := [
        folder for folder in folders or ["no folder"] if not [*Path(folder).rglob("*.py")]
    ]:
        print(f"{missing[0]}: no Python files; {__doc__.splitlines()[0]}", file=sys.stderr)
        return 2
    for folder in map(Path, folders):
        files = sorted(folder.rglob("*.py"))
        imports = import_graph(folder)
        rooms = {_room(name) for name in imports}
        arrows = {
            (_room(name), _room(target))
            for name, targets in imports.items()
            for target in targets
            if _room(name) != _room(target)
        }
        lines, largest = max((len(path.read_text("utf-8").splitlines()), path) for path in files)
        found_cycles = cycles(imports)
        length, function = max(found for path in files for found in _functions(path))
        print(
            f"{folder}: {len(files)} files, {len(rooms)} rooms, {len(arrows)} arrows, "
            f"{len(found_cycles)} cycles, largest file {largest} ({lines} lines), "
            f"longest function {function} ({length} lines)"
        )
        for cycle in found_cycles:
            print("  cycle: " + ", ".join(sorted(cycle)))
    return 0


def import_graph(folder: Path) -> Graph:
    """Return the modules of a folder that each of its modules imports, if only for types."""
    modules = {_module(path): path for path in sorted(folder.rglob("*.py"))}
    return {name: set(_imports(path, modules)) for name, path in modules.items()}


def cycles(imports: Graph) -> set[frozenset[str]]:
    """Return the groups of modules that import each other in a circle."""
    reached = {name: _reachable(name, imports) for name in imports}
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in imports
        if name in reached[name]
    }


def _reachable(name: str, imports: Graph) -> set[str]:
    found: set[str] = set()
    new = [*imports[name]]
    while new:
        target = new.pop()
        if target not in found:
            found.add(target)
            new += imports[target]
    return found


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the folder that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in (name.removeprefix("tidegate.") for name in names):
            if name in modules and name != _module(path) and not _is_parent(name, path):
                yield name


def _is_parent(name: str, path: Path) -> bool:
    return _module(path).startswith(f"{name}.")


def _functions(path: Path) -> Iterator[tuple[int, str]]:
    yield 0, str(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield node.end_lineno - node.lineno + 1, f"{path}:{node.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

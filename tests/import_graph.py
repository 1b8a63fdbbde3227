"""The import graph of this project's packages: ``python -m tests.import_graph [--root DIR] [--folder FOLDER]``.

A node is a Python file, an arrow an import of one file by another. Imports inside functions and those for type checkers
count too.
"""

import argparse
import ast
import graphlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["components", "datamodules", "lightning_modules", "membridge", "apps"]
COMMANDS = ["train.py", "evaluate.py"]

Graph = dict[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    """Dotted name of a file below ``root``: ``components/model.py`` is ``components.model``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(root: Path = ROOT) -> Graph:
    """Every module of the packages, the commands and the modules beside them, with the modules that it imports."""
    paths = {module_name(path, root): path for path in sorted(root.glob("*.py"))}
    for package in PACKAGES:
        paths |= {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}
    return {name: set(imports(path, paths)) - {name} for name, path in paths.items()}


def imports(path: Path, known: Mapping[str, Path]) -> Iterable[str]:
    """The known modules that a file imports, by ``import a.b`` and by ``from a import b`` alike."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                names = (f"{node.module}.{alias.name}", node.module)
                yield from [name for name in names if name in known][:1]


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm; a graph without circles has none."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        numbers[node] = lowest[node] = len(numbers)
        stack.append(node)
        for target in graph[node]:
            if target not in numbers:
                visit(target)
            if target in stack:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == numbers[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in numbers:
            visit(node)
    return found


def floors(graph: Graph) -> dict[str, int]:
    """How many imports each node stands above the lowest one; the nodes of a circle count as one.

    Source: the longest path to a node that imports nothing.
    """
    circle = {node: group[0] for group in circles(graph) for node in group}
    merged: Graph = defaultdict(set)
    for node, targets in graph.items():
        own = circle.get(node, node)
        merged[own] |= {circle.get(target, target) for target in targets} - {own}
    height: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(merged).static_order():
        height[node] = 1 + max((height[target] for target in merged[node]), default=0)
    return {node: height[circle.get(node, node)] for node in graph}


def inside(graph: Graph, folder: str) -> Graph:
    """The part of a graph whose nodes are located in one folder, by its dotted name."""
    nodes = {node for node in graph if node.startswith(f"{folder}.")}
    return {node: graph[node] & nodes for node in sorted(nodes)}


def rooms(graph: Graph, folder: str) -> Graph:
    """What is located directly in a folder, each folder below it seen as one node.

    An arrow between two of these is an import by any file of the one of any file of the other. A circle here is an
    arrow upward: two folders that need each other, or a folder and a file beside it.
    """
    depth = len(folder.split(".")) + 1 if folder else 1
    seen = inside(graph, folder) if folder else graph
    result: Graph = defaultdict(set)
    for node, targets in seen.items():
        room = ".".join(node.split(".")[:depth])
        result[room] |= {".".join(target.split(".")[:depth]) for target in targets} - {room}
    return dict(result)


def folders(graph: Graph, root: Path = ROOT) -> list[str]:
    """Dotted names of all folders that hold a module."""
    return sorted({name for node in graph for name in prefixes(node) if (root / name.replace(".", "/")).is_dir()})


def prefixes(name: str) -> list[str]:
    """``a.b.c`` gives ``a``, ``a.b`` and ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def upward(graph: Graph, root: Path = ROOT) -> dict[str, list[list[str]]]:
    """For every folder the circles among what is located directly in it; the whole project is the folder ``""``."""
    found = {folder: circles(rooms(graph, folder)) for folder in ["", *folders(graph, root)]}
    return {folder: groups for folder, groups in found.items() if groups}


def main() -> None:
    """Print the counts of the project and of each folder, every circle, and every arrow upward."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to read (default: this one)")
    root = parser.parse_args().root.resolve()
    graph = import_graph(root)
    print(f"{'folder':36} {'files':>5} {'directly':>8} {'floors':>6} {'arrows':>6}")
    for folder in ["", *folders(graph, root)]:
        seen = inside(graph, folder) if folder else graph
        if not seen:
            continue
        directly = len([path for path in (root / folder.replace(".", "/")).glob("*.py") if path.name != "__init__.py"])
        arrows = sum(len(targets) for targets in seen.values())
        print(f"{folder or 'everything':36} {len(seen):5} {directly:8} {max(floors(seen).values()):6} {arrows:6}")
    print(f"circles of files: {circles(graph) or 'none'}")
    print(f"folders that need each other (an arrow upward): {upward(graph, root) or 'none'}")


if __name__ == "__main__":
    main()

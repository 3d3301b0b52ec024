"""What the source looks like from outside: sizes, circles of imports, long functions, repetition.

    python scripts/house.py
    python scripts/house.py --check      # exit 1 where a limit is passed
    python scripts/house.py src/imadarem/serve --lines 8

Prints one table in Markdown, and below it every find behind its numbers. Reads the source as text:
nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "imadarem"
FUNCTION_LINES = 60
FILE_LINES = 400
REPEATED_LINES = 12
TRIVIAL = set("()[]{},:")


@dataclass(frozen=True)
class Module:
    """A source file.

    Attributes:
        name: Dotted; a package has the name of its folder.
        path: Of the file, as it is printed.
        source: Its text.
        tree: Its syntax.
        package: Whether it is an ``__init__.py``.
    """

    name: str
    path: str
    source: str
    tree: ast.Module
    package: bool


def read_modules(root: Path) -> dict[str, Module]:
    """Every Python file below ``root``, by its dotted name; ``root`` is a package's folder."""
    modules = {}
    top = root.parent
    while (top / "__init__.py").exists():
        top = top.parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        source = path.read_text(encoding="utf-8")
        shown = path.relative_to(top).as_posix()
        modules[name] = Module(name, shown, source, ast.parse(source), package)
    return modules


def imports(module: Module, names: set[str], *, inside_functions: bool) -> set[str]:
    """The modules among ``names`` that this one imports, under ``TYPE_CHECKING`` too.

    ``from package import x`` is an import of ``package.x`` where that is a module, else of
    ``package``. A package that is only on the way to a module does not count.
    """
    found = set()
    for node in _statements(module.tree, inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                above = parts[: len(parts) - node.level + module.package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in names else base)
    return (found & names) - {module.name}


def _statements(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield node
        yield from _statements(node, inside_functions)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that each lead to all others of their group, the largest first."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups, placed = [], set()
    for name in graph:
        if name not in placed and name in reached[name]:
            group = sorted(other for other in reached[name] if name in reached[other])
            placed |= set(group)
            groups.append(group)
    return sorted(groups, key=len, reverse=True)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead.extend(graph[name])
    return found


def functions(module: Module) -> Iterator[tuple[int, int, str]]:
    """Lines, lines of the docstring among them, and place of every function; no decorators."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            yield _height(node), _height(told), f"{module.path}:{node.lineno} {node.name}"


def _height(node: ast.stmt | None) -> int:
    return 0 if node is None else (node.end_lineno or node.lineno) - node.lineno + 1


def code_lines(module: Module) -> list[tuple[int, str]]:
    """Number and text of the lines that say something: no imports, comments or lone brackets."""
    skipped: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert node.end_lineno is not None
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(module.source.splitlines(), start=1)
    stripped = ((number, line.strip()) for number, line in lines if number not in skipped)
    return [
        (number, line)
        for number, line in stripped
        if not set(line) <= TRIVIAL and not line.startswith("#")
    ]


def repeated(modules: Sequence[Module], least: int) -> list[tuple[int, str, str]]:
    """Pairs of places with the same ``least`` lines of code or more: lines, one place, the other.

    Indentation does not count. A passage that stands three times is three pairs.
    """
    texts = [code_lines(module) for module in modules]
    windows: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for which, lines in enumerate(texts):
        for at in range(len(lines) - least + 1):
            windows[tuple(line for _, line in lines[at : at + least])].append((which, at))
    found = []
    for places in windows.values():
        pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
        for (a, i), (b, j) in pairs:
            # Only from its first line on, and never a passage that runs into its own copy.
            if i and j and texts[a][i - 1][1] == texts[b][j - 1][1]:
                continue
            length = least
            while (
                i + length < len(texts[a])
                and j + length < len(texts[b])
                and texts[a][i + length][1] == texts[b][j + length][1]
            ):
                length += 1
            one, other = (f"{modules[m].path}:{texts[m][at][0]}" for m, at in ((a, i), (b, j)))
            found.append((length, one, other))
    return sorted(found, reverse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT, help="a package's folder")
    parser.add_argument("--lines", type=int, default=REPEATED_LINES, help="of a repetition")
    parser.add_argument("--check", action="store_true", help="exit 1 where anything is found")
    args = parser.parse_args(arguments)
    modules = read_modules(args.folder.resolve())
    names = set(modules)
    rings, hidden = (
        circles({m.name: imports(m, names, inside_functions=inside) for m in modules.values()})
        for inside in (False, True)
    )
    tall = [
        (lines, lines - told, place)
        for module in modules.values()
        for lines, told, place in functions(module)
        if lines > FUNCTION_LINES
    ]
    long = [place for _, without, place in tall if without > FUNCTION_LINES]
    sizes = {module.path: module.source.count("\n") for module in modules.values()}
    large = sorted(((n, path) for path, n in sizes.items() if n > FILE_LINES), reverse=True)
    same = repeated(list(modules.values()), args.lines)
    print("| | |\n|---|---|")
    print(f"| lines of Python | {sum(sizes.values()):,} |")
    print(f"| files | {len(sizes)} |")
    print(f"| circles of imports, type checking included | {len(rings)} |")
    print(f"| the same with imports inside functions | {len(hidden)} |")
    print(f"| functions of more than {FUNCTION_LINES} lines | {len(tall)} |")
    print(f"| the same, docstrings left out | {len(long)} |")
    print(f"| files of more than {FILE_LINES} lines | {len(large)} |")
    print(f"| pairs of places with the same {args.lines} lines | {len(same)} |")
    show("Circles", (", ".join(ring) for ring in rings))
    show("With imports inside functions", (", ".join(r) for r in hidden if r not in rings))
    told = (f"{lines} ({rest} without docstring) {p}" for lines, rest, p in sorted(tall)[::-1])
    show("Functions", told)
    show("Files", (f"{length} {path}" for length, path in large))
    show("The same lines", (f"{length} {one} {other}" for length, one, other in same))
    return int(args.check and bool(rings or long or large or same))


def show(title: str, finds: Iterator[str]) -> None:
    told = list(finds)
    if told:
        print(f"\n{title}:")
        print("\n".join(f"- {find}" for find in told))


if __name__ == "__main__":
    sys.exit(main())

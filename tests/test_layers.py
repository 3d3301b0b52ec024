"""The architecture, as rules over the source: who imports whom, what is public, who prints."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "imadarem"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

# A module imports its own layer and those before it (docs: "imports point one way").
LAYERS = (
    ("errors",),
    ("checks",),
    ("backbone_spec", "conditions", "files", "locks", "row_pool", "workers"),
    ("config",),
    ("checkpoint",),
    ("tokenizers", "model_folder", "pretrained"),
    ("canvas",),
    ("corruption", "nn", "backbones", "data", "viz"),
    ("sampling",),
    ("evaluation",),
    ("training",),
    ("repair",),
    ("growth", "model"),
    ("loading",),
    ("design",),
    ("orchestrator",),
    ("harness", "hf"),
    ("serve", "cli", "__main__"),
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}

CORE = {"errors", "config", "corruption", "canvas", "nn", "sampling", "training"}
FOREIGN_TO_CORE = {"rdkit", "selfies", "transformers", "fastapi"}


def module_name(file: Path) -> str:
    parts = (PACKAGE, *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# The package's own __init__ gathers the public names of all layers.
FILES = sorted(file for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


def room(module: str) -> str:
    """``imadarem.nn.judge`` stands in the room ``nn``."""
    return module.split(".")[1] if "." in module else module


@cache
def imports_and_calls(source: str) -> list[ast.AST]:
    """At whatever depth; a source is parsed once for all rules."""
    kinds = (ast.Import, ast.ImportFrom, ast.Call)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def imported_modules(module: str, is_package: bool, source: str) -> Iterator[str]:
    """Every module that ``source`` imports, at whatever depth, as an absolute name."""
    for node in imports_and_calls(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, is_package, node)
            # "from imadarem import nn" names the module nn; "from imadarem.nn import Model"
            # may name anything, and its room is nn in any case.
            if base == PACKAGE:
                yield from (f"{base}.{alias.name}" for alias in node.names)
            else:
                yield base


def absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    kept = len(parts) - node.level + is_package
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])


def upward_imports(module: str, is_package: bool, source: str) -> list[str]:
    """The imports that point to a later layer, to no layer, or to the package's front door."""
    return [
        target
        for target in imported_modules(module, is_package, source)
        if target.split(".")[0] == PACKAGE
        and target != f"{PACKAGE}.__version__"
        and RANK.get(room(target), len(LAYERS)) > RANK[room(module)]
    ]


def foreign_imports(module: str, is_package: bool, source: str) -> list[str]:
    targets = imported_modules(module, is_package, source)
    return [target for target in targets if target.split(".")[0] in FOREIGN_TO_CORE]


def lines_that_print(source: str) -> list[int]:
    return [
        node.lineno
        for node in imports_and_calls(source)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]


def found_in_each(files: list[Path], find: Callable[..., list[Any]]) -> dict[str, list[Any]]:
    """Module → what is found in its source, where anything is."""
    found = {}
    for file in files:
        name = module_name(file)
        found[name] = find(name, file.name == "__init__.py", file.read_text("utf-8"))
    return {name: there for name, there in found.items() if there}


def test_every_module_stands_in_a_layer():
    assert [name for name in map(module_name, FILES) if room(name) not in RANK] == []


def test_imports_point_one_way():
    assert found_in_each(FILES, upward_imports) == {}


def test_the_torch_core_imports_no_chemistry_and_no_web():
    core = [file for file in FILES if room(module_name(file)) in CORE]
    assert found_in_each(core, foreign_imports) == {}


def test_only_the_command_line_prints():
    files = [file for file in FILES if module_name(file) != f"{PACKAGE}.cli"]
    assert found_in_each(files, lambda name, package, source: lines_that_print(source)) == {}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        # sampling stands after nn, before training.
        ("imadarem.sampling.loop", "from imadarem.nn.model import Model", []),
        ("imadarem.sampling.loop", "from imadarem.sampling import halting", []),
        ("imadarem.sampling.loop", "import imadarem.training", ["imadarem.training"]),
        ("imadarem.sampling.loop", "from imadarem import cli", ["imadarem.cli"]),
        ("imadarem.sampling.loop", "from ..training import loop", ["imadarem.training"]),
        ("imadarem.sampling.loop", "def f():\n    import imadarem.cli", ["imadarem.cli"]),
        # The front door imports every layer, so no layer may enter through it.
        ("imadarem.canvas", "import imadarem", ["imadarem"]),
        ("imadarem.canvas", "from imadarem import Model", ["imadarem.Model"]),
        ("imadarem.canvas", "import imadarem_extras, torch", []),
    ],
)
def test_an_upward_import_is_found_in_any_form(module, source, wrong):
    assert upward_imports(module, False, source) == wrong


def test_a_relative_import_in_a_package_starts_at_the_package():
    assert list(imported_modules("imadarem.nn", True, "from . import blocks")) == ["imadarem.nn"]
    assert list(imported_modules("imadarem.nn.model", False, "from . import ema")) == [
        "imadarem.nn"
    ]


def test_a_foreign_import_is_found_inside_a_function():
    source = "def f():\n    from rdkit.Chem import Mol"
    assert foreign_imports("imadarem.canvas", False, source) == ["rdkit.Chem"]


def test_a_print_is_found_and_a_console_is_left_alone():
    assert lines_that_print("x = 1\nprint(x)\nconsole.print(x)") == [2]


def constants_classes_functions(name: str) -> tuple[bool, bool, str]:
    """The order of ruff's RUF022, which sorts names by their kind first."""
    return (not name.isupper(), not name[0].isupper(), name)


def test_public_names_are_sorted_and_exist():
    files = [file for file in FILES if "__all__ = " in file.read_text("utf-8")]
    for name in [PACKAGE, *map(module_name, files)]:
        module = importlib.import_module(name)
        public = list(getattr(module, "__all__", []))
        assert public == sorted(set(public), key=constants_classes_functions), name
        assert [missing for missing in public if not hasattr(module, missing)] == [], name


def test_the_front_door_shows_sorted_names_that_all_open() -> None:
    import imadarem

    assert imadarem.__all__ == sorted(set(imadarem.__all__))
    for name in imadarem.__all__:
        found = getattr(imadarem, name)
        assert name == "__version__" or found.__module__.startswith("imadarem."), name
    with pytest.raises(AttributeError, match="no_such_name"):
        imadarem.no_such_name  # noqa: B018

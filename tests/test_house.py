"""The script that measures the source: what it finds in a package made up for it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("house")


def package(folder: Path, **files: str) -> Path:
    """A package ``p`` with these modules."""
    (folder / "p").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (folder / "p" / f"{name}.py").write_text(text)
    return folder / "p"


def found(house, root: Path, *, inside: bool = False) -> list[list[str]]:
    modules = house.read_modules(root)
    graph = {
        name: house.imports(module, set(modules), inside_functions=inside)
        for name, module in modules.items()
    }
    return house.circles(graph)


def test_a_circle_closed_for_type_checkers_alone_is_one(house, tmp_path):
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x\n"
    root = package(tmp_path, a="from p import b\n", b="import p.c\n", c=checked, d="import p.a\n")
    assert found(house, root) == [["p.a", "p.b", "p.c"]]


def test_an_import_inside_a_function_counts_where_it_is_asked_for(house, tmp_path):
    root = package(tmp_path, a="from .b import f\n", b="def f():\n    import p.a\n")
    assert found(house, root) == []
    assert found(house, root, inside=True) == [["p.a", "p.b"]]


# Twelve lines of the 13 that both have after the imports; a comment and a blank line do not count.
def test_a_repetition_is_told_once_with_both_its_places(house, tmp_path):
    same = "".join(f"    y{i} = {i}\n" for i in range(12))
    root = package(
        tmp_path,
        a=f"import os\n\n\ndef f():\n{same}",
        b=f"import sys\n# Another.\nclass C:\n    pass\n\n{same}    z = 1\n",
    )
    modules = list(house.read_modules(root).values())
    assert house.repeated(modules, 12) == [(12, "p/a.py:5", "p/b.py:6")]
    assert house.repeated(modules, 13) == []


def test_a_long_function_is_told_with_and_without_its_docstring(house, tmp_path, capsys):
    body = "    pass\n" * 60
    root = package(
        tmp_path,
        a=f'def f():\n    """One.\n\n    Two."""\n{body}',
        b="".join(f"x{i} = 1\n" for i in range(401)),
    )
    assert house.main([str(root), "--check"]) == 1
    said = capsys.readouterr().out
    assert "- 64 (61 without docstring) p/a.py:1 f" in said
    assert "- 401 p/b.py" in said
    assert house.main([str(root)]) == 0

"""The documentation: links lead somewhere, Python runs, commands exist, pages are short."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import check_docs  # noqa: E402
import figures  # noqa: E402
import make_docs  # noqa: E402

PAGES = check_docs.pages()
BLOCKS = [(page, check_docs.blocks(page)) for page in PAGES]
RUN = [
    page
    for page, blocks in BLOCKS
    if "shipped" not in page.parts  # test_shipped.py runs what the model cards show
    and any(block.language == "python" and not block.slow for block in blocks)
]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    assert {name(page): check_docs.broken_links(page) for page in PAGES} == dict.fromkeys(
        map(name, PAGES), []
    )


def test_a_page_that_a_user_needs_is_at_most_two_screens_long() -> None:
    read = [name(page) for page in PAGES if name(page).startswith("docs/")]
    lengths = {page: len((ROOT / page).read_text(encoding="utf-8").splitlines()) for page in read}
    long = {page for page, lines in lengths.items() if lines > 120}
    free = ("docs/lab/", "docs/benchmarks/headline.md")
    assert {page for page in long if not page.startswith(free)} == set()


def test_every_command_and_import_on_a_page_exists() -> None:
    wrong = []
    for page, blocks in BLOCKS:
        for block in blocks:
            try:
                if block.language == "python":
                    check_docs.check_imports(block)
                elif block.language == "bash":
                    for command in block.commands:
                        check_docs.check_command(command)
            except Exception as error:
                wrong.append(f"{name(page)}:{block.line}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    names = {"__name__": "page"}
    for block in check_docs.blocks(page):
        if block.language == "python" and not block.slow:
            check_docs.run_python(block, names)


def test_readme_cards_and_benchmark_page_show_the_figures_that_were_measured() -> None:
    texts = figures.rendered(figures.load())
    assert {path.name for path, text in texts.items() if path.read_text("utf-8") != text} == set()


def test_every_public_class_and_function_has_a_docstring_for_the_reference() -> None:
    bare = []
    for module, names in make_docs.public_names().items():
        path = ROOT / "src" / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
                bare += [] if ast.get_docstring(node) else [f"{module}.{node.name}"]
    assert bare == []


def test_every_page_stands_on_a_shelf_of_the_site_and_in_llms_txt() -> None:
    listed = make_docs.llms_txt()
    pages = [page for shelf in make_docs.sections().values() for page in shelf]
    assert [page for page in pages if f"[{make_docs.title(page)}](" not in listed] == []
    found = {page for page in PAGES if name(page).startswith("docs/")}
    assert found - set(pages) == {ROOT / "docs/index.md"}

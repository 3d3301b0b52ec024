"""The documentation: links lead somewhere, Python runs, commands exist, pages are short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import check_docs  # noqa: E402

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
    long = {page: lines for page, lines in lengths.items() if lines > 120}
    assert {page for page in long if not page.startswith("docs/lab/")} == set()


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

"""Whether the links of the documentation lead somewhere and what it shows runs.

    python scripts/check_docs.py                          # all pages; `make docs-check`
    python scripts/check_docs.py docs/how-to/repair.md    # these pages

The blocks of a page run from top to bottom in one folder with sample files, its Python blocks with
one set of names. A comment on the line before a block changes that:

    <!-- slow -->                 not in the tests, only here
    <!-- slow: --steps 2 -->      the same, with these flags behind each command of the block
    <!-- file: my_tasks.py -->    it is a file of this name, too
    <!-- not run: REASON -->      the tests only look up its imports, commands and flags

Exit code 1: a link is broken or a block failed.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: At the root of the repository: what a visitor reads.
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
)
#: In docs/reference/api, written by scripts/make_docs.py.
GENERATED = ("index.md", "cli.md", "settings.md")
FENCE = re.compile(r"(?:^<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Its file.
        line: Of the page, where the block begins.
        language: ``python``, ``bash``, …
        text: What stands between the fences.
        mark: The comment before it, or an empty string.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def slow(self) -> bool:
        """Whether it runs here alone, or not at all."""
        return self.mark.startswith(("slow", "not run: "))

    @property
    def commands(self) -> list[str]:
        """The commands of a ``bash`` block, continued lines joined, comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line and not line.startswith("#")]


def pages() -> list[Path]:
    """Every page, the lab log and the model cards included; not what is generated."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src/imadarem/shipped").rglob("*.md")]
    kept = [page for page in found if "api" not in page.parent.parts]
    return sorted(kept) + [ROOT / name for name in PAGES if (ROOT / name).exists()]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of ``page``, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: m.start(2)].count("\n") + 1, m[2], m[3], (m[1] or "").strip())
        for m in FENCE.finditer(text)
    ]


def anchors(page: Path) -> set[str]:
    """The ids that its headings get on the site and on GitHub."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r"\{ *#([\w.-]+) *\}", text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found |= {re.sub(r"[-\s]+", "-", plain), re.sub(r"\s", "-", plain)}
    return found


def broken_links(page: Path) -> list[str]:
    """The relative links of ``page`` whose file or heading does not exist."""
    broken = []
    for url in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", url):
            continue
        path, _, anchor = url.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.parent.name == "api" and target.name in GENERATED:
            continue
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(url)
    return broken


def check_imports(block: Block) -> None:
    """Raise unless the block is Python and every name that it imports from the package exists."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imadarem"):
            module = import_module(str(node.module))
            for alias in node.names:
                getattr(module, alias.name)


def check_command(command: str) -> None:
    """Raise unless the command of the package, or the script, has the flags that are named."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    for end, word in enumerate(words):
        if word in ("|", ">", "&&"):
            words = words[:end]
            break
    if "imadarem" in words[:6]:
        from imadarem.cli.app import app
        from imadarem.cli.solve import STDIN

        given = words[words.index("imadarem") + 1 :]
        tokens = [STDIN if word == "-" else word for word in given]
        app.parse_args(tokens, exit_on_error=False, print_error=False)
    elif words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        flags = [word for word in words if word.startswith("--")]
        unknown = [flag for flag in flags if f'"{flag}"' not in source]
        if unknown:
            raise ValueError(f"{words[1]} has no flag {', '.join(unknown)}")


def write_file(block: Block, folder: Path) -> None:
    """Write a block that is a file into ``folder``."""
    if block.mark.startswith("file: "):
        (folder / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python with ``names``, its lines numbered as on the page."""
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(block.page), "exec", dont_inherit=True), names)


def run_shell(block: Block, folder: Path) -> None:
    """Run the commands of a block by bash in ``folder``; raises if one of them fails."""
    flags = block.mark.partition("slow:")[2]
    commands = "\n".join(command.split("  #")[0].rstrip() + flags for command in block.commands)
    text = commands if flags else block.text
    start = f'set -euo pipefail\nshopt -s expand_aliases\nalias python="{sys.executable}"\n'
    start += f'imadarem() {{ "{sys.executable}" -m imadarem "$@"; }}\n'
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", "-c", start + text], cwd=folder, env=environment, check=True)


def sample_files(folder: Path) -> None:
    """Write the files that the pages name into ``folder``, and link the folders of scripts."""
    from imadarem.data.moses import load_moses_sample

    molecules = load_moses_sample("test")[:60]
    listed = "\n".join(molecules) + "\n"
    puzzles = ".....2...14...3.\n1.3.3....4..2...\n"
    files = {
        "mine.csv": "SMILES\n" + listed,
        "leads.csv": "SMILES\nCc1ccc(C(=O)Nc2ccc(F)cc2)cc1\n",
        "molecules.smi": listed,
        "broken.smi": "CCN(CCc1ccccc1\n",
        "table.csv": "id,smiles\nA1,CCN(CCc1ccccc1\n",
        "scaffolds.csv": "SMILES\nc1ccc(*)cc1\n",
        "puzzle.txt": puzzles.splitlines()[0] + "\n",
        "puzzles.txt": puzzles,
        "novel.txt": "\n".join(f"The {n} cats sat on the {n} mats." for n in range(500)) + "\n",
        "my_scores.py": "def docking(smiles):\n    return -float(len(smiles))\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("benchmarks", "examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)


def run_page(page: Path) -> Iterator[tuple[Block, str]]:
    """Run all blocks of a page; yields each block that failed, with the last line of why."""
    names: dict[str, Any] = {"__name__": "page"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sample_files(folder)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        try:
            for block in blocks(page):
                if block.mark.startswith("not run: "):
                    continue
                try:
                    write_file(block, folder)
                    if block.language == "python":
                        run_python(block, names)
                    elif block.language == "bash":
                        run_shell(block, folder)
                except Exception as error:
                    yield block, traceback.format_exception_only(error)[-1].strip()
        finally:
            sys.path.remove(str(folder))
            os.chdir(before)


def main(arguments: Sequence[str]) -> int:
    """Check the named pages, or all of them; returns the exit code."""
    failed = 0
    for page in [Path(name).resolve() for name in arguments] or pages():
        start = time.perf_counter()
        problems = [f"broken link {url}" for url in broken_links(page)]
        problems += [f"line {block.line}: {why}" for block, why in run_page(page)]
        failed += len(problems)
        seconds = time.perf_counter() - start
        print(f"{page.relative_to(ROOT)}: {len(problems)} problems, {seconds:.0f} s", flush=True)
        for problem in problems:
            print(f"    {problem}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

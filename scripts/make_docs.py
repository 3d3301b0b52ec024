"""Write the reference from the source, build the site into site/, and write its llms.txt.

    python scripts/make_docs.py              # `make docs`
    python scripts/make_docs.py --reference  # the pages of the reference alone

The reference of Python comes from docstrings (griffe2md), that of the command line from its help
(cyclopts). Both lie in docs/reference/api, which git ignores.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import griffe

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
API = DOCS / "reference" / "api"
SITE = ROOT / "site"
#: Folder of docs/ → its name on the site, in this order.
SECTIONS = {
    "tutorials": "Tutorials",
    "how-to": "How to",
    "reference": "Reference",
    "explanation": "Explanation",
    "benchmarks": "Benchmarks",
    "lab": "Lab log",
}
CONFIGS = (
    "imadarem.config.ImplicitRefinementConfig",
    "imadarem.orchestrator.config.OrchestrationConfig",
    "imadarem.training.settings.TrainingConfig",
)
LOOK = {
    "docstring_section_style": "table",
    "filters": ["!^_"],
    "heading_level": 2,
    "merge_init_into_class": True,
    "show_if_no_docstring": False,
    "show_submodules": False,
    "summary": False,
    "signature_crossrefs": False,
}


def public_names() -> dict[str, list[str]]:
    """Module → its public names: its ``__all__``, or else what it defines without an underscore.

    Of constants without ``__all__`` those that a comment ``#:`` describes.
    """
    found = {}
    for path in sorted((ROOT / "src/imadarem").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        text = path.read_text(encoding="utf-8")
        lines, listed, own = text.splitlines(), None, []
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                own.append(node.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                if node.targets[0].id == "__all__":
                    listed = [str(name) for name in ast.literal_eval(node.value)]
                elif lines[node.lineno - 2].startswith("#:"):
                    own.append(node.targets[0].id)
        names = [name for name in own if not name.startswith("_")] if listed is None else listed
        if names:
            found[".".join(part for part in parts if part != "__init__")] = names
    return found


def reference_pages(public: dict[str, list[str]]) -> dict[str, str]:
    """File name in docs/reference/api → its Markdown, of the names of :func:`public_names`."""
    import griffe
    from griffe2md import render_object_docs

    package = griffe.load("imadarem", search_paths=[ROOT / "src"], docstring_parser="google")
    rooms: dict[str, list[str]] = {}
    for name in public:
        if name != "imadarem" and name.split(".")[1] != "cli":
            rooms.setdefault(name.split(".")[1], []).append(name)
    pages = {}
    for room, names in rooms.items():
        texts = []
        for name in names:
            module = package[name.partition(".")[2]]
            text = render_object_docs(module, LOOK)
            texts += [text, *_without_docstring(module, public[name], _ids(text))]
        pages[f"{room}.md"] = f"# imadarem.{room}\n\n" + "\n\n".join(texts)
    settings = [render_object_docs(package[name.partition(".")[2]], LOOK) for name in CONFIGS]
    pages["settings.md"] = "# Every setting\n\n" + "\n\n".join(settings)
    places = {
        anchor: page
        for page, text in pages.items()
        if page != "settings.md"
        for anchor in _ids(text)
    }
    linked = {page: _linked(text, page, places) for page, text in pages.items()}
    return linked | {"cli.md": _command_line(), "index.md": _index(linked, public["imadarem"])}


def _without_docstring(module: griffe.Module, names: list[str], shown: list[str]) -> list[str]:
    """Sections for the public names that have no docstring: constants, types, other modules'."""
    sections = []
    lines = Path(str(module.filepath)).read_text(encoding="utf-8").splitlines()
    for name in names:
        full = f"{module.path}.{name}"
        if full in shown:
            continue
        member = module.members.get(name)
        if member is not None and member.is_alias:
            text = f"The same as [`{member.target_path}`](#{member.target_path})."
        else:
            # griffe leaves out names that are assigned several at a time.
            named = (
                n for n, line in enumerate(lines) if re.match(rf"[\w, ]*\b{name}\b.* = ", line)
            )
            first = next(named) if member is None else member.lineno - 1
            last = first + 1 if member is None else member.endlineno
            above = first
            while lines[above - 1].startswith("#:"):
                above -= 1
            comment = " ".join(line[2:].strip() for line in lines[above:first])
            source = "\n".join(lines[first:last])
            text = f"{comment}\n\n```python\n{source}\n```"
        sections.append(f"### `{full}`\n\n{text}")
    return sections


def _ids(text: str) -> list[str]:
    return re.findall(r"^#+ `(imadarem[\w.]*)`$", text, re.MULTILINE)


def _linked(text: str, page: str, places: dict[str, str]) -> str:
    """Headings with the full name as their id, and links to names that have one."""

    def target(name: str, shown: str) -> str:
        if name not in places:
            return shown
        return f"[{shown}]({'' if places[name] == page else places[name]}#{name})"

    def role(match: re.Match[str]) -> str:
        name = match[2]
        shown = f"`{name.rsplit('.', 1)[-1] if match[1] else name}`"
        return target(name, shown)

    text = re.sub(r"^(#+) `(imadarem[\w.]*)`$", _heading, text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]\[]*)\]\(#([\w.]+)\)", lambda match: target(match[2], match[1]), text)
    return re.sub(r":\w+:`(~?)([\w.]+)`", role, text)


def _heading(match: re.Match[str]) -> str:
    return f"{match[1]} `{match[2].removeprefix('imadarem.')}` {{ #{match[2]} }}"


def _command_line() -> str:
    from imadarem.cli.app import app

    text = app.generate_docs(output_format="markdown", recursive=True)
    return re.sub(r"^# imadarem$", "# The command line", text, count=1, flags=re.MULTILINE)


def _index(pages: dict[str, str], exported: list[str]) -> str:
    """The names that ``from imadarem import`` finds, and the list of pages."""
    names = [name for name in exported if not name.startswith("_")]
    places = {
        anchor: page
        for page, text in pages.items()
        for anchor in re.findall(r"\{ #([\w.]+) \}", text)
        if page != "settings.md"
    }
    rows = []
    for name in names:
        full = _origin(name)
        rows.append(f"- [`{name}`]({places[full]}#{full})" if full in places else f"- `{name}`")
    modules = sorted(set(pages) - {"settings.md"})
    links = [f"- [imadarem.{page.removesuffix('.md')}]({page})" for page in modules]
    top = "# Python\n\nThe names that `from imadarem import …` finds:\n\n" + "\n".join(rows)
    return top + "\n\nBy module:\n\n" + "\n".join(links) + "\n"


def _origin(name: str) -> str:
    """The full name of an object that the package exports."""
    import imadarem

    found = getattr(imadarem, name)
    return f"{found.__module__}.{found.__qualname__}"


def write_reference() -> None:
    """Write the pages of the reference into docs/reference/api, and nothing else there."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir(parents=True)
    public = public_names()
    pages = reference_pages(public)
    shown = set(re.findall(r"\{ #([\w.]+) \}", "".join(pages.values())))
    wanted = {f"{module}.{name}" for module, names in public.items() for name in names}
    # What the package itself exports has a page of links; the commands have the page of their help.
    missing = sorted(n for n in wanted - shown if n.count(".") > 1 and ".cli." not in n)
    if missing:
        raise SystemExit(f"no reference for {', '.join(missing)}")
    for name, text in pages.items():
        (API / name).write_text(text, encoding="utf-8")


def title(page: Path) -> str:
    """The heading of a page."""
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ").replace("`", "")


def sections() -> dict[str, list[Path]]:
    """Name of a section → its pages: the index first, then by title; the lab log by date."""
    found = {}
    for folder, name in SECTIONS.items():
        pages = [page for page in (DOCS / folder).rglob("*.md") if page.name != "index.md"]
        pages.sort(key=lambda page: page.name if page.parent.name == "lab" else title(page).lower())
        index = DOCS / folder / "index.md"
        found[name] = [index] * index.exists() + pages
    return found


def build() -> None:
    """Build the site by zensical; an unresolved link is an error."""
    entries = ['{ "Home" = "index.md" }']
    for name, pages in sections().items():
        shown = [(title(page).replace('"', ""), page.relative_to(DOCS)) for page in pages]
        listed = ", ".join(f'{{ "{head}" = "{page.as_posix()}" }}' for head, page in shown)
        entries.append(f'{{ "{name}" = [{listed}] }}')
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    made = ROOT / "zensical.made.toml"
    nav = f"[project]\nnav = [{', '.join(entries)}]"
    made.write_text(config.replace("[project]", nav, 1), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
        subprocess.run([*command, "-f", made.name], cwd=ROOT, check=True)
    finally:
        made.unlink()


def llms_txt() -> str:
    """The pages with their first sentence, in the form of llmstxt.org."""
    lines = ["# Imadarem", "", f"> {_first_sentence(DOCS / 'index.md')}", ""]
    for name, pages in sections().items():
        lines += [f"## {'Optional' if name == 'Lab log' else name}", ""]
        for page in pages:
            url = page.relative_to(DOCS).with_suffix("").as_posix().removesuffix("index")
            lines.append(f"- [{title(page)}]({url}): {_first_sentence(page)}")
        lines.append("")
    return "\n".join(lines)


def _first_sentence(page: Path) -> str:
    text = re.sub(r"^(#.*|<!--.*?-->|```.*?^```)$", "", page.read_text("utf-8"), flags=re.M | re.S)
    paragraph = next((part for part in text.split("\n\n") if part.strip()), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
    return re.split(r"(?<=[.:]) ", plain)[0][:200]


def main() -> None:
    write_reference()
    if "--reference" in sys.argv[1:]:
        return
    build()
    (SITE / "llms.txt").write_text(llms_txt(), encoding="utf-8")
    print(f"{SITE / 'index.html'}: {len(list(SITE.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()

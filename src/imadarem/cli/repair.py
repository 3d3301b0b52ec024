"""``imadarem repair``: find the errors in sequences that exist, and predict those again."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import grid, json_line, note, out
from imadarem.cli.models import Switch, load_model
from imadarem.cli.numbers import Positive, Seed, real
from imadarem.cli.solve import STDIN
from imadarem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from imadarem.cli.sequence_file import SequenceFile
    from imadarem.model import ImplicitRefinementModel
    from imadarem.repair import Repair

Threshold = Annotated[float, real(0, 1)]
#: Rows listed in a table; more belong in a file.
LISTED = 50
UNREADABLE = "unreadable"


def repair(
    *rows: str,
    file: Path | None = None,
    column: str | None = None,
    model: str = "smiles",
    check: str = "none",
    threshold: Threshold = 0.5,
    rounds: Positive = 4,
    budget: Positive = 60,
    flagged_too: Switch = False,
    dry_run: Switch = False,
    out_file: Annotated[Path | None, Parameter(name="--out")] = None,
    report: Path | None = None,
    json: Switch = False,
    seed: Seed = 0,
    device: str | None = None,
) -> int:
    """Repair sequences: predict again what looks wrong, and leave everything else as it is.

    **Examples**

    ```
    imadarem repair "CC(=O)Nc1ccc(O)cc" --check rdkit
    imadarem repair --file broken.smi --check rdkit --out repaired.smi --report edits.html
    imadarem repair --file molecules.csv --column smiles --check rdkit --out repaired.csv
    cat broken.smi | imadarem repair - --json
    imadarem repair --file broken.smi --dry-run
    ```

    A row that looks right, or that the check accepts, comes back identical. A row that cannot
    be repaired is written as it was given and counted; the exit code is then 1.

    Args:
        rows: Sequences in the model's notation, such as SMILES; `-` reads them from stdin.
        file: Text file with one sequence per line; `.smi`, where it is the first word of a
            line; `.csv` or `.tsv` with a header; FASTA (`.fasta`, `.fa`, `.faa`).
        column: The column of a table that holds the sequences; default: smiles, sequence or
            text.
        model: A folder written by a training run, a name on the Hugging Face Hub, or a model
            of the package: "smiles" or "druglike".
        check: What decides whether a row is right. `rdkit`: RDKit can read it. `words:FILE`: all
            its words are in a file with one word per line. `module:function`: a Python function
            that takes a text and returns True or False. `none`: the model's judge, if it has
            one.
        threshold: Probability of an error above which a row is repaired.
        rounds: Maximum number of times that a row is changed and judged again.
        budget: Maximum number of calls of the check for each row.
        flagged_too: Also repair rows that the check accepts and the judge flags.
        dry_run: Show what looks wrong, and repair nothing.
        out_file: Also write the rows to this file: in the form of `--file` where both have the
            same ending, else one per line.
        report: Also write an HTML page with every edit marked.
        json: Print one JSON object per row.
        seed: The same seed gives the same repairs.
        device: cpu or cuda; default: cuda if available.
    """
    source = _source(rows, file, column)
    texts = source.texts
    checker = None if check == "none" else _checker(check)
    network = load_model(model, device)
    readable, unreadable = _split(network, texts)
    if dry_run:
        return _show_judgements(network, texts, readable, json)
    repairs = network.repair(
        [texts[number] for number in readable],
        checker=checker,
        threshold=threshold,
        rounds=rounds,
        budget=budget,
        flagged_too=flagged_too,
        seed=seed,
    )
    found = dict(zip(readable, repairs, strict=True))
    if out_file is not None:
        from imadarem.files import write_text

        repaired = [found[n].text or text if n in found else text for n, text in enumerate(texts)]
        write_text(source.written(repaired, out_file, file), out_file)
    records = _records(network, texts, found, unreadable)
    if report is not None:
        from imadarem.files import write_text
        from imadarem.viz.repairs import repairs_page

        write_text(repairs_page(file.name if file else "Repairs", records), report)
    _show(records, json)
    reasons = Counter(record["reason"] for record in records)
    note(", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items()))
    return int(bool(reasons["gave_up"] or unreadable))


def _source(rows: tuple[str, ...], file: Path | None, column: str | None) -> SequenceFile:
    from imadarem.cli.sequence_file import SequenceFile

    if bool(rows) == (file is not None):
        raise ConfigError(
            "give either sequences, or --file with one per line, or - to read them from stdin. "
            "See: imadarem repair --help"
        )
    if file is not None:
        return SequenceFile.read(file, column)
    if column is not None:
        raise ConfigError("--column is for a --file that is a .csv or .tsv table.")
    if STDIN not in rows and "-" not in rows:
        return SequenceFile.from_lines(rows)
    source = SequenceFile.from_lines(sys.stdin)
    if not source.texts:
        raise DataError("stdin holds no sequence. Give one per line.")
    return source


def _checker(check: str) -> Callable[[str], bool]:
    if check == "rdkit":
        from imadarem.data.molecules import is_molecule

        return is_molecule
    module, _, name = check.partition(":")
    if module == "words":
        from imadarem.data.words import WordList

        return WordList.read(name)
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--check {check!r} cannot be loaded ({error}). Give rdkit, none, words:FILE, or "
            "module:function with a function that takes a text and returns True or False."
        ) from None
    # A partial function travels to other processes, where a lambda would not.
    return partial(_holds, function)


def _holds(check: Callable[[str], Any], text: str) -> bool:
    return bool(check(text))


def _split(model: ImplicitRefinementModel, texts: list[str]) -> tuple[list[int], dict[int, str]]:
    """Numbers of the rows that the model can read, and why it cannot read the others."""
    from imadarem.evaluation.judgement import encoded_rows

    readable, unreadable = [], {}
    longest = model.config.max_seq_len
    for number, text in enumerate(texts):
        try:
            (row,) = encoded_rows(model, [text])
        except DataError as error:
            unreadable[number] = str(error)
            continue
        if 0 < len(row) <= longest:
            readable.append(number)
        else:
            unreadable[number] = f"it has {len(row)} tokens; the model takes 1 to {longest}."
    return readable, unreadable


def _records(
    model: ImplicitRefinementModel,
    texts: list[str],
    found: dict[int, Repair],
    unreadable: dict[int, str],
) -> list[dict[str, Any]]:
    """The rows as JSON values."""
    from imadarem.repair.records import spelled_tokens

    records: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        record: dict[str, Any] = {"row": number, "given": text}
        if number in found:
            repair = found[number]
            record["tokens"] = spelled_tokens(model.tokenizer, repair.given)
            record |= repair.spelled(model.tokenizer)
        else:
            record |= {"text": text, "changed": False, "reason": UNREADABLE}
            record["error"] = unreadable[number]
        records.append(record)
    return records


def _show(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for record in records:
            json_line(record)
        return
    rows: list[list[str | Text]] = []
    for record in records[:LISTED]:
        reason = record["reason"]
        edits = record.get("error") or "  ".join(map(_edit, record["edits"]))
        style = {"gave_up": "red", "clean": "dim"}.get(reason, "green")
        after = Text(record["text"] or "", style=style if record["changed"] else "dim")
        rows.append([record["given"], after, reason.replace("_", " "), edits])
    out().print(grid(["given", "repaired", "", "edits"], rows, left=4))
    if len(records) > LISTED:
        note(f"{len(records) - LISTED:,} more rows are not listed; --out writes all of them.")


def _edit(edit: dict[str, Any]) -> str:
    """``insert ) before token 7``: an edit in words, positions counted from 1."""
    position = edit["position"] + 1
    if edit["kind"] == "insert":
        return f"insert {edit['after']} before token {position}"
    if edit["kind"] == "delete":
        return f"delete {edit['before']} at token {position}"
    return f"{edit['before']} → {edit['after']} at token {position}"


def _show_judgements(
    model: ImplicitRefinementModel, texts: list[str], readable: list[int], as_json: bool
) -> int:
    judgements = model.judge([texts[number] for number in readable]) if readable else []
    for number, judgement in zip(readable, judgements, strict=True):
        spelled = model.tokenizer.convert_ids_to_tokens(judgement.tokens)
        if as_json:
            record = {"row": number, "text": texts[number], **vars(judgement), "tokens": spelled}
            json_line(record)
            continue
        wrong = judgement.wrong or [1.0 - math.exp(-nats) for nats in judgement.surprise]
        line = Text()
        for token, probability in zip(spelled, wrong, strict=True):
            style = "bold red" if probability > 0.5 else "yellow" if probability > 0.2 else ""
            line.append(token, style=style)
        out().print(line)
    return 0

"""``imadarem repair``: find the errors in sequences that exist, and predict those again."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
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
    from imadarem.model import ImplicitRefinementModel
    from imadarem.repair import Repair

__all__ = ["repair"]

Threshold = Annotated[float, real(0, 1)]
#: Rows listed in a table; more belong in a file.
LISTED = 50
UNREADABLE = "unreadable"


def repair(
    *rows: str,
    file: Path | None = None,
    model: str = "smiles",
    check: str = "none",
    threshold: Threshold = 0.5,
    rounds: Positive = 3,
    budget: Positive = 60,
    dry_run: Switch = False,
    out_file: Annotated[Path | None, Parameter(name="--out")] = None,
    json: Switch = False,
    seed: Seed = 0,
    device: str | None = None,
) -> int:
    """Repair sequences: predict again what looks wrong, and leave everything else as it is.

    **Examples**

    ```
    imadarem repair "CC(=O)Nc1ccc(O)cc" --check rdkit
    imadarem repair --file broken.smi --check rdkit --out repaired.smi
    cat broken.smi | imadarem repair - --json
    imadarem repair --file broken.smi --dry-run
    ```

    A row that looks right, or that the check accepts, comes back identical. A row that cannot
    be repaired is written as it was given and counted; the exit code is then 1.

    Args:
        rows: Sequences in the model's notation, such as SMILES; `-` reads them from stdin.
        file: Text file with one sequence per line; of a line only the first word is read in a
            `.smi` file.
        model: A folder written by a training run, a name on the hub, or "smiles".
        check: `rdkit`: a row must be a molecule that RDKit reads. `module:function`: a Python
            function that takes a text and returns whether it is right. `none`: the model's
            judge decides; for models that have one.
        threshold: Probability of being wrong above which a place is repaired.
        rounds: Times that a row is changed and judged again, at most.
        budget: Calls of the check for each row, at most.
        dry_run: Show what looks wrong, and repair nothing.
        out_file: Also write the rows to this file, one per line, in their order.
        json: Print one JSON object per row.
        seed: The same seed gives the same repairs.
        device: cpu or cuda; default is cuda where there is one.
    """
    texts = _texts(rows, file)
    checker = None if check == "none" else _checker(check)
    network = load_model(model, device)
    readable, unreadable = _split(network, texts)
    if dry_run:
        return _show_judgements(network, texts, readable, json)
    found: dict[int, Repair] = dict(
        zip(
            readable,
            network.repair(
                [texts[number] for number in readable],
                checker=checker,
                threshold=threshold,
                rounds=rounds,
                budget=budget,
                seed=seed,
            )
            if readable
            else [],
            strict=True,
        )
    )
    repaired = [found[n].text or text if n in found else text for n, text in enumerate(texts)]
    if out_file is not None:
        from imadarem.files import write_text

        write_text("".join(f"{text}\n" for text in repaired), out_file)
    _show(network, texts, found, unreadable, json)
    reasons = Counter(r.reason for r in found.values()) + Counter({UNREADABLE: len(unreadable)})
    note(", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items()))
    return int(bool(reasons["gave_up"] or unreadable))


def _texts(rows: tuple[str, ...], file: Path | None) -> list[str]:
    if bool(rows) == (file is not None):
        raise ConfigError(
            "give either sequences, or --file with one per line, or - to read them from stdin. "
            "See: imadarem repair --help"
        )
    if file is not None:
        from imadarem.data.text import read_lines

        lines = read_lines(file)
        words = file.name.removesuffix(".gz").endswith((".smi", ".smiles"))
        return [line.split()[0] if words else line.strip() for line in lines]
    if STDIN in rows or "-" in rows:
        texts = [line.strip() for line in sys.stdin if line.strip()]
        if not texts:
            raise DataError("stdin holds no sequence. Give one per line.")
        return texts
    return list(rows)


def _checker(check: str) -> Callable[[str], bool]:
    if check == "rdkit":
        from imadarem.data.molecules import is_molecule

        return is_molecule
    module, _, name = check.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--check {check!r} cannot be loaded ({error}). Give rdkit, none, or "
            "module:function with a function that takes a text and returns True or False."
        ) from None
    return lambda text: bool(function(text))


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


def _show(
    model: ImplicitRefinementModel,
    texts: list[str],
    found: dict[int, Repair],
    unreadable: dict[int, str],
    as_json: bool,
) -> None:
    if as_json:
        for number, text in enumerate(texts):
            record: dict[str, Any] = {"row": number, "given": text}
            if number in found:
                record |= found[number].spelled(model.tokenizer)
            else:
                record |= {"text": text, "changed": False, "reason": UNREADABLE}
                record["error"] = unreadable[number]
            json_line(record)
        return
    rows: list[list[str | Text]] = []
    for number, text in list(enumerate(texts))[:LISTED]:
        if number in unreadable:
            rows.append([text, "", UNREADABLE, unreadable[number]])
            continue
        repair = found[number]
        edits = "  ".join(_edit(edit) for edit in repair.spelled(model.tokenizer)["edits"])
        style = {"gave_up": "red", "clean": "dim"}.get(repair.reason, "green")
        after = Text(repair.text or "", style=style if repair.changed else "dim")
        rows.append([text, after, repair.reason.replace("_", " "), edits])
    out().print(grid(["given", "repaired", "", "edits"], rows, left=4))
    if len(texts) > LISTED:
        note(f"{len(texts) - LISTED:,} more rows are not listed; --out writes all of them.")


def _edit(edit: dict[str, Any]) -> str:
    change = f"{edit['before'] or ''}→{edit['after'] or ''}"
    return f"{edit['position'] + 1}: {change}"


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

"""Other ways to repair SMILES, for the table of ``benchmarks/repair.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import is_molecule
from imadarem.evaluation.judgement import judge_rows

#: Rows of token ids → the same after a repair, and the calls of RDKit that it took.
Method = Callable[[Sequence[list[int]]], tuple[list[list[int]], int]]


def unjudged(model: Any) -> ImplicitRefinementModel:
    """The same model without its judge, which then searches by likelihood and a checker alone."""
    plain = ImplicitRefinementModel(replace(model.config, judge=False), model.tokenizer).eval()
    weights = {k: w for k, w in model.state_dict().items() if ".judge." not in k}
    plain.load_state_dict({k: w for k, w in weights.items() if not k.startswith("teacher.")})
    return plain


def own_methods(model: Any, budget: int) -> dict[str, Method]:
    """What the model does: by its judge, with RDKit, and without a judge."""

    def method(of: Any, **options: Any) -> Method:
        def run(rows: Sequence[list[int]]) -> tuple[list[list[int]], int]:
            repairs = of.repair(rows, **options)
            return [r.tokens for r in repairs], sum(r.checks for r in repairs)

        return run

    checked = {"checker": is_molecule, "budget": budget}
    found = {
        "judge": method(model),
        "judge and RDKit": method(model, **checked),
        "judge and RDKit, flagged too": method(model, **checked, flagged_too=True),
    }
    found = found if model.config.judge else {}
    return {**found, "no judge, RDKit": method(unjudged(model), **checked)}


def rival_methods(model: Any, budget: int, seed: int) -> dict[str, Method]:
    """What is done without this library."""
    special = set(model.tokenizer.all_special_ids)
    vocabulary = [n for n in range(len(model.tokenizer)) if n not in special]
    rng = np.random.default_rng(seed)

    def each(one: Callable[[list[int]], tuple[list[int], int]]) -> Method:
        def run(rows: Sequence[list[int]]) -> tuple[list[list[int]], int]:
            pairs = [one(row) for row in rows]
            return [row for row, _ in pairs], sum(calls for _, calls in pairs)

        return run

    def valid(row: Sequence[int]) -> bool:
        return len(row) <= model.config.max_seq_len and is_molecule(model.tokenizer.decode(row))

    def every_edit(row: list[int]) -> tuple[list[int], int]:
        """The likeliest molecule among all rows that one edit away from it."""
        if valid(row):
            return row, 1
        edits = neighbours(row, vocabulary)
        taken = [edit for edit in edits if valid(edit)]
        if not taken:
            return row, 1 + len(edits)
        nats = [sum(judgement.surprise) for judgement in judge_rows(model, taken, 256)]
        return taken[int(np.argmin(nats))], 1 + len(edits)

    def random_edits(row: list[int]) -> tuple[list[int], int]:
        """One or two edits at random, the first that RDKit takes."""
        calls = 1
        if valid(row):
            return row, calls
        for _ in range(budget):
            edit = row
            for _ in range(int(rng.integers(1, 3))):
                edit = one_edit(edit, vocabulary, rng)
            calls += 1
            if valid(edit):
                return edit, calls
        return row, calls

    def rules(row: list[int]) -> tuple[list[int], int]:
        """Brackets and ring digits without a partner are taken out or closed at the end."""
        if valid(row):
            return row, 1
        tokens = paired(model.tokenizer.convert_ids_to_tokens(row))
        ids = model.tokenizer.encode("".join(tokens)) if tokens else row
        return (ids, 2) if valid(ids) else (row, 2)

    def redraw(rows: Sequence[list[int]]) -> tuple[list[list[int]], int]:
        """Another molecule, drawn by the model."""
        bad = [n for n, row in enumerate(rows) if not valid(row)]
        drawn = model.sample(len(bad), seed=seed, verifier=is_molecule, redraws=20)
        found = list(rows)
        for n, row in zip(bad, drawn.rows, strict=True):
            found[n] = row.ids.tolist()
        return found, 2 * len(rows)

    return {
        "every edit, RDKit, likelihood": each(every_edit),
        "random edits, RDKit": each(random_edits),
        "rules": each(rules),
        "redraw": redraw,
    }


def neighbours(row: list[int], vocabulary: Sequence[int]) -> list[list[int]]:
    """All rows one edit away."""
    found = {tuple(row[:at] + row[at + 1 :]) for at in range(len(row))} - {()}
    for token in vocabulary:
        found |= {(*row[:at], token, *row[at + 1 :]) for at in range(len(row))}
        found |= {(*row[:at], token, *row[at:]) for at in range(len(row) + 1)}
    return sorted(map(list, found - {tuple(row)}))


def one_edit(row: list[int], vocabulary: Sequence[int], rng: np.random.Generator) -> list[int]:
    """A token replaced, put in or left out."""
    at, kind, token = int(rng.integers(len(row))), int(rng.integers(3)), int(rng.choice(vocabulary))
    if kind == 2 and len(row) > 1:
        return row[:at] + row[at + 1 :]
    return [*row[:at], token, *row[at + (kind == 0) :]]


def paired(tokens: Sequence[str]) -> list[str]:
    """Without brackets and ring digits that have no partner; open brackets are closed."""
    found: list[str] = []
    depth, rings = 0, {}
    for token in tokens:
        if token == ")" and depth == 0:
            continue
        depth += (token == "(") - (token == ")")
        if token.isdigit():
            if token in rings:
                del rings[token]
            else:
                rings[token] = len(found)
        found.append(token)
    found = [token for at, token in enumerate(found) if at not in rings.values()]
    return found + [")"] * depth

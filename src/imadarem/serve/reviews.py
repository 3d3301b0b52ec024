"""Finished rows that a request has judged or repaired: checks before, records after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from imadarem.data.molecules import is_molecule
from imadarem.errors import DataError
from imadarem.evaluation.held_out import HeldOut
from imadarem.evaluation.judgement import Judgement, encoded_rows, judge_rows
from imadarem.repair import repair_rows
from imadarem.repair.candidates import place_log_probs
from imadarem.repair.records import spelled_tokens
from imadarem.repair.sites import Row, every_site, place_count
from imadarem.serve.catalogue import SUDOKU, ServedModel
from imadarem.serve.jobs import Review
from imadarem.serve.limits import MAX_LISTED_TOKENS, MAX_SMILES_CHARS

#: The checkers that a request may name; a request runs no other code.
CHECKERS = {"none": None, "rdkit": is_molecule}


def readable_rows(
    model: ServedModel, texts: Sequence[str], *, check: str = "none", alternatives: int = 0
) -> list[list[int]]:
    """The token ids of texts; call it on a thread."""
    if model.kind == SUDOKU:
        raise DataError(
            f"the model {model.id!r} solves sudokus. Send a puzzle to /v1/solve, which verifies it."
        )
    longest = model.network.config.max_seq_len
    for number, text in enumerate(texts):
        if CHECKERS[check] is not None and len(text) > MAX_SMILES_CHARS:
            raise DataError(
                f"rows[{number}] has {len(text)} characters; a checker is given at most "
                f"{MAX_SMILES_CHARS}. Send it without check."
            )
        if model.max_prompt_chars is not None and len(text) > model.max_prompt_chars:
            raise DataError(
                f"rows[{number}] has {len(text)} characters, which is more than the {longest} "
                f"tokens that {model.id!r} accepts. Shorten it."
            )
    rows = encoded_rows(model.network, texts)
    most = min(longest, MAX_LISTED_TOKENS) if alternatives else longest
    for number, row in enumerate(rows):
        if not 1 <= len(row) <= most:
            extra = f" with alternatives, and {longest} without" if most < longest else ""
            raise DataError(
                f"rows[{number}] has {len(row)} tokens; {model.id!r} accepts 1 to {most}{extra}."
            )
    HeldOut.from_rows(rows, model.network.special)  # refuses special tokens
    return rows


def review(parts: Sequence[tuple[Review, range]]) -> tuple[list[dict[str, Any]], int]:
    """The records of a batch's rows and the forward passes they took; the rows share a batch."""
    first = parts[0][0]
    model, settings = first.model, first.repair
    owners = [(job, number) for job, numbers in parts for number in numbers]
    texts = [job.texts[number] for job, number in owners]
    rows = [job.rows[number] for job, number in owners]
    if settings is None:
        judgements = judge_rows(model.network, rows, len(rows))
        records = [
            {"text": text, **_judged(model, judgement, first.alternatives)}
            for text, judgement in zip(texts, judgements, strict=True)
        ]
        places = sum(map(place_count, map(len, rows))) if first.alternatives else 0
        return records, len(rows) + places
    seeds = torch.cat([job.seeds[n.start : n.stop] for job, n in parts])
    protected = [job.protected[number] for job, number in owners]
    repairs = repair_rows(model.network, texts, settings, protected=protected, seed=seeds)
    tokenizer = model.network.tokenizer
    records = [
        {"given": text, "tokens": spelled_tokens(tokenizer, row), **repair.spelled(tokenizer)}
        for text, row, repair in zip(texts, rows, repairs, strict=True)
    ]
    return records, sum(repair.row_passes for repair in repairs)


def _judged(model: ServedModel, judgement: Judgement, alternatives: int) -> dict[str, Any]:
    """A judgement as JSON values, with the most likely tokens of each place where asked for."""
    record = {
        **vars(judgement),
        "tokens": spelled_tokens(model.network.tokenizer, judgement.tokens),
    }
    if not alternatives:
        return {**record, "replacements": None, "insertions": None}
    row = Row(judgement.tokens, [False] * len(judgement.tokens))
    sites = list(every_site(row, judgement))
    full = len(row.tokens) == model.network.config.max_seq_len
    fits = [site for site in sites if not (site.is_gap and full)]
    places = [(row.tokens, site) for site in fits]
    best = torch.stack(place_log_probs(model.network, places, MAX_LISTED_TOKENS))
    values, ids = best.exp().topk(min(alternatives, best.shape[1]))
    replacements: list[list[dict[str, Any]]] = [[] for _ in row.tokens]
    insertions: list[list[dict[str, Any]]] = [[] for _ in range(len(row.tokens) + 1)]
    for site, probabilities, tokens in zip(fits, values.tolist(), ids.tolist(), strict=True):
        spelled = spelled_tokens(model.network.tokenizer, tokens)
        nothing = model.network.special.nothing
        listed = ["" if n == nothing else token for n, token in zip(tokens, spelled, strict=True)]
        pairs = zip(listed, probabilities, strict=True)
        (insertions if site.is_gap else replacements)[site.position] += [
            {"token": token, "probability": p} for token, p in pairs if p > 0
        ]
    return {**record, "replacements": replacements, "insertions": insertions}

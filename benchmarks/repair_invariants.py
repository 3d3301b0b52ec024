"""What holds for every repair, tried on random rows.

    python benchmarks/repair_invariants.py --cases 100000 --out out/repairs.jsonl --processes 2
    python benchmarks/repair_invariants.py --quick

A case is a molecule after 0 to 4 random edits, or a row of random tokens, with random protected
positions. A group of 100 cases shares a threshold, a number of rounds, a checker or none, and
a model with or without the token *nothing*, all random, and is repaired twice, in two orders
and two batch sizes. In nine of ten groups the model is a small one of random weights, which
finds something in every second place; in the others it is ``smiles``.
Counted are the rows

- in which a token changed or moved that was protected; or, in one round without a checker, one
  that was neither flagged nor among the most suspect places (none at all in a row that looks
  right),
- in which a blank, padding or a special token is left, or nothing is,
- that depend on the rows beside them.

All three must be 0; the exit code is 1 otherwise. A run that was stopped goes on from the lines
of ``--out``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from random_groups import run_groups

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.data.molecules import is_molecule
from imadarem.data.moses import load_moses_sample
from imadarem.evaluation.judgement import Judgement
from imadarem.repair import Repair
from imadarem.repair.rows import BLANKED, PLACES, SHARE
from imadarem.repair.sites import Row, error_nats, flagged_sites, likely_sites
from imadarem.tokenizers import SmilesTokenizer
from imadarem.training.judging import local_edits

FAULTS = ("changed", "not finished", "depends on batch")


def main(arguments: Sequence[str] | None = None) -> None:
    run_groups(__doc__, run_group, FAULTS, arguments, quick=2)


def run_group(number: int, size: int) -> dict[str, Any]:
    """Repair one group of ``size`` rows twice and count the faults."""
    torch.set_num_threads(1)
    rng = random.Random(f"repairs/{number}")
    model = loaded("random" if number % 10 else "smiles", number % 2 == 0)
    checker = rng.choice([None, None, is_molecule, even])
    options: dict[str, Any] = {
        "threshold": rng.choice([0.5, rng.random()]),
        "rounds": rng.choice([1, 1, 2, 4]),
        "checker": checker,
        "budget": rng.randint(1, 60),
        "flagged_too": rng.random() < 0.5,
    }
    rows = [new_row(model, rng) for _ in range(size)]
    protected = [
        [at for at in range(len(row)) if rng.random() < share]
        for row in rows
        for share in [rng.choice([0.0, rng.random()])]
    ]
    first = model.repair(rows, protected=protected, **options)
    order = rng.sample(range(size), size)
    again = model.repair(
        [rows[n] for n in order],
        protected=[protected[n] for n in order],
        batch_size=rng.choice([3, 13, 40]),
        **options,
    )
    second = dict(zip(order, again, strict=True))
    strict = checker is None and options["rounds"] == 1
    flags = model.judge(rows) if strict else [None] * size
    changed = 0
    for row, kept, judgement, repair in zip(rows, protected, flags, first, strict=True):
        given = Row(row, [at in kept for at in range(len(row))])
        if judgement is None:
            places = {(at, gap) for gap in (False, True) for at in range(len(row) + 1)}
        else:
            places = open_places(given, judgement, options["threshold"])
        changed += not keeps(given, repair.tokens, places)
    return {
        "group": number,
        "cases": size,
        "nothing": model.special.nothing is not None,
        **{key: value for key, value in options.items() if key != "checker"},
        "checker": getattr(checker, "__name__", None),
        "changed": changed,
        "not finished": sum(not is_finished(model, repair) for repair in first),
        "depends on batch": sum(
            (repair.tokens, repair.reason) != (second[n].tokens, second[n].reason)
            for n, repair in enumerate(first)
        ),
    }


def open_places(row: Row, judgement: Judgement, threshold: float) -> set[tuple[int, bool]]:
    """Where one round without a checker may change a row."""
    if -math.expm1(-error_nats(row, judgement)) <= threshold:
        return set()
    sites = likely_sites(row, judgement, PLACES[-1], SHARE)
    sites += flagged_sites(row, judgement, min(BLANKED) * threshold)
    return {(site.position, site.is_gap) for site in sites}


@cache
def loaded(name: str, with_nothing: bool) -> ImplicitRefinementModel:
    """A shipped model, or one of random weights."""
    if name != "random":
        return ImplicitRefinementModel.from_pretrained(name).eval()
    tokenizer = SmilesTokenizer.from_corpus(molecules()[:500])
    tokenizer = tokenizer.with_nothing() if with_nothing else tokenizer
    torch.manual_seed(with_nothing)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        max_seq_len=48,
        length_mode="drawn",
        joint_size=8,
        judge=True,
    )
    model = ImplicitRefinementModel(config, tokenizer=tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
        assert model.network.judge is not None
        model.network.judge.score.bias.fill_(0.0)
    return model


@cache
def molecules() -> list[str]:
    return load_moses_sample("train")


def even(text: str) -> bool:
    """A checker of no meaning that takes half of all rows."""
    return len(text) % 2 == 0


def new_row(model: ImplicitRefinementModel, rng: random.Random) -> list[int]:
    """A molecule with 0 to 4 edits, or random tokens."""
    special = model.special
    vocabulary = [n for n in range(model.config.vocab_size) if n not in special.banned]
    vocabulary = [n for n in vocabulary if n != special.eos]
    longest = model.config.max_seq_len
    if rng.random() < 0.1:
        return rng.choices(vocabulary, k=rng.randint(1, longest))
    row = model.tokenizer.encode(rng.choice(molecules()))
    numbers = np.random.default_rng(rng.randrange(2**62))
    return local_edits(row, np.array(vocabulary), rng.randint(0, 4), numbers)[:longest]


def keeps(given: Row, tokens: list[int], places: set[tuple[int, bool]]) -> bool:
    """Whether ``tokens`` is the row with other tokens in these places alone."""
    reached = {0}
    for at in range(len(given.tokens) + 1):
        if (at, True) in places and given.may_insert(at):
            reached = set(range(min(reached), len(tokens) + 1)) if reached else reached
        if at == len(given.tokens):
            break
        free = (at, False) in places and not given.protected[at]
        same = {p + 1 for p in reached if tokens[p : p + 1] == [given.tokens[at]]}
        any_token = {p + 1 for p in reached if p < len(tokens)}
        reached = reached | any_token if free else same
    return len(tokens) in reached


def is_finished(model: ImplicitRefinementModel, repair: Repair) -> bool:
    """Whether tokens are left, and no blank, padding or special token."""
    special = model.special
    unwanted = {*special.banned, special.mask, special.pad, special.eos, special.nothing}
    fits = 0 < len(repair.tokens) <= model.config.max_seq_len
    return fits and not unwanted & set(repair.tokens)


if __name__ == "__main__":
    main()

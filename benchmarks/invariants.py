"""What holds for every infill, tried on random cases over the shipped models.

    python benchmarks/invariants.py --cases 100000 --out out/invariants.jsonl --processes 2
    python benchmarks/invariants.py --quick

A case is a prompt with random holes. A group of 100 cases shares a model, a policy, 1 to 16 steps,
a temperature, a schedule and a truncation, all random, and is infilled twice, in two random
orders: in batches of 30 or 100 rows and of 1 to 40. Counted are the rows

- in which a given token changed or moved,
- in which a blank, padding or a special token is left, or the length is wrong,
- whose tokens, steps or stopping reason depend on the rows beside them.

All three must be 0; the exit code is 1 otherwise. A group is a pure function of its number: a
run that was stopped goes on from the lines of ``--out``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from random_groups import GROUP, run_groups

from imadarem import ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.data.sudoku import relations
from imadarem.sampling.batching import Refined, Widths, refine_all
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import POLICIES
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SpecialIds

MODELS = ("selfies", "smiles", "sudoku")
FAULTS = ("given changed", "not finished", "depends on batch")


def main(arguments: Sequence[str] | None = None) -> None:
    run_groups(__doc__, run_group, FAULTS, arguments, quick=8)


def run_group(number: int, size: int = GROUP) -> dict[str, Any]:
    """Infill one group of ``size`` rows twice and count the faults."""
    torch.set_num_threads(1)
    rng = random.Random(f"invariants/{number}")
    # The first groups go through every pair of a model and a policy.
    name = MODELS[number % len(MODELS)]
    policy = list(POLICIES)[number // len(MODELS) % len(POLICIES)]
    model = shipped(name)
    prompts = [new_prompt(name, model, rng) for _ in range(size)]
    settings = new_settings(model, policy, rng)
    seeds = row_seeds(size, rng.randrange(2**62))
    canvas = Canvas.with_holes(prompts, model.special)
    large, small = rng.choice([30, 100]), rng.choice([1, 3, 7, 13, 13, 13, 40, 40])
    first, second = (infilled(model, canvas, seeds, settings, n, rng) for n in (large, small))
    rows = list(zip(prompts, first, second, strict=True))
    return {
        "group": number,
        "cases": size,
        "model": name,
        "policy": policy,
        "steps": settings.steps,
        "given changed": sum(not keeps_given(p, a.ids.tolist(), model.special) for p, a, _ in rows),
        "not finished": sum(not is_finished(p, a.ids.tolist(), model.special) for p, a, _ in rows),
        "depends on batch": sum(not same(a, b) for _, a, b in rows),
    }


@cache
def shipped(name: str) -> ImplicitRefinementModel:
    return ImplicitRefinementModel.from_pretrained(name)


def new_settings(
    model: ImplicitRefinementModel, policy: str, rng: random.Random
) -> SamplingSettings:
    settings = SamplingSettings.from_config(
        model.config,
        policy=policy,
        steps=rng.randint(1, 16),
        temperature=rng.choice([0.5, 1.0, 1.5]),
        schedule=rng.choice(["linear", "cosine"]),
        top_k=rng.choice([None, 5]),
        top_p=rng.choice([None, 0.9]),
    )
    return replace(settings, reinject=model.config.carry and rng.random() < 0.5)


def new_prompt(name: str, model: ImplicitRefinementModel, rng: random.Random) -> list[int]:
    """Tokens with holes: windows, scattered blanks, an end, everything, or a single blank."""
    config, special = model.config, model.special
    unwanted = {*special.banned, special.eos, special.nothing}
    legal = [index for index in range(config.vocab_size) if index not in unwanted]
    if name == "sudoku":
        size = rng.choice([4, 6, 9])
        length, legal = len(relations(size)[0]), legal[:size]
    else:
        length = rng.randint(1, config.max_seq_len - 1)
    row = rng.choices(legal, k=length)
    start, end = sorted((rng.randrange(length), rng.randrange(length)))
    share = rng.random()
    kind = rng.randrange(5)
    for place in range(length):
        inside = start <= place <= end
        blank = (inside, rng.random() < share, place >= start, True, place == start)[kind]
        if blank or place == start:
            optional = special.nothing is not None and kind == 0 and place > start
            row[place] = special.nothing if optional else special.mask
    return row


def infilled(
    model: ImplicitRefinementModel,
    canvas: Canvas,
    seeds: torch.Tensor,
    settings: SamplingSettings,
    batch_size: int,
    rng: random.Random,
) -> list[Refined]:
    """The rows in their order, refined in a random order."""
    order = rng.sample(range(len(canvas)), len(canvas))
    numbers = torch.tensor(order)
    rows = refine_all(
        model.network.eval(),
        canvas.rows(numbers),
        seeds[numbers],
        settings,
        batch_size=batch_size,
        widths=Widths.of(model.config),
    )
    return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]


def keeps_given(prompt: list[int], ids: list[int], special: SpecialIds) -> bool:
    """Whether ``ids`` is the prompt with a token in each blank, or none in an optional one."""
    places = {0}
    for wanted in prompt:
        one_further = {
            place + 1
            for place in places
            if place < len(ids)
            and (wanted in (special.mask, special.nothing) or ids[place] == wanted)
        }
        places = places | one_further if wanted == special.nothing else one_further
    return len(ids) in places


def is_finished(prompt: list[int], ids: list[int], special: SpecialIds) -> bool:
    """Whether no blank, padding or special token is left."""
    unwanted = {*special.banned, special.mask, special.pad, special.eos, special.nothing}
    optional = prompt.count(special.nothing) if special.nothing is not None else 0
    whole = len(prompt) - optional <= len(ids) <= len(prompt)
    return whole and not unwanted & set(ids)


def same(a: Refined, b: Refined) -> bool:
    return torch.equal(a.ids, b.ids) and (a.steps, a.reason) == (b.steps, b.reason)


if __name__ == "__main__":
    main()

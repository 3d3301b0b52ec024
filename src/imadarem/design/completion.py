"""Molecules around given fragments: linkers, motifs, scaffolds, superstructures.

The four fragment tasks of Noutahi et al. (arXiv:2310.10773) as infilling. Whatever the model
writes, a molecule is returned only if :func:`~imadarem.design.verification.rejection_reason` finds
nothing lost; what is lost is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from imadarem.data.molecules import canonical
from imadarem.design.fragment import Fragment
from imadarem.design.fragment_task import KINDS, FragmentTask
from imadarem.design.odd_groups import first_reason
from imadarem.design.prompts import Notation, Prompt, SafeNotation, SmilesNotation
from imadarem.design.selfies_prompts import SelfiesNotation
from imadarem.design.verification import TOO_LONG, UNFIT
from imadarem.errors import ConfigError, DataError

__all__ = [
    "KINDS",
    "Completed",
    "Completions",
    "FragmentTask",
    "collect",
    "complete",
    "draw",
    "notation_of",
    "row_seed",
    "sample_molecules",
]

NOTATIONS: dict[str, type[Notation]] = {
    "safe": SafeNotation,
    "selfies": SelfiesNotation,
    "smiles": SmilesNotation,
}
#: Blanks where neither the caller nor the training lengths say how many.
FEWEST, MOST = 3, 16
#: Rows drawn at most for each molecule that was asked for.
DRAWS_EACH = 20
#: Samples drawn at a time.
BLOCK = 256
#: Random spellings tried for a row before it counts as too long for the canvas.
SPELLINGS = 30


@dataclass(frozen=True, slots=True)
class Completed:
    """One row that the model filled.

    Attributes:
        smiles: Canonical SMILES; None where the blanks make no molecule with the fragment.
        lost: Why it cannot be returned; None where everything given is in it.
        forward_passes: Passes of the network it cost.
    """

    smiles: str | None
    lost: str | None
    forward_passes: int


@dataclass(frozen=True)
class Completions:
    """Molecules that have what was given, and what became of the other rows.

    Attributes:
        rows: Distinct molecules in the order of their drawing.
        draws: Rows that were filled.
        lost: Reason → rows that were not returned for it, ``repeated`` among them.
        shown_by: Tokens of the fragments that the model does not know, and what it was
            shown in their place.
    """

    rows: list[Completed] = field(default_factory=list)
    draws: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    shown_by: dict[str, str] = field(default_factory=dict)

    @property
    def smiles(self) -> list[str]:
        """The molecules."""
        return [row.smiles for row in self.rows if row.smiles is not None]


def complete(
    model: Any,
    task: FragmentTask,
    n: int = 16,
    *,
    blanks: tuple[int | None, int | None] = (None, None),
    seed: int = 0,
    accept: Callable[[str], str | None] | None = None,
    allow_odd: bool = False,
    most_draws: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    **sampling: Any,
) -> Completions:
    """Draw until there are ``n`` distinct molecules with everything that was given.

    Args:
        model: Of molecules, with one of the built-in tokenizers.
        task: What is given.
        n: Molecules wanted.
        blanks: Fewest and most blanks of a row, in tokens; default by the lengths of the
            training molecules.
        seed: The same seed gives the same molecules.
        accept: Why a molecule with all fragments is not wanted, or None; such as
            :meth:`imadarem.design.filters.Filters.rejection_reason`.
        allow_odd: Return molecules with odd groups (:mod:`imadarem.design.odd_groups`) and ring
            systems that the reference table does not have, beside those of the fragments, too.
        most_draws: Rows to give up after; default 20 for each molecule wanted.
        on_rows: Called with the number of molecules just found.
        sampling: Settings of :meth:`ImplicitRefinementModel.infill`.

    Raises:
        ConfigError: The model writes no molecules, or a number is out of range.
        DataError: The fragments do not fit the model's canvas or vocabulary.
    """
    shown_by: dict[str, str] = {}

    def drawn(count: int, first: int) -> list[Completed]:
        return draw(
            model, task, count, blanks=blanks, seed=seed, first=first, shown_by=shown_by, **sampling
        )

    if not allow_odd:
        accept = first_reason(task.oddities().rejection_reason, accept)
    made = collect(drawn, n, accept=accept, most_draws=most_draws, on_rows=on_rows)
    return replace(made, shown_by=shown_by)


def sample_molecules(
    model: Any,
    n: int = 16,
    *,
    accept: Callable[[str], str | None] | None = None,
    most_draws: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    **sampling: Any,
) -> Completions:
    """Draw from blank canvases until there are ``n`` distinct molecules that are wanted.

    Args:
        model: Of molecules.
        n: Molecules wanted.
        accept: Why a molecule is not wanted, or None.
        most_draws: Rows to give up after; default 20 for each molecule wanted.
        on_rows: Called with the number of molecules just found.
        sampling: Settings of :meth:`ImplicitRefinementModel.sample`.

    Raises:
        ConfigError: The model writes no molecules.
    """
    notation_of(model)

    def drawn(count: int, first: int) -> list[Completed]:
        made = model.sample(min(BLOCK, count), first=first, **sampling)
        passes = made.forward_passes
        return [Completed(canonical(s), None, k) for s, k in zip(made, passes, strict=True)]

    return collect(drawn, n, accept=accept, most_draws=most_draws, on_rows=on_rows)


def collect(
    draw: Callable[[int, int], Sequence[Completed]],
    n: int,
    *,
    accept: Callable[[str], str | None] | None = None,
    most_draws: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Completions:
    """Draw until there are ``n`` distinct molecules; what is lost is counted by its reason.

    Args:
        draw: Takes a number of rows and the number of the first one.

    The other arguments are those of :func:`complete`.
    """
    if n < 1:
        raise ConfigError(f"n={n} molecules cannot be drawn; ask for at least 1.")
    limit = DRAWS_EACH * n if most_draws is None else most_draws
    rows: dict[str, Completed] = {}
    lost: Counter[str] = Counter()
    draws = 0
    while len(rows) < n and draws < limit:
        # As many again as are missing: the same for every machine, so seeds mean something.
        count = min(limit - draws, max(2 * (n - len(rows)), 8))
        for row in draw(count, draws):
            draws += 1
            reason = "no molecule" if row.smiles is None else None
            reason = row.lost or reason or ("repeated" if row.smiles in rows else None)
            if reason is None and accept is not None:
                reason = accept(str(row.smiles))
            if reason is not None:
                lost[reason] += 1
                continue
            rows[str(row.smiles)] = row
            if on_rows is not None:
                on_rows(1)
            if len(rows) == n:
                break
    return Completions(list(rows.values()), draws, dict(lost.most_common()))


def draw(
    model: Any,
    task: FragmentTask,
    count: int,
    *,
    blanks: tuple[int | None, int | None] = (None, None),
    seed: int = 0,
    first: int = 0,
    shown_by: dict[str, str] | None = None,
    **sampling: Any,
) -> list[Completed]:
    """Fill exactly ``count`` rows, lost and repeated ones included; see :func:`complete`.

    Args:
        first: Number of the first row; a row's result depends on its number and the seed.
        shown_by: Filled with the tokens that the model was shown by others.
    """
    prompts = list(_prompts(model, task, count, blanks, seed, first))
    fitting = [prompt for prompt in prompts if prompt is not None]
    if not fitting:
        raise _too_long(model, task, blanks, seed)
    if shown_by is not None:
        for fits in fitting:
            shown_by.update(fits.shown_by)
    tokenizer = model.tokenizer
    rows = [prompt.ids(tokenizer) for prompt in fitting]
    filled = iter(model.infill(rows, seed=row_seed(seed, first), **sampling).rows)
    completed = []
    for prompt in prompts:
        if prompt is None:
            completed.append(Completed(None, TOO_LONG, 0))
        else:
            row = next(filled)
            tokens = tokenizer.convert_ids_to_tokens(row.ids)
            completed.append(_verified(prompt, tokens, row.forward_passes, task))
    return completed


def _verified(prompt: Prompt, tokens: Sequence[str], passes: int, task: FragmentTask) -> Completed:
    text = prompt.fill(tokens)
    form = None if text is None else canonical(text)
    if form is None:
        return Completed(None, UNFIT if text is None else "no molecule", passes)
    return Completed(form, task.rejection_reason(form), passes)


def row_seed(seed: int, first: int) -> int:
    """The seed of the rows from number ``first`` on."""
    return int(np.random.SeedSequence([seed, first]).generate_state(1, np.uint64)[0] >> 2)


# --- prompts


def _prompts(
    model: Any,
    task: FragmentTask,
    count: int,
    window: tuple[int | None, int | None],
    seed: int,
    first: int,
) -> Iterator[Prompt | None]:
    """The prompt of each row; None where no random spelling of it fits the canvas."""
    notation = notation_of(model)
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        yield _prompt(model, notation, task, window, rng)


def notation_of(model: Any) -> Notation:
    """How fragments are written for a model.

    Raises:
        ConfigError: It writes no molecules.
    """
    name = getattr(model.tokenizer, "notation", "text")
    if name not in NOTATIONS:
        raise ConfigError(
            f"this model writes {name}, and fragments need a model of molecules: one trained "
            f"with --tokenizer {', '.join(NOTATIONS)}."
        )
    return NOTATIONS[name](model.tokenizer, model.config.max_seq_len)


def prompt_of(
    notation: Notation,
    kind: str,
    fragments: Sequence[Fragment],
    blanks: int,
    rng: np.random.Generator,
) -> Prompt:
    """The row of a kind of task, for fragments with attachment points."""
    if kind == "ring":
        return notation.closing(fragments[0], blanks, rng)
    if len(fragments) == 1:
        return notation.around(fragments[0], blanks, rng)
    if len(fragments) == 2:
        return notation.between(fragments[0], fragments[1], blanks, rng)
    return notation.core(fragments, blanks, rng)


def _prompt(
    model: Any,
    notation: Notation,
    task: FragmentTask,
    window: tuple[int | None, int | None],
    rng: np.random.Generator,
) -> Prompt | None:
    """A random spelling of the fragments with a random number of blanks that fits the canvas.

    Spellings of one fragment differ in length. None where none of 30 spellings fits.
    """
    for _ in range(SPELLINGS):
        opened, given, spelling = _spelled(notation, task, rng)
        least = _fewest_blanks(task, opened)
        if notation.hides:
            given = min(given, notation.room - max(MOST, 4 * least, *(n or 0 for n in window)))
        blanks = _blank_count(model.config, given, least, window, rng)
        if blanks is None:
            continue
        prompt = prompt_of(notation, task.kind, opened, blanks, np.random.default_rng(spelling))
        if len(prompt.tokens) <= model.config.max_seq_len:
            return prompt
    return None


def _spelled(
    notation: Notation, task: FragmentTask, rng: np.random.Generator
) -> tuple[tuple[Fragment, ...], int, int]:
    """Fragments with attachment points, the tokens of a random spelling, and its seed."""
    opened = task.opened(rng)
    spelling = int(rng.integers(2**63))
    fewest = _fewest_blanks(task, opened)
    prompt = prompt_of(notation, task.kind, opened, fewest, np.random.default_rng(spelling))
    return opened, len(prompt.tokens) - fewest, spelling


def _fewest_blanks(task: FragmentTask, opened: Sequence[Fragment]) -> int:
    """One between two fragments or points, or one on each attachment point of the only one."""
    if task.kind == "ring":
        return 1
    return len(opened) - 1 if len(opened) > 1 else len(opened[0].ends)


def _blank_count(
    config: Any,
    given: int,
    least: int,
    window: tuple[int | None, int | None],
    rng: np.random.Generator,
) -> int | None:
    """A number of blanks, drawn from the training lengths above ``given``; None if none fits."""
    room = config.max_seq_len - given
    low = max(least, FEWEST if window[0] is None else window[0])
    high = min(room, (max(MOST, 4 * least) if window[1] is None else window[1]))
    if window[0] is None:
        low = min(low, max(high, least))
    if high < low:
        return None
    counts = np.zeros(high - low + 1)
    known = config.length_counts or ()
    lengths = np.arange(given + low, given + high + 1)
    inside = lengths < len(known)
    counts[inside] = np.asarray(known)[lengths[inside]] if len(known) else 0
    # Fragments as long as whole training molecules: every number of blanks is as good.
    weights = counts / counts.sum() if counts.sum() > 0 else np.full(len(counts), 1 / len(counts))
    return int(low + rng.choice(len(weights), p=weights))


def _too_long(
    model: Any, task: FragmentTask, window: tuple[int | None, int | None], seed: int
) -> DataError:
    """What to do about fragments no spelling of which fits the canvas."""
    notation, rng = notation_of(model), np.random.default_rng(seed)
    lengths = [_spelled(notation, task, rng)[1] for _ in range(SPELLINGS)]
    limit, shortest = model.config.max_seq_len, min(lengths)
    if window[0] is not None or window[1] is not None:
        asked = f"at least {window[0]}" if window[1] is None else f"at most {window[1]}"
        wanted = f" beside {asked} blanks"
    else:
        wanted = " beside one blank on each attachment point"
    return DataError(
        f"the fragments take {shortest} tokens or more, which does not fit{wanted}: this model's "
        f"canvas has {limit} tokens. Give smaller fragments, other numbers of blanks, or use a "
        "model with a longer canvas."
    )

"""Molecules around given fragments: linkers, motifs, scaffolds, superstructures.

The four fragment tasks of Noutahi et al. (arXiv:2310.10773) as infilling. Whatever the model
writes, a molecule is returned only if :func:`~imadarem.design.keeping.why_lost` finds
nothing lost; what is lost is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imadarem.data.molecules import canonical
from imadarem.design.fragment import Fragment, read_fragments
from imadarem.design.keeping import UNFIT, why_lost
from imadarem.design.prompts import Notation, Prompt, SafeNotation, SmilesNotation
from imadarem.design.selfies_prompts import SelfiesNotation
from imadarem.errors import ConfigError, DataError

__all__ = [
    "KINDS",
    "Completed",
    "Completions",
    "FragmentTask",
    "complete",
    "draw",
    "notation_of",
    "row_seed",
]

NOTATIONS: dict[str, type[Notation]] = {
    "safe": SafeNotation,
    "selfies": SelfiesNotation,
    "smiles": SmilesNotation,
}
KINDS = ("linker", "motif", "scaffold", "superstructure")
#: Attachment points drawn for a fragment that has none.
MOST_DRAWN_ENDS = 3
#: Blanks where neither the caller nor the training lengths say how many.
FEWEST, MOST = 3, 16
#: Rows drawn at most for each molecule that was asked for.
DRAWS_EACH = 20


@dataclass(frozen=True)
class FragmentTask:
    """What is given, and what for.

    Attributes:
        kind: ``linker``: join two fragments of one attachment point each. ``motif`` and
            ``scaffold``: fill every attachment point; one without any is filled where it
            has hydrogen. ``superstructure``: a fragment without attachment points, filled
            where it has hydrogen.
        fragments: Two for a linker, else one.
    """

    kind: str
    fragments: tuple[Fragment, ...]

    @classmethod
    def of(cls, kind: str, *texts: str) -> FragmentTask:
        """The task of a kind on fragments as SMILES.

        Raises:
            ConfigError: There is no such kind.
            DataError: A fragment cannot be read, or they do not suit the task.
        """
        if kind not in KINDS:
            raise ConfigError(f"unknown fragment task {kind!r}. Choose one of {', '.join(KINDS)}.")
        fragments = tuple(read_fragments(texts))
        wanted = 2 if kind == "linker" else 1
        if len(fragments) != wanted:
            raise DataError(
                f"{kind} takes {wanted} fragment{'s' * (wanted > 1)}, and {len(fragments)} were "
                "given. Leave counter-ions out; a dot or a space stands between two fragments."
            )
        for fragment in fragments:
            _check_ends(kind, fragment)
        return cls(kind, fragments)

    def opened(self, rng: np.random.Generator) -> tuple[Fragment, ...]:
        """The fragments with attachment points, drawn at random where they have none."""
        return tuple(
            fragment if fragment.ends else fragment.attached_at(self._drawn_atoms(fragment, rng))
            for fragment in self.fragments
        )

    def _drawn_atoms(self, fragment: Fragment, rng: np.random.Generator) -> list[int]:
        free = fragment.free_atoms
        single = self.kind in ("linker", "motif")
        count = 1 if single else int(rng.integers(1, min(MOST_DRAWN_ENDS, len(free)) + 1))
        return [int(atom) for atom in rng.permutation(free)[:count]]

    def why_lost(self, smiles: str) -> str | None:
        """See :func:`~imadarem.design.keeping.why_lost`."""
        return why_lost(smiles, self.fragments, apart=self.kind == "linker")


def _check_ends(kind: str, fragment: Fragment) -> None:
    ends = len(fragment.ends)
    if kind == "linker" and ends > 1:
        raise DataError(
            f"the fragment {fragment.smiles!r} has {ends} attachment points; a linker joins two "
            "fragments of one each. Cap the others, such as by writing the hydrogen: remove the *."
        )
    if kind == "superstructure" and ends:
        raise DataError(
            f"the fragment {fragment.smiles!r} has attachment points, and a superstructure may "
            "grow anywhere. Remove them, or use the task scaffold, which fills exactly those."
        )
    if not ends and not fragment.free_atoms:
        raise DataError(
            f"no atom of {fragment.smiles!r} has a hydrogen to give away, so nothing can be "
            "attached to it. Give a smaller fragment, or mark the place with *."
        )


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
        most_draws: Rows to give up after; default 20 for each molecule wanted.
        on_rows: Called with the number of molecules just found.
        sampling: Settings of :meth:`ImplicitRefinementModel.infill`.

    Raises:
        ConfigError: The model writes no molecules, or a number is out of range.
        DataError: The fragments do not fit the model's canvas or vocabulary.
    """
    if n < 1:
        raise ConfigError(f"n={n} molecules cannot be drawn; ask for at least 1.")
    limit = DRAWS_EACH * n if most_draws is None else most_draws
    rows: dict[str, Completed] = {}
    lost: Counter[str] = Counter()
    shown_by: dict[str, str] = {}
    draws = 0
    while len(rows) < n and draws < limit:
        # As many again as are missing: the same for every machine, so seeds mean something.
        count = min(limit - draws, max(2 * (n - len(rows)), 8))
        drawn = draw(
            model, task, count, blanks=blanks, seed=seed, first=draws, shown_by=shown_by, **sampling
        )
        for row in drawn:
            draws += 1
            if row.smiles is None or row.lost is not None:
                lost[row.lost or "no molecule"] += 1
            elif row.smiles in rows:
                lost["repeated"] += 1
            else:
                rows[row.smiles] = row
                if on_rows is not None:
                    on_rows(1)
            if len(rows) == n:
                break
    return Completions(list(rows.values()), draws, dict(lost.most_common()), shown_by)


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
    for prompt in prompts if shown_by is not None else ():
        assert shown_by is not None
        shown_by.update(prompt.shown_by)
    tokenizer = model.tokenizer
    rows = [prompt.ids(tokenizer) for prompt in prompts]
    filled = model.infill(rows, seed=row_seed(seed, first), **sampling)
    return [
        _judged(prompt, tokenizer.convert_ids_to_tokens(row.ids), row.forward_passes, task)
        for prompt, row in zip(prompts, filled.rows, strict=True)
    ]


def _judged(prompt: Prompt, tokens: Sequence[str], passes: int, task: FragmentTask) -> Completed:
    text = prompt.fill(tokens)
    form = None if text is None else canonical(text)
    if form is None:
        return Completed(None, UNFIT if text is None else "no molecule", passes)
    return Completed(form, task.why_lost(form), passes)


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
) -> Iterator[Prompt]:
    notation = notation_of(model)
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        opened = task.opened(rng)
        yield notation.prompt(opened, _count(model, notation, opened, window, rng), rng)


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
    return NOTATIONS[name](model.tokenizer)


def _count(
    model: Any,
    notation: Notation,
    fragments: Sequence[Fragment],
    window: tuple[int | None, int | None],
    rng: np.random.Generator,
) -> int:
    """Blanks of a row: drawn from the training lengths that are longer than what is given."""
    least = 1 if len(fragments) > 1 else len(fragments[0].ends)
    given = len(notation.prompt(fragments, least, rng).tokens) - least
    room = model.config.max_seq_len - given
    low = max(least, FEWEST if window[0] is None else window[0])
    high = min(room, (max(MOST, 4 * least) if window[1] is None else window[1]))
    if window[0] is None:
        low = min(low, max(high, least))
    if high < low:
        raise DataError(
            f"the fragments take {given} tokens and {low} blanks are wanted, but this model's "
            f"canvas has {model.config.max_seq_len} (--max-blanks {window[1]}). Give smaller "
            "fragments or a wider window, or use a model with a longer canvas."
            if window[1] is not None
            else f"the fragments take {given} of the {model.config.max_seq_len} tokens of this "
            f"model's canvas, which leaves no room for {low} blanks. Give smaller fragments, or "
            "use a model with a longer canvas."
        )
    counts = np.zeros(high - low + 1)
    known = model.config.length_counts or ()
    lengths = np.arange(given + low, given + high + 1)
    inside = lengths < len(known)
    counts[inside] = np.asarray(known)[lengths[inside]] if len(known) else 0
    # Fragments as long as whole training molecules: every number of blanks is as good.
    weights = counts / counts.sum() if counts.sum() > 0 else np.full(len(counts), 1 / len(counts))
    return int(low + rng.choice(len(weights), p=weights))

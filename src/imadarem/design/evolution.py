"""Molecules with a high score: an evolution whose children are written by the model.

Each generation picks parents among the best molecules so far, blanks a part of each (see
:class:`~imadarem.design.mutation.Mutation`), and lets the model fill it. Children that
break a constraint are never scored. The table of scored molecules is the whole state: the
next generation follows from it and the seed, so a run goes on from its file as if it had
never stopped.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imadarem.checkpoint import load_json, save_json, write_text
from imadarem.data.molecules import canonical
from imadarem.design.completion import FragmentTask, complete, notation_of, row_seed
from imadarem.design.mutation import Mutation
from imadarem.design.prompts import Prompt
from imadarem.design.scores import similarity_to
from imadarem.errors import CheckpointError, ConfigError, DataError

__all__ = ["Evolution", "EvolutionSettings", "Generation", "Scored", "evolve"]

#: Generations without a molecule that was not known, after which a run gives up.
PATIENCE = 20
COLUMNS = ("smiles", "score", "call", "generation", "parent")


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """What an evolution is for, and how long it may take.

    Attributes:
        score: Name of the score, for the file.
        budget: Most calls of the score; a molecule that is known costs none.
        population: Best molecules that have children.
        children: Rows that the model fills in a generation.
        seed: The same seed gives the same run.
        until: Stop at this score.
        scaffold: A fragment that every molecule must have, as
            :func:`~imadarem.design.verification.rejection_reason` finds it.
        similar_to: A molecule that every other must be similar to.
        least_similarity: How similar, by Tanimoto of Morgan fingerprints (radius 2, 2048
            bits).

    Raises:
        ConfigError: A number is out of range, or a similarity stands without a molecule.
    """

    score: str
    budget: int = 2000
    population: int = 100
    children: int = 64
    seed: int = 0
    until: float | None = None
    scaffold: str | None = None
    similar_to: str | None = None
    least_similarity: float | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "population", "children"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1.")
        if (self.similar_to is None) != (self.least_similarity is None):
            raise ConfigError(
                "similar_to names a molecule and least_similarity how near to it: give both or "
                "neither."
            )
        if self.least_similarity is not None and not 0 <= self.least_similarity <= 1:
            raise ConfigError(f"least_similarity is {self.least_similarity}; give 0 to 1.")


@dataclass(frozen=True, slots=True)
class Scored:
    """A molecule that was scored.

    Attributes:
        smiles: Canonical SMILES.
        score: Higher is better; ``-inf`` where the score had no number for it.
        call: Number of the call, from 1.
        generation: 0 for those at the start.
        parent: What it was made from; "" at the start.
    """

    smiles: str
    score: float
    call: int
    generation: int
    parent: str


@dataclass(frozen=True, slots=True)
class Generation:
    """How far a run is.

    Attributes:
        number: 0 for the start.
        calls: Calls of the score so far.
        best: The best molecule so far.
        mean: Mean score of the population, those without a number left out.
    """

    number: int
    calls: int
    best: Scored
    mean: float


@dataclass
class Evolution:
    """The table of a run.

    Attributes:
        scored: Canonical SMILES → molecule, in the order of the calls.
        lost: Reason → children that were not scored.
        generation: Number of the last one.
    """

    scored: dict[str, Scored] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    generation: int = 0

    def best(self, count: int, before: float = math.inf) -> list[Scored]:
        """The molecules of highest score, the earlier one first where they are equal.

        Args:
            count: At most so many.
            before: Of earlier generations than this one.
        """
        rows = (row for row in self.scored.values() if row.generation < before)
        return sorted(rows, key=lambda row: (-row.score, row.call))[:count]

    def status(self, population: int) -> Generation:
        """How far the run is."""
        top = self.best(population)
        known = [row.score for row in top if math.isfinite(row.score)]
        mean = sum(known) / len(known) if known else -math.inf
        return Generation(self.generation, len(self.scored), top[0], mean)

    def save(self, path: Path) -> None:
        """Write the table as CSV, best first, whole or not at all."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.best(len(self.scored)):
            score = repr(row.score) if math.isfinite(row.score) else ""
            writer.writerow([row.smiles, score, row.call, row.generation, row.parent])
        write_text(buffer.getvalue(), path)

    @classmethod
    def load(cls, path: Path) -> Evolution:
        """Read what :meth:`save` wrote; the last generation, perhaps cut off, is yet to come.

        Raises:
            CheckpointError: There is no such file, or it is another.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                table = [
                    Scored(
                        row["smiles"],
                        float(row["score"]) if row["score"] else -math.inf,
                        int(row["call"]),
                        int(row["generation"]),
                        row["parent"],
                    )
                    for row in csv.DictReader(file)
                ]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} holds no run to go on with: {type(error).__name__}: {error}."
            ) from None
        table.sort(key=lambda row: row.call)
        last = max((row.generation for row in table), default=0)
        return cls({row.smiles: row for row in table}, generation=max(last - 1, 0))


def evolve(
    model: Any,
    score: Callable[[str], float],
    settings: EvolutionSettings,
    *,
    start: Iterable[str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    on_generation: Callable[[Generation], None] | None = None,
    **sampling: Any,
) -> Evolution:
    """Search for molecules of high score.

    Args:
        model: Of molecules, with one of the built-in tokenizers.
        score: Canonical SMILES → number; called once for each molecule.
        settings: What to keep, and when to stop.
        start: Molecules to begin with; those that break a constraint are left out.
            Default: a population of the model's own, around the scaffold if there is one.
        out: A ``.csv`` file, written after every generation; the settings stand beside it.
        resume: Go on with the run in ``out``.
        on_generation: Called after every generation.
        sampling: Settings of :meth:`ImplicitRefinementModel.infill`.

    Raises:
        ConfigError: A setting is out of range, or ``resume`` changes one.
        DataError: The scaffold cannot be read, or nothing to begin with keeps the
            constraints.
        CheckpointError: There is no run to resume, or the file cannot be written.
        TrainingError: The score failed.
    """
    constraint = _Constraint.of(settings)
    state = _begun(settings, out, resume)
    mutate = Mutation(
        notation_of(model),
        model.config.max_seq_len,
        constraint.task.fragments[0] if constraint.task else None,
    )

    def take(molecules: Iterable[tuple[str | None, str]]) -> int:
        new = _scored(state, molecules, constraint, score, settings)
        if out is not None:
            state.save(out)
        if on_generation is not None and state.scored:
            on_generation(state.status(settings.population))
        return new

    if not state.scored:
        take((smiles, "") for smiles in _start(model, start, settings, constraint, sampling))
        if not state.scored:
            reasons = ", ".join(f"{n} {reason}" for reason, n in state.lost.most_common())
            raise DataError(f"nothing to begin with keeps the constraints ({reasons or 'empty'}).")
    idle = 0
    while not _finished(state, settings) and idle < PATIENCE:
        state.generation += 1
        idle = 0 if take(_children(model, state, settings, mutate, sampling)) else idle + 1
    return state


def _finished(state: Evolution, settings: EvolutionSettings) -> bool:
    reached = settings.until is not None and state.best(1)[0].score >= settings.until
    return reached or len(state.scored) >= settings.budget


def _scored(
    state: Evolution,
    molecules: Iterable[tuple[str | None, str]],
    constraint: _Constraint,
    score: Callable[[str], float],
    settings: EvolutionSettings,
) -> int:
    """Score what is new and keeps the constraints; how many there were."""
    new = 0
    for text, parent in molecules:
        form = None if text is None else canonical(text)
        lost = "no molecule" if form is None else constraint.rejection_reason(form)
        if form is None or lost is not None:
            state.lost[lost or "no molecule"] += 1
        elif form in state.scored:
            state.lost["known"] += 1
        elif len(state.scored) < settings.budget:
            call = len(state.scored) + 1
            state.scored[form] = Scored(form, score(form), call, state.generation, parent)
            new += 1
    return new


def _children(
    model: Any,
    state: Evolution,
    settings: EvolutionSettings,
    mutate: Mutation,
    sampling: dict[str, Any],
) -> Iterator[tuple[str | None, str]]:
    """What the model writes for one generation, with the parents."""
    rng = np.random.default_rng([settings.seed, state.generation])
    parents = state.best(settings.population, before=state.generation)
    # A better rank has more children: e-fold fewer after a third of the population.
    weights = np.exp(-np.arange(len(parents)) * 3 / len(parents))
    prompts: list[tuple[Prompt, str]] = []
    for row in rng.choice(len(parents), settings.children, p=weights / weights.sum()):
        smiles = parents[int(row)].smiles
        prompt = mutate(smiles, rng)
        if prompt is not None:
            prompts.append((prompt, smiles))
        else:
            state.lost["nothing to blank"] += 1
    if not prompts:
        return
    rows = [prompt.ids(model.tokenizer) for prompt, _ in prompts]
    filled = model.infill(rows, seed=row_seed(settings.seed, state.generation), **sampling)
    for (prompt, parent), row in zip(prompts, filled.rows, strict=True):
        yield prompt.fill(model.tokenizer.convert_ids_to_tokens(row.ids)), parent


# --- the beginning


def _start(
    model: Any,
    given: Iterable[str] | None,
    settings: EvolutionSettings,
    constraint: _Constraint,
    sampling: dict[str, Any],
) -> Sequence[str]:
    if given is not None:
        return list(given)
    if constraint.task is not None:
        made = complete(model, constraint.task, settings.population, seed=settings.seed, **sampling)
        return made.smiles
    texts = model.sample(settings.population, seed=settings.seed, **sampling).texts
    return [settings.similar_to, *texts] if settings.similar_to else list(texts)


def _begun(settings: EvolutionSettings, out: Path | None, resume: bool) -> Evolution:
    """A new table, or the one of the run that is resumed."""
    if out is None:
        if resume:
            raise ConfigError("there is nothing to resume without a file; give out=.")
        return Evolution()
    beside = out.with_name(f"{out.name}.settings.json")
    if not resume:
        if out.exists():
            raise ConfigError(f"{out} exists. Go on with it by resume, or choose another file.")
        save_json(asdict(settings), beside)
        return Evolution()
    saved = load_json(beside)
    ours = asdict(settings)
    # More calls, or another target, do not change what has been done.
    changed = [k for k in ours if k not in ("budget", "until") and saved.get(k) != ours[k]]
    if changed:
        raise ConfigError(
            f"the run in {out} has {changed[0]} = {saved.get(changed[0])!r}, and "
            f"{ours[changed[0]]!r} was given. Only budget and until may change on resuming."
        )
    return Evolution.load(out)


@dataclass(frozen=True)
class _Constraint:
    """What a molecule must be like before it is scored."""

    task: FragmentTask | None
    similarity: Callable[[str], float] | None
    least: float

    @classmethod
    def of(cls, settings: EvolutionSettings) -> _Constraint:
        task = None if settings.scaffold is None else FragmentTask.of("scaffold", settings.scaffold)
        near = None if settings.similar_to is None else similarity_to(settings.similar_to)
        return cls(task, near, settings.least_similarity or 0.0)

    def rejection_reason(self, smiles: str) -> str | None:
        lost = "in several parts" if "." in smiles else None
        if lost is None and self.task is not None:
            lost = self.task.rejection_reason(smiles)
        if lost is None and self.similarity is not None and self.similarity(smiles) < self.least:
            lost = "not similar enough"
        return lost

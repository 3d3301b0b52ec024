"""Molecules with a high score: an evolution whose children are written by the model.

Each generation picks parents among the best molecules so far, blanks a part of each (see
:class:`~imadarem.design.mutation.Mutation`), and lets the model fill it. Children that
break a constraint are never scored. The table of scored molecules is the whole state: the
next generation follows from it and the seed, so a run continues from its file as if it had
never stopped.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from imadarem.data.molecules import canonical
from imadarem.design.completion import complete, notation_of, row_seed
from imadarem.design.mutation import Mutation
from imadarem.design.prompts import Prompt
from imadarem.design.ring_edits import with_other_rings
from imadarem.design.scored_table import Evolution, Generation, Scored
from imadarem.design.scores import Score
from imadarem.design.search_run import begun, made_with, settings_file
from imadarem.design.search_settings import Constraint, EvolutionSettings
from imadarem.design.surrogate import Surrogate
from imadarem.errors import ConfigError, DataError, TrainingError
from imadarem.files import save_json
from imadarem.locks import exclusive

__all__ = ["Evolution", "EvolutionSettings", "Generation", "Scored", "evolve"]

#: Generations without a molecule that was not known, after which a run gives up.
PATIENCE = 20
SECONDS_BETWEEN_SAVES = 30.0
#: Shares of the children that are parts of two parents, bonded to each other, and of those whose
#: rings are changed on the graph; the model writes the rest.
CROSSINGS, RING_EDITS = 0.4, 0.2
#: Scores without which nothing is guessed.
FEWEST_KNOWN = 10
Child = tuple[str | None, str]
"""What was written, None where it is no molecule, and its parent."""
#: Calls of a score that all fail, after which a run gives up: the score is at fault.
FIRST_FAILURES = 10


def evolve(
    model: Any,
    score: Callable[[str], float] | Sequence[Score],
    settings: EvolutionSettings,
    *,
    start: Iterable[str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    reason: str | None = None,
    on_generation: Callable[[Generation], None] | None = None,
    **sampling: Any,
) -> Evolution:
    """Search for molecules of high score.

    Args:
        model: Of molecules, with one of the built-in tokenizers.
        score: Canonical SMILES → number; called once for each molecule. Where it raises an
            error, the molecule is recorded without a number and the search continues. Several:
            the weighted mean of their numbers counts, or all of them with ``pareto``.
        settings: What to keep, and when to stop.
        start: Molecules to begin with; those that break a constraint are left out.
            Default: a population of the model's own, around the scaffold if there is one.
        out: A ``.csv`` file, written after every generation; the settings stand beside it.
            No other process can write it meanwhile.
        resume: Continue the run in ``out``, or begin it where there is none.
        reason: Why the score of a resumed run changes. Its molecules are scored again first, which
            ``budget`` does not count; the reason is kept beside the file, under ``changes``.
        on_generation: Called after every generation.
        sampling: Settings of :meth:`ImplicitRefinementModel.infill`.

    Raises:
        ConfigError: A setting is out of range, or ``resume`` changes one without ``reason``.
        DataError: The scaffold cannot be read, or nothing to begin with keeps the
            constraints.
        BusyError: Another process writes ``out``.
        CheckpointError: The file is not a run, or cannot be written.
        TrainingError: The score raised an error in each of its first 10 calls.
    """
    if out is None and resume:
        raise ConfigError("there is nothing to resume without a file; give out=.")
    with nullcontext() if out is None else exclusive(out):
        state, changed = Evolution(), None
        if out is not None:
            state, changed = begun(settings, made_with(model, sampling), out, resume, reason)
        search = _Search(model, score, settings, state, out, on_generation, sampling)
        if out is not None and changed is not None:
            search.score_again()
            save_json(changed, settings_file(out))
        if not state.scored:
            search.begin(start)
        idle = 0
        while not search.finished and idle < PATIENCE:
            state.generation += 1
            idle = 0 if search.take(search.promising(search.children())) else idle + 1
        return state


class _Search:
    """One run: its table, and what it needs to add a generation to it."""

    def __init__(
        self,
        model: Any,
        score: Callable[[str], float] | Sequence[Score],
        settings: EvolutionSettings,
        state: Evolution,
        out: Path | None,
        on_generation: Callable[[Generation], None] | None,
        sampling: dict[str, Any],
    ) -> None:
        self.model, self.settings, self.state = model, settings, state
        self.scores = _scores(score, settings)
        state.pareto = settings.pareto
        if len(self.scores) > 1:
            state.names = tuple(term.name for term in self.scores)
        self.out, self.on_generation, self.sampling = out, on_generation, sampling
        self.constraint = Constraint.of(settings)
        scaffold = self.constraint.task.fragments[0] if self.constraint.task else None
        self.surrogate = Surrogate()
        self.mutate = Mutation(notation_of(model), scaffold)

    @property
    def finished(self) -> bool:
        """Whether the wanted score is reached, or the budget is spent."""
        until = self.settings.until
        reached = until is not None and self.state.best(1)[0].score >= until
        return reached or len(self.state.scored) >= self.settings.budget

    def begin(self, given: Iterable[str] | None) -> None:
        """Score the first population: the given molecules, or the model's own.

        Raises:
            DataError: None of them keeps the constraints.
        """
        self.take((smiles, "") for smiles in self._first(given))
        if not self.state.scored:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.state.lost.most_common())
            raise DataError(f"nothing to begin with keeps the constraints ({reasons or 'empty'}).")

    def _first(self, given: Iterable[str] | None) -> Sequence[str]:
        if given is not None:
            return list(given)
        count, seed, task = self.settings.population, self.settings.seed, self.constraint.task
        if task is not None:
            return complete(self.model, task, count, seed=seed, **self.sampling).smiles
        texts = self.model.sample(count, seed=seed, **self.sampling).texts
        return [self.settings.similar_to, *texts] if self.settings.similar_to else list(texts)

    def take(self, molecules: Iterable[Child]) -> int:
        """Score what is new and keeps the constraints, and save; how many there were.

        Args:
            molecules: Texts, None where the model wrote no molecule, and their parents.
        """
        wanted: dict[str, str] = {}
        for text, parent in molecules:
            form, lost = self._checked(text)
            if form is None or lost is not None:
                self.state.lost[lost or "no molecule"] += 1
            elif form in self.state.scored or form in wanted:
                self.state.lost["known"] += 1
            elif len(self.state.scored) + len(wanted) < self.settings.budget:
                wanted[form] = parent
        saved = time.monotonic()
        found = [term.many(list(wanted), self.settings.workers) for term in self.scores]
        values = zip(*found, strict=True)
        for (form, parent), terms in zip(wanted.items(), values, strict=True):
            self._record(form, parent, terms, self.state.generation)
            # A resumed run repeats its last generation, but not the start.
            late = time.monotonic() - saved > SECONDS_BETWEEN_SAVES
            if late and self.out is not None and self.state.generation:
                self.state.save(self.out)
                saved = time.monotonic()
        if self.out is not None:
            self.state.save(self.out)
        if self.on_generation is not None and self.state.scored:
            self.on_generation(self.state.status(self.settings.population))
        return len(wanted)

    def score_again(self) -> None:
        """Score every molecule of the table, which was scored for something else, and save."""
        rows = sorted(self.state.scored.values(), key=lambda row: row.call)
        self.state.scored.clear()
        smiles = [row.smiles for row in rows]
        found = [term.many(smiles, self.settings.workers) for term in self.scores]
        for row, terms in zip(rows, zip(*found, strict=True), strict=True):
            self._record(row.smiles, row.parent, terms, row.generation)
        if self.out is not None:
            self.state.save(self.out)

    def _checked(self, text: str | None) -> tuple[str | None, str | None]:
        """The canonical form, and why it is not wanted."""
        form = None if text is None else canonical(text)
        return form, "no molecule" if form is None else self.constraint.rejection_reason(form)

    def promising(self, children: Iterable[Child]) -> Iterable[Child]:
        """As many children as a generation scores, those of the best guessed scores.

        The guess uses the scores of earlier generations alone, so a generation that is repeated
        after an interruption chooses the same children.
        """
        if self.settings.prescreen == 1:
            return children
        earlier = self.state.best(len(self.state.scored), before=self.state.generation)
        known = {row.smiles for row in earlier}
        found: dict[str, str] = {}
        for text, parent in children:
            form, lost = self._checked(text)
            if form is None or lost is not None:
                self.state.lost[lost or "no molecule"] += 1
            elif form in known or form in found:
                self.state.lost["known"] += 1
            else:
                found[form] = parent
        scored = [row for row in earlier if math.isfinite(row.score)]
        spare = len(found) - self.settings.children
        if spare <= 0 or len(scored) < FEWEST_KNOWN:
            return list(found.items())
        self.state.lost["not promising"] += spare
        guesses = self._guesses(scored, list(found))
        chosen = np.argsort(-guesses, kind="stable")[: self.settings.children]
        return [list(found.items())[i] for i in chosen]

    def _guesses(self, scored: Sequence[Scored], unknown: Sequence[str]) -> Any:
        """A guess of the score; of a Pareto search, a mean of the terms with random weights."""
        if not self.settings.pareto:
            return self.surrogate.upper([(row.smiles, row.score) for row in scored], unknown)
        rng = np.random.default_rng([self.settings.seed, self.state.generation, 1])
        weights = rng.dirichlet(np.ones(len(self.scores)))
        guesses = [
            self.surrogate.upper([(row.smiles, row.terms[term]) for row in scored], unknown)
            for term in range(len(self.scores))
        ]
        return weights @ np.stack(guesses)

    def _record(
        self, form: str, parent: str, terms: Sequence[float | TrainingError], generation: int
    ) -> None:
        call, failure, value = len(self.state.scored) + 1, "", -math.inf
        error = next((term for term in terms if isinstance(term, TrainingError)), None)
        known = [term for term in terms if isinstance(term, float) and math.isfinite(term)]
        if error is not None:
            if call == FIRST_FAILURES == len(self.state.failures) + 1:
                raise error
            cause = error.__cause__ or error
            failure = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        elif len(known) == len(terms):
            weights = self.settings.weights or (1.0,) * len(known)
            value = sum(w * v for w, v in zip(weights, known, strict=True)) / sum(weights)
        several = tuple(known) if len(terms) > 1 and math.isfinite(value) else ()
        place = (call, generation, parent)
        self.state.scored[form] = Scored(form, value, *place, failure, several)

    def children(self) -> Iterator[Child]:
        """What one generation writes, with the parents."""
        settings, generation = self.settings, self.state.generation
        rng = np.random.default_rng([settings.seed, generation])
        parents = self._parents()
        # A better rank has more children: e-fold fewer after a third of the population.
        weights = np.exp(-np.arange(len(parents)) * 3 / len(parents))
        weights /= weights.sum()
        prompts: list[tuple[Prompt, str]] = []
        for _ in range(settings.children * settings.prescreen):
            one, other = (parents[int(i)] for i in rng.choice(len(parents), 2, p=weights))
            kind = rng.random()
            if kind < CROSSINGS:
                yield self.mutate.cross(one, other, rng), one
            elif kind < CROSSINGS + RING_EDITS:
                yield with_other_rings(one, rng), one
            elif (prompt := self.mutate(one, rng)) is not None:
                prompts.append((prompt, one))
            else:
                self.state.lost["nothing to blank"] += 1
        if not prompts:
            return
        tokenizer = self.model.tokenizer
        rows = [prompt.ids(tokenizer) for prompt, _ in prompts]
        seed = row_seed(settings.seed, generation)
        filled = self.model.infill(rows, seed=seed, **self.sampling)
        for (prompt, parent), row in zip(prompts, filled.rows, strict=True):
            yield prompt.fill(tokenizer.convert_ids_to_tokens(row.ids)), parent

    def _parents(self) -> list[str]:
        """The best molecules of earlier generations, of each scaffold as many as are allowed."""
        settings = self.settings
        earlier = self.state.best(len(self.state.scored), before=self.state.generation)
        most = settings.per_scaffold
        if most is None:
            return [row.smiles for row in earlier[: settings.population]]
        counts: Counter[str] = Counter()
        parents: list[str] = []
        for row in earlier:
            scaffold = _scaffold(row.smiles)
            counts[scaffold] += 1
            if counts[scaffold] <= most and len(parents) < settings.population:
                parents.append(row.smiles)
        return parents


@cache
def _scaffold(smiles: str) -> str:
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles))


def _scores(
    score: Callable[[str], float] | Sequence[Score], settings: EvolutionSettings
) -> list[Score]:
    """The terms of a search."""
    if callable(score):
        scores = [score if isinstance(score, Score) else Score(settings.score, score)]
    else:
        scores = list(score)
    weights = len(settings.weights) or len(scores)
    if not scores or weights != len(scores):
        raise ConfigError(f"{weights} weights were given for {len(scores)} scores; give one each.")
    if settings.pareto and len(scores) < 2:
        raise ConfigError("a Pareto front needs at least two scores; give another.")
    return scores

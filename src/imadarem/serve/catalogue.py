"""The models of a server by their ids, and what ``/v1/models`` says of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from imadarem.data.sudoku.task import model_sizes
from imadarem.data.sudoku.verifier import SudokuVerifier
from imadarem.errors import ConfigError, nearest
from imadarem.loading import open_model
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.edits import Replace
from imadarem.sampling.halting import Halting
from imadarem.sampling.policies import POLICIES, GateInPlace, Policy
from imadarem.sampling.settings import SamplingSettings
from imadarem.serve.api_errors import ApiError
from imadarem.tokenizers import MOLECULE_NOTATIONS, CorpusTokenizer, mask_spelling

MOLECULES, SUDOKU, TEXT = "molecules", "sudoku", "text"
#: Longest vocabulary that is sent and searched for similar tokens; some have 100,000 tokens.
MAX_LISTED_TOKENS = 4_096
SUDOKU_STEPS = 16
CACHED_SETTINGS = 256
LONGEST_GAP_CHARS = len("<gap:10000-10000>")
#: Policies for networks trained by unrolling: each pass sees the question and the last answer.
EDITS: dict[str, type[Policy]] = {"replace": Replace, "patch": GateInPlace}


@dataclass(frozen=True)
class LegalGrid:
    """Stopping rule for sudokus: the grid is complete and legal.

    It does not compare with the givens: a canvas never changes them, and a canvas may start
    with digits that the model may change, which are not givens.
    """

    verifier: SudokuVerifier

    def __call__(self, inputs: Any, answers: Any) -> Any:
        """``(B, L)`` questions and answers → ``(B,)`` bool."""
        return self.verifier(answers, answers)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model and what the server needs to know of it.

    Attributes:
        id: Its name in requests.
        network: In evaluation mode.
    """

    id: str
    network: ImplicitRefinementModel

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the sudokus that it solves; empty for other models."""
        return model_sizes(self.network.config, self.network.tokenizer)

    @cached_property
    def kind(self) -> str:
        """``molecules``, ``sudoku`` or ``text``."""
        if self.sizes:
            return SUDOKU
        notation = getattr(self.network.tokenizer, "notation", None)
        return MOLECULES if notation in MOLECULE_NOTATIONS else TEXT

    @property
    def policies(self) -> dict[str, type[Policy]]:
        """The legal policies, the default one first."""
        config = self.network.config
        own = "gate" if config.use_refine_gate else "entropy"
        named: dict[str, type[Policy]] = {own: POLICIES[own], **POLICIES}
        return {**EDITS, **named} if self.kind == SUDOKU else named

    @property
    def steps(self) -> int:
        """Most refinement steps of a request without ``steps``."""
        own = self.network.config.max_refinement_steps
        return SUDOKU_STEPS if self.kind == SUDOKU else own

    @cached_property
    def mask(self) -> str:
        """The text of a blank in a prompt; ``<mask>`` is always one too."""
        return mask_spelling(self.network.tokenizer)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the tokens that a canvas may hold, by their strings; no special tokens."""
        special = self.network.special
        numbers = [
            number
            for number in range(self.network.config.vocab_size)
            if number not in special.banned and number != special.eos
        ]
        # Of several tokens with one string, the first one counts.
        pairs = zip(self._strings(numbers), numbers, strict=True)
        return dict(sorted(pairs, key=lambda pair: pair[1], reverse=True))

    @cached_property
    def max_prompt_chars(self) -> int | None:
        """No longer prompt fits on a canvas; None where a token has no longest string."""
        if not isinstance(self.network.tokenizer, CorpusTokenizer):
            return None
        longest = max(LONGEST_GAP_CHARS, *map(len, self.network.tokenizer.tokens))
        return self.network.config.max_seq_len * longest

    def nearest_token(self, given: str) -> str:
        """``' (did you mean "x"?)'``; empty if nothing is similar or the vocabulary is long."""
        return nearest(given, self.ids) if len(self.ids) <= MAX_LISTED_TOKENS else ""

    @cached_property
    def description(self) -> dict[str, Any]:
        """Its entry in ``/v1/models``."""
        config = self.network.config
        words = sorted(self.ids, key=self.ids.__getitem__)
        return {
            "id": self.id,
            "kind": self.kind,
            "vocabulary": words if len(words) <= MAX_LISTED_TOKENS else None,
            "vocab_size": config.vocab_size,
            "mask": self.mask,
            "max_length": config.max_seq_len,
            "sizes": list(self.sizes),
            "policies": [
                {"name": name, "about": first_sentence(policy)}
                for name, policy in self.policies.items()
            ],
            "default_policy": next(iter(self.policies)),
            "default_steps": self.steps,
            "default_temperature": config.sampling_temperature,
            "judge": config.judge,
            "parameters": sum(p.numel() for p in self.network.student_parameters()),
        }

    @lru_cache(CACHED_SETTINGS)  # noqa: B019 (models live as long as the process)
    def settings(
        self,
        *,
        length_given: bool = True,
        filling: bool = False,
        policy: str | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> SamplingSettings:
        """Sampling settings of a request; requests with equal settings can share a batch.

        Takes what :meth:`~imadarem.ImplicitRefinementModel.sampling_settings` takes.
        """
        chosen = next(iter(self.policies)) if policy is None else policy
        if chosen not in self.policies:
            raise ConfigError(
                f"unknown policy {chosen!r}{nearest(chosen, self.policies)}. Legal: "
                f"{', '.join(self.policies)}."
            )
        edit = EDITS[chosen]() if chosen in EDITS else None
        settings = self.network.sampling_settings(
            length_given,
            filling,
            steps=self.steps if steps is None else steps,
            policy=chosen if edit is None else edit,
            **options,
        )
        if self.kind != SUDOKU:
            return settings
        halting = Halting(verify=self.legal)
        unrolled: dict[str, Any] = {} if edit is None else {"stop_threshold": 0.0, "reinject": True}
        return replace(settings, halting=halting, may_end=False, **unrolled)

    @cached_property
    def legal(self) -> LegalGrid:
        """Whether sudokus are solved."""
        special = self.network.special
        first = self.network.tokenizer.encode("1")[0]
        return LegalGrid(SudokuVerifier(first, special.mask, special.pad))

    def text(self, ids: Sequence[int]) -> str | None:
        """The decoded text of ``ids`` without blanks; None if the tokenizer does not decode."""
        decode = getattr(self.network.tokenizer, "decode", None)
        return None if decode is None else str(decode(list(ids), skip_special_tokens=True))

    def _strings(self, ids: Sequence[int]) -> list[str]:
        convert = getattr(self.network.tokenizer, "convert_ids_to_tokens", None)
        return [str(t) for t in (ids if convert is None else convert(list(ids)))]


@dataclass(frozen=True)
class Catalogue:
    """The models in the order of the command line; the first is the default."""

    models: tuple[ServedModel, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("there is no model to serve. Give one, such as --model smiles.")
        ids = [model.id for model in self.models]
        for name in ids:
            if ids.count(name) > 1:
                raise ConfigError(
                    f"two models have the id {name!r}. Rename one of them: --model OTHER=FOLDER."
                )

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models)

    def find(self, name: str | None, kind: str | None = None) -> ServedModel:
        """The model with this id; for None the first one of this kind."""
        fitting = [model for model in self if kind in (None, model.kind)]
        if name is None and fitting:
            return fitting[0]
        if name is None:
            raise ApiError(
                404, f"this server has no model of the kind {kind}.", code="unknown_model"
            )
        for model in self:
            if model.id == name:
                return model
        known = [model.id for model in self]
        raise ApiError(
            404,
            f"no model has the id {name!r}{nearest(name, known)}. Served: {', '.join(known)}.",
            code="unknown_model",
        )


def first_sentence(policy: type) -> str:
    """The first sentence of a policy's docstring, as plain text."""
    first = (inspect.getdoc(policy) or "").split("\n\n")[0]
    return " ".join(first.replace("``", "").split())


def load_catalogue(names: Iterable[str], device: str) -> Catalogue:
    """Load models: ``default``, ``sudoku``, ``FOLDER`` or ``ID=FOLDER`` for each."""
    served = []
    for entry in names:
        name, _, source = entry.rpartition("=")
        network = open_model(source).to(device).eval()
        served.append(ServedModel(name or _id_of(source), network))
    return Catalogue(tuple(served))


def _id_of(source: str) -> str:
    """``runs/mine/model``, as a training run writes it → ``mine``."""
    path = Path(source)
    parts = [part for part in path.parts if part != path.anchor]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1] if parts else source

"""The models of a server, by the ids that requests name them by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from imadarem.data.sudoku.model_sizes import model_sizes
from imadarem.data.sudoku.verifier import SudokuVerifier
from imadarem.errors import ConfigError, nearest
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.edits import Patch, Replace
from imadarem.sampling.halting import Halting
from imadarem.sampling.policies import POLICIES, Policy
from imadarem.sampling.settings import SamplingSettings
from imadarem.serve.refusals import Refusal
from imadarem.tokenizers import MOLECULE_NOTATIONS, mask_spelling

__all__ = ["Catalogue", "LegalGrid", "ServedModel", "load_catalogue"]

MOLECULES, SUDOKU, TEXT = "molecules", "sudoku", "text"
#: Longest vocabulary that is sent; a text model's may have 100,000 tokens.
SENT_TOKENS = 4_096
SUDOKU_STEPS = 16
#: Settings that are kept, as most requests ask with few.
KEPT_SETTINGS = 256
#: How a network that was unrolled is asked: the question in every pass, with what it wrote.
EDITS: dict[str, type[Policy]] = {"replace": Replace, "patch": Patch}


@dataclass(frozen=True)
class LegalGrid:
    """A sudoku's stopping rule: the grid is complete and legal.

    The givens need no look, since a canvas never changes them; and a canvas may start with
    digits that the model is free to change, which are no givens.
    """

    verifier: SudokuVerifier

    def __call__(self, inputs: Any, answers: Any) -> Any:
        """``(B, L)`` questions and answers → ``(B,)`` bool."""
        return self.verifier(answers, answers)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model and what a server says of it.

    Attributes:
        id: How requests name it.
        network: In evaluation mode.
    """

    id: str
    network: ImplicitRefinementModel

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The sudokus that it solves; none for a model of something else."""
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
        """The policies that may be asked for, the default one first."""
        config = self.network.config
        own = "gate" if config.use_refine_gate else "entropy"
        named: dict[str, type[Policy]] = {own: POLICIES[own], **POLICIES}
        return {**EDITS, **named} if self.kind == SUDOKU else named

    @property
    def steps(self) -> int:
        """Most refinement steps where a request names no number."""
        own = self.network.config.max_refinement_steps
        return SUDOKU_STEPS if self.kind == SUDOKU else own

    @cached_property
    def mask(self) -> str:
        """How a blank is written in a text; ``<mask>`` is one too."""
        return mask_spelling(self.network.tokenizer)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The tokens that may be written, by their strings."""
        special = self.network.special
        kept = [
            number
            for number in range(self.network.config.vocab_size)
            if number not in special.banned and number != special.eos
        ]
        # Of several tokens with one string, the first.
        pairs = zip(self._strings(kept), kept, strict=True)
        return dict(sorted(pairs, key=lambda pair: pair[1], reverse=True))

    def describe(self) -> dict[str, Any]:
        """What ``/v1/models`` says of it."""
        config = self.network.config
        words = sorted(self.ids, key=self.ids.__getitem__)
        return {
            "id": self.id,
            "kind": self.kind,
            "vocabulary": words if len(words) <= SENT_TOKENS else None,
            "vocab_size": config.vocab_size,
            "mask": self.mask,
            "max_length": config.max_seq_len,
            "sizes": list(self.sizes),
            "policies": [
                {"name": name, "about": about(policy)} for name, policy in self.policies.items()
            ],
            "default_policy": next(iter(self.policies)),
            "default_steps": self.steps,
            "default_temperature": config.sampling_temperature,
            "parameters": sum(p.numel() for p in self.network.student_parameters()),
        }

    @lru_cache(KEPT_SETTINGS)  # noqa: B019 (the models live as long as the process)
    def settings(
        self,
        *,
        steps: int | None = None,
        temperature: float | None = None,
        policy: str | None = None,
        schedule: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> SamplingSettings:
        """How to refine; two requests with equal settings can share a batch.

        Raises:
            ConfigError: A setting is out of range, or the policy is unknown.
        """
        chosen = next(iter(self.policies)) if policy is None else policy
        if chosen not in self.policies:
            raise ConfigError(
                f"unknown policy {chosen!r}{nearest(chosen, self.policies)}. Legal: "
                f"{', '.join(self.policies)}."
            )
        edit = EDITS[chosen]() if chosen in EDITS else None
        settings = self.network.sampling_settings(
            steps=self.steps if steps is None else steps,
            temperature=temperature,
            policy=chosen if edit is None else edit,
            schedule=schedule,
            top_k=top_k,
            top_p=top_p,
        )
        if self.kind != SUDOKU:
            return settings
        halting = Halting(verify=self.legal)
        unrolled: dict[str, Any] = {} if edit is None else {"stop_threshold": 0.0, "reinject": True}
        return replace(settings, halting=halting, may_end=False, **unrolled)

    @cached_property
    def legal(self) -> LegalGrid:
        """Says of sudokus whether they are solved."""
        special = self.network.special
        first = self.network.tokenizer.encode("1")[0]
        return LegalGrid(SudokuVerifier(first, special.mask, special.pad))

    def text(self, ids: Sequence[int]) -> str | None:
        """The decoded text of ``ids``, blanks left out; None where there is no decoder."""
        decode = getattr(self.network.tokenizer, "decode", None)
        return None if decode is None else str(decode(list(ids), skip_special_tokens=True))

    def _strings(self, ids: Sequence[int]) -> list[str]:
        convert = getattr(self.network.tokenizer, "convert_ids_to_tokens", None)
        return [str(t) for t in (ids if convert is None else convert(list(ids)))]


@dataclass(frozen=True)
class Catalogue:
    """The models in the order they were named; the first is the default.

    Raises:
        ConfigError: There is no model, or two have one id.
    """

    models: tuple[ServedModel, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError('there is no model to serve. Name one, such as "default".')
        ids = [model.id for model in self.models]
        for name in ids:
            if ids.count(name) > 1:
                raise ConfigError(
                    f"two models have the id {name!r}. Give one another: --model OTHER=FOLDER."
                )

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models)

    def find(self, name: str | None, kind: str | None = None) -> ServedModel:
        """The model of that id; for None the first one, of that kind where a kind is given.

        Raises:
            Refusal: 404, no such model is served.
        """
        fitting = [model for model in self if kind in (None, model.kind)]
        if name is None and fitting:
            return fitting[0]
        if name is None:
            raise Refusal(404, f"no model of the kind {kind} is served.", code="unknown_model")
        for model in self:
            if model.id == name:
                return model
        known = [model.id for model in self]
        raise Refusal(
            404,
            f"no model has the id {name!r}{nearest(name, known)}. Served: {', '.join(known)}.",
            code="unknown_model",
        )


def about(policy: type) -> str:
    """The first sentence of a policy's docstring, as plain text."""
    first = (inspect.getdoc(policy) or "").split("\n\n")[0]
    return " ".join(first.replace("``", "").split())


def load_catalogue(named: Iterable[str], device: str) -> Catalogue:
    """Load models named as on the command line: ``default``, ``FOLDER`` or ``ID=FOLDER``.

    Raises:
        CheckpointError: A folder is no model.
        ConfigError: Two models have one id.
    """
    served = []
    for entry in named:
        name, _, source = entry.rpartition("=")
        network = ImplicitRefinementModel.from_pretrained(source).to(device).eval()
        served.append(ServedModel(name or _id_of(source), network))
    return Catalogue(tuple(served))


def _id_of(source: str) -> str:
    """``mine`` of ``runs/mine/model``, which a training run wrote."""
    path = Path(source)
    parts = [part for part in path.parts if part != path.anchor]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1] if parts else source

"""Texts continued and continuations scored, as evaluation harnesses ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imadarem import checks
from imadarem.errors import DataError
from imadarem.evaluation.held_out import HeldOut
from imadarem.evaluation.likelihood import row_bounds
from imadarem.evaluation.ordered_likelihood import ordered_log_likelihood

LIKELIHOODS = ("bound", "left-to-right")


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """A model that continues texts.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel` with a tokenizer that reads texts.
        likelihood: ``bound``: the masked-diffusion bound of random order, by ``canvases`` passes;
            ``left-to-right``: the exact likelihood of that order, by a pass for each token.
        canvases: Of the bound.
        policy: Of generating.
        steps: Passes of generating; None: one for each token.
        guidance: Classifier-free guidance by the prompt when generating.
        batch_size: Rows in one pass.
        seed: Of the canvases and of drawing.

    Raises:
        ConfigError: There is no such likelihood, or a number is below 1.
    """

    model: Any
    likelihood: str = "bound"
    canvases: int = 32
    policy: str = "blocks"
    steps: int | None = None
    guidance: float = 1.0
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("likelihood", self.likelihood, LIKELIHOODS)
        checks.whole("canvases", self.canvases, 1)
        checks.whole("batch_size", self.batch_size, 1)

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Nats of each continuation given its context; of the bound, at most the true ones.

        A context that does not fit is cut at its start.

        Raises:
            DataError: A continuation has no token or is longer than the model takes.
        """
        return self._scored([self._encoded(*pair) for pair in pairs])

    def are_greedy(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the most probable tokens from left to right are those of the continuation."""
        rows = [self._encoded(*pair) for pair in pairs]
        mask = self.model.special.mask
        asked = [row[:given] + [mask] * (len(row) - given) for row, given in rows]
        steps = max((len(row) - given for row, given in rows), default=1)
        filled = self.model.infill(
            asked,
            policy="left-to-right",
            steps=steps,
            temperature=0.0,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        return [
            found.ids.tolist() == row for found, (row, _) in zip(filled.rows, rows, strict=True)
        ]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of whole texts; a text longer than a canvas is scored in pieces of that length."""
        most = self.model.config.max_seq_len
        pieces, owners = [], []
        for number, text in enumerate(texts):
            ids = self._ids(text)
            for start in range(0, len(ids), most):
                pieces.append((ids[start : start + most], 0))
                owners.append(number)
        found = [0.0] * len(texts)
        for owner, nats in zip(owners, self._scored(pieces), strict=True):
            found[owner] += nats
        return found

    def generate(
        self,
        contexts: Sequence[str],
        *,
        until: Sequence[str] = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
    ) -> list[str]:
        """Texts that continue contexts, up to the first of ``until``.

        So many blanks stand behind each context, and the policy fills them: ``blocks`` block by
        block from the left. A model that ends its rows may end before.
        """
        room = self.model.config.max_seq_len
        blanks = min(checks.integer("max_tokens", max_tokens, 1), room - 1)
        starts = [self._ids(context)[blanks - room :] for context in contexts]
        filled = self.model.infill(
            [start + [self.model.special.mask] * blanks for start in starts],
            policy=self.policy,
            steps=self.steps or blanks,
            temperature=temperature,
            guidance=self.guidance,
            forbid_end=False if self.model.config.length_mode == "eos" else None,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        decode = self.model.tokenizer.decode
        texts = [
            decode(row.ids.tolist()[len(start) :])
            for row, start in zip(filled.rows, starts, strict=True)
        ]
        return [_cut(text, until) for text in texts]

    def _scored(self, rows: Sequence[tuple[list[int], int]]) -> list[float]:
        """Nats of rows of ids of which so many are given."""
        if not rows:
            return []
        model = self.model
        data = HeldOut.from_rows(
            [row for row, _ in rows], model.special, given=[given for _, given in rows]
        )
        how: dict[str, Any] = {"batch_size": self.batch_size}
        if self.likelihood == "bound":
            how |= {"canvases": self.canvases, "seed": self.seed}
            nats = -row_bounds(model, data, model.special, **how)
        else:
            nats = ordered_log_likelihood(model, data, model.special, "left-to-right", **how)
        return [float(value) for value in nats]

    def _encoded(self, context: str, continuation: str) -> tuple[list[int], int]:
        """Ids of both, and how many of them are the context's."""
        # A space between the two belongs to the word that follows it.
        start = context.rstrip()
        continuation = context[len(start) :] + continuation
        before = self._ids(start)
        whole = self._ids(start + continuation)
        answer = whole[len(before) :] if whole[: len(before)] == before else self._ids(continuation)
        room = self.model.config.max_seq_len - len(answer)
        if not answer or room < 0:
            raise DataError(
                f"the continuation {continuation[:60]!r} has {len(answer)} tokens; legal are 1 to "
                f"max_seq_len={self.model.config.max_seq_len}."
            )
        before = before[len(before) - min(room, len(before)) :]
        return before + answer, len(before)

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        return list(self.model.tokenizer.encode(text, add_special_tokens=False))


def _cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of some texts."""
    ends = [place for end in until if end and (place := text.find(end)) >= 0]
    return text[: min(ends)] if ends else text

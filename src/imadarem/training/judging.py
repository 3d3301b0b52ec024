"""What a judge is trained on: rows of data, and rows with errors whose place is known.

``loss = 8 (wrong + missing + gate) + right``, each a mean binary cross-entropy: mistakes are
rare, and their terms a tenth of the verdict's, with which they share a block. The network is
frozen; the judge and the gate, which reads the network's states alone, learn (DSC,
arXiv:2601.06428). Kinds of rows:

- *clean*: the data as it is;
- *edits*: 1 to 5 local edits: a token replaced, inserted, doubled, deleted, or two swapped; or
  errors that the caller makes;
- *plausible*: one token replaced by another that the network finds likely there;
- *refilled*: windows of the data filled by the network;
- *drafts*: rows that the network wrote from nothing.

Labels come from an alignment with the data (LLaDA2.2; ME-DLM, arXiv:2605.09603): a token is
wrong where it is replaced or deleted on the shortest way back, and tokens are missing before a
position where some are inserted. The network's own rows, *refilled* and *drafts*, teach a
verdict each, in which they are not right and *clean* rows are: another molecule was possible
in a window, and as labels of tokens they outnumber the mistakes and hide them. A share of the
first three kinds is judged with blanks in it, as a gate reads its canvas in sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from imadarem.corruption import Holes
from imadarem.data.corpus import TokenCorpus, collate
from imadarem.nn.judge import JudgeLogits
from imadarem.tokenizers import SpecialIds

KINDS = ("clean", "edits", "plausible", "refilled", "drafts")
#: Share of a batch that each kind has.
SHARES = (0.4, 0.2, 0.12, 0.1, 0.18)
MOST_EDITS = 5
#: Share of the clean, edited and plausible rows that are judged with blanks in them.
BLANK_SHARE = 0.2
#: Weight of the terms of tokens and gaps beside that of rows.
TOKEN_WEIGHT = 8.0
#: Largest share of a row that is refilled.
REFILL_LIMIT = 0.6
CLEAN, EDITS, PLAUSIBLE, REFILLED, DRAFTS = range(len(KINDS))
Row = Sequence[int] | np.ndarray
#: A row after some errors.
Errors = Callable[[Row, np.random.Generator], list[int]]


class JudgedRows(NamedTuple):
    """Rows to judge and the truth about them.

    Attributes:
        ids: ``(B, L)``, blanks among them.
        inside: ``(B, L)`` bool.
        judged: ``(B, L)`` bool, tokens with a label: no blank, and none of the network's rows.
        wrong: ``(B, L)`` bool.
        missing: ``(B, L + 1)`` bool.
        kinds: ``(B,)`` indices into :data:`KINDS`.
    """

    ids: Tensor
    inside: Tensor
    judged: Tensor
    wrong: Tensor
    missing: Tensor
    kinds: Tensor

    @property
    def gaps(self) -> Tensor:
        """``(B, L + 1)`` bool, gaps with a label."""
        return F.pad(self.inside, (1, 0), value=True) & (self.kinds <= PLAUSIBLE)[:, None]


def alignment_labels(row: Row, original: Row) -> tuple[np.ndarray, np.ndarray]:
    """Wrong tokens ``(n,)`` and gaps with missing tokens ``(n + 1,)`` of a row, both bool."""
    wrong = np.zeros(len(row), dtype=bool)
    missing = np.zeros(len(row) + 1, dtype=bool)
    for edit in Levenshtein.editops(list(map(int, row)), list(map(int, original))):
        (missing if edit.tag == "insert" else wrong)[edit.src_pos] = True
    return wrong, missing


def local_edits(
    row: Row, vocabulary: np.ndarray, count: int, rng: np.random.Generator
) -> list[int]:
    """A row after ``count`` edits at random places; at least one token is left."""
    edited = [int(token) for token in row]
    for kind in rng.integers(5, size=count):
        at = int(rng.integers(len(edited)))
        if kind == 0:
            edited[at] = int(rng.choice(vocabulary))
        elif kind == 1:
            edited.insert(int(rng.integers(len(edited) + 1)), int(rng.choice(vocabulary)))
        elif kind == 2:
            edited.insert(at, edited[at])
        elif kind == 3 and len(edited) > 1:
            del edited[at]
        elif at + 1 < len(edited):
            edited[at], edited[at + 1] = edited[at + 1], edited[at]
    return edited


def judged_rows(rows: Sequence[tuple[Row, Row | None, int]], special: SpecialIds) -> JudgedRows:
    """A batch of ``(row, original, kind)``; only edited and plausible rows need an original."""
    ids, inside = collate([np.asarray(row) for row, _, _ in rows], special.pad)
    wrong = np.zeros(ids.shape, dtype=bool)
    missing = np.zeros((len(rows), ids.shape[1] + 1), dtype=bool)
    for number, (row, original, kind) in enumerate(rows):
        if original is not None and kind in (EDITS, PLAUSIBLE):
            at = len(row)
            wrong[number, :at], missing[number, : at + 1] = alignment_labels(row, original)
    kinds = torch.tensor([kind for _, _, kind in rows])
    judged = inside & (kinds <= PLAUSIBLE)[:, None]
    labels = torch.from_numpy(wrong), torch.from_numpy(missing)
    return JudgedRows(ids, inside, judged, *labels, kinds)


@dataclass(frozen=True)
class JudgeLoss:
    """The terms of the loss, nats, and their sum."""

    total: Tensor
    wrong: Tensor
    missing: Tensor
    right: Tensor
    gate: Tensor


def judge_loss(judged: JudgeLogits, gate: Tensor, rows: JudgedRows) -> JudgeLoss:
    """Mean binary cross-entropy over tokens, gaps and rows that have a label.

    ``gate`` are ``(B, L)`` logits of what ``judged.wrong`` says.
    """
    tokens, gaps = rows.judged, rows.gaps
    right = []
    for logits, kind in zip(judged.right.unbind(dim=1), (DRAFTS, REFILLED), strict=True):
        sided = (rows.kinds == CLEAN) | (rows.kinds == kind)
        right.append(_cross_entropy(logits[sided], rows.kinds[sided] == CLEAN))
    wrong = _cross_entropy(judged.wrong[tokens], rows.wrong[tokens])
    missing = _cross_entropy(judged.missing[gaps], rows.missing[gaps])
    cheap = _cross_entropy(gate[tokens], rows.wrong[tokens])
    verdict = torch.stack(right).mean()
    total = TOKEN_WEIGHT * (wrong + missing + cheap) + verdict
    return JudgeLoss(total, wrong, missing, verdict, cheap)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if len(logits) == 0:
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


class JudgeData:
    """Batches of all kinds of rows, from a corpus and the model itself.

    Args:
        model: Writes the refilled rows and the drafts, ``own`` of each, here and in
            :meth:`refresh`; and the plausible tokens.
        corpus: The data.
        own: Rows of each kind that the model writes.
        seed: Of everything drawn.
        errors: Makes the errors of the edited rows; default are local edits.
        shares: Share of a batch that each kind has.
    """

    def __init__(
        self,
        model: Any,
        corpus: TokenCorpus,
        own: int,
        seed: int,
        errors: Errors | None = None,
        shares: Sequence[float] = SHARES,
    ) -> None:
        self.model, self.corpus, self.own = model, corpus, own
        self.errors, self.shares = errors or self._local_edits, shares
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        special = model.special
        ids = range(model.config.vocab_size)
        never = {*special.banned, special.eos}
        self._vocabulary = np.array([index for index in ids if index not in never])
        self.refresh()

    def refresh(self) -> None:
        """Let the model write its own rows anew."""
        seed = int(self._rng.integers(2**31))
        picked = self._rng.choice(len(self.corpus), self.own, replace=len(self.corpus) < self.own)
        originals = [self.corpus[i] for i in picked]
        self._refilled = self._refill(originals, seed)
        drafts = self.model.sample(self.own, steps=1, seed=seed)
        self._drafts = [row.ids.tolist() for row in drafts.rows]

    def batch(self, size: int) -> JudgedRows:
        """``size`` rows of all kinds."""
        rng, special = self._rng, self.model.special
        counts = np.array([round(share * size) for share in self.shares])
        clean, edited, odd = np.split(
            np.array(rng.integers(len(self.corpus), size=counts[:3].sum())),
            counts[:2].cumsum(),
        )
        rows: list[tuple[Row, Row | None, int]] = []
        rows += [(self.corpus[i], None, CLEAN) for i in clean]
        rows += [(self.errors(self.corpus[i], rng), self.corpus[i], EDITS) for i in edited]
        if len(odd):
            given = [self.corpus[i] for i in odd]
            changed = self._plausible(given)
            rows += [(a, b, PLAUSIBLE) for a, b in zip(changed, given, strict=True)]
        for i in rng.integers(self.own, size=counts[REFILLED]):
            rows.append((self._refilled[i], None, REFILLED))
        rows += [
            (self._drafts[i], None, DRAFTS) for i in rng.integers(self.own, size=counts[DRAFTS])
        ]
        longest = self.model.config.max_seq_len
        return self._with_blanks(judged_rows([r for r in rows if len(r[0]) <= longest], special))

    def _local_edits(self, row: Row, rng: np.random.Generator) -> list[int]:
        return local_edits(row, self._vocabulary, int(rng.integers(1, MOST_EDITS + 1)), rng)

    def _with_blanks(self, rows: JudgedRows) -> JudgedRows:
        draw = torch.rand(rows.ids.shape, generator=self._generator)
        share = torch.rand(len(rows.ids), 2, generator=self._generator)
        some = (rows.kinds <= PLAUSIBLE) & (share[:, 0] < BLANK_SHARE)
        blank = rows.judged & some[:, None] & (draw < share[:, 1:])
        ids = rows.ids.masked_fill(blank, self.model.special.mask)
        return rows._replace(ids=ids, judged=rows.judged & ~blank)

    def _refill(self, rows: Sequence[np.ndarray], seed: int) -> list[list[int]]:
        """One or two windows of each row, filled in one pass."""
        lengths = torch.tensor([len(row) for row in rows])
        share = torch.rand(len(rows), generator=self._generator, dtype=torch.float64)
        counts = torch.ceil(REFILL_LIMIT * share * lengths).long().clamp(min=1)
        hidden = Holes.windows(counts, lengths, self._generator).hidden(int(lengths.max()))
        mask = self.model.special.mask
        prompts = [
            np.where(hole[: len(row)], mask, row).tolist()
            for hole, row in zip(hidden.numpy(), rows, strict=True)
        ]
        return [row.ids.tolist() for row in self.model.infill(prompts, steps=1, seed=seed).rows]

    @torch.no_grad()
    def _plausible(self, rows: Sequence[np.ndarray]) -> list[list[int]]:
        """One token of each row replaced by another, drawn from what the model finds there."""
        special = self.model.special
        ids, inside = collate(rows, special.pad)
        lengths = inside.sum(dim=1)
        at = (torch.rand(len(rows), generator=self._generator) * lengths).long()
        every = torch.arange(len(rows))
        logits = self.model(ids.scatter(1, at[:, None], special.mask), inside).logits[every, at]
        logits[:, [*special.banned, *([] if special.eos is None else [special.eos])]] = -torch.inf
        logits[every, ids[every, at]] = -torch.inf
        drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=self._generator)
        changed = ids.scatter(1, at[:, None], drawn)
        return [
            row[:length].tolist() for row, length in zip(changed, lengths.tolist(), strict=True)
        ]

"""The memory bank: solved canvases, found again by what they have in common with a question."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from imadarem import checks
from imadarem.errors import ConfigError, DataError
from imadarem.orchestrator.memory_address import GRID, ContentAddress

FORMAT = "imadarem.memory/1"
#: What must be equal for saved contents to be found again.
ADDRESSING = ("size", "vocab_size", "key_size", "position_weight", "pad_token_id", "seed")


class Recall(NamedTuple):
    """What a bank remembers of a batch of questions, best first.

    ``k`` is 0 where the bank is empty, and never more than its entries.

    Attributes:
        ids: ``(B, k, L')`` token ids; ``L'`` is the longest canvas in the bank.
        similarity: ``(B, k)`` cosines in [-1, 1]; 0 where there is no hit.
        valid: ``(B, k)`` bool, the hits.
        attended: ``(B, k, L')`` bool, the tokens of hits that are no padding.
    """

    ids: Tensor
    similarity: Tensor
    valid: Tensor
    attended: Tensor

    def rows(self, which: Tensor) -> Recall:
        """Some of the rows, by index or mask."""
        return Recall(*(part[which] for part in self))

    @property
    def is_empty(self) -> bool:
        """Whether no row has a hit, so that a model may run as if it had no memory."""
        return not bool(self.valid.any())


class Memory(Protocol):
    """What the orchestrator asks of a memory; bring your own, or take :class:`MemoryBank`."""

    def write(self, ids: Tensor, known: Tensor, surprise: Tensor, task_ids: Tensor) -> Tensor:
        """Offer ``(B, L)`` solved canvases; ``(B,)`` bool, which were kept."""
        ...

    def read(self, ids: Tensor, known: Tensor, *, exclude_task_ids: Tensor | None = None) -> Recall:
        """What was kept that is most like each of ``(B, L)`` canvases, as far as ``known``."""
        ...

    def get_stats(self) -> dict[str, Any]:
        """Plain numbers for reports."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Contents and counters, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that :meth:`state_dict` was taken of."""
        ...

    def __len__(self) -> int: ...


class MemoryBank:
    """A memory of solved canvases as token ids, from which similar ones are retrieved.

    It stores token ids, not vectors of a network: they are embedded with the current weights when
    they are read, so that nothing is out of date in training.

    A canvas is kept if the model learned from it and nothing similar is there::

        score = clip(surprise / ln V, 0, 1) · (1 - largest cosine to the bank)  ≥  threshold

    Rows of a batch are scored one after another, so of two equal rows the second is refused; a copy
    of an entry is refused at any threshold. A full bank drops its oldest entry, not the one of the
    lowest score: surprise falls in training, so the earliest entries would stay for ever.

    All of it lies on the CPU; recalls come back on the device of the question.

    Args:
        size: Maximum number of entries.
        vocab_size: ``V``; None is that of the orchestrator's model, see :meth:`use_vocabulary`.
        key_size: Length of an address; unrelated canvases are similar by about
            ``± 1 / sqrt(key_size)``.
        position_weight: Share of the similarity that asks for tokens in the same place; the
            rest asks for the same tokens anywhere. See
            :class:`~imadarem.orchestrator.memory_address.ContentAddress`.
        threshold: Least score to be kept, in [0, 1]. At 0.05 a canvas like no other is kept
            from a surprise of a twentieth of ``ln V`` nats per token upwards.
        top_k: Hits per question.
        min_similarity: A hit must be more similar than this cosine.
        pad_token_id: Id of padding, which is neither addressed nor attended to.
        seed: Draws the random features of the address.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        size: int = 4096,
        *,
        vocab_size: int | None = None,
        key_size: int = 128,
        position_weight: float = 0.5,
        threshold: float = 0.05,
        top_k: int = 4,
        min_similarity: float = 0.0,
        pad_token_id: int = 0,
        seed: int = 0,
    ) -> None:
        for name, value in {"size": size, "key_size": key_size, "top_k": top_k}.items():
            checks.whole(name, value, 1)
        _check_between(0.0, 1.0, position_weight=position_weight, threshold=threshold)
        _check_between(-1.0, 1.0, min_similarity=min_similarity)
        self.size = size
        self.vocab_size: int | None = None
        self.key_size = key_size
        self.position_weight = position_weight
        self.threshold = threshold
        self.top_k = top_k
        self.min_similarity = min_similarity
        self.pad_token_id = pad_token_id
        self.seed = seed
        if vocab_size is not None:
            self.use_vocabulary(vocab_size, pad_token_id)
        self.clear()

    def use_vocabulary(self, vocab_size: int, pad_token_id: int) -> None:
        """Take canvases of ``vocab_size`` tokens; for a bank that was built without.

        Raises:
            ConfigError: The number is below 2, or the bank has another vocabulary.
        """
        checks.whole("vocab_size", vocab_size, 2)
        if self.vocab_size is not None:
            raise ConfigError(f"this bank has vocab_size={self.vocab_size} already.")
        self.vocab_size, self.pad_token_id = vocab_size, pad_token_id
        self.keys = ContentAddress(
            vocab_size, self.key_size, self.position_weight, pad_token_id, self.seed
        )
        self.clear()

    def clear(self) -> None:
        """Forget everything, counters included."""
        self._entries = 0
        self._ids = torch.full((self.size, 0), self.pad_token_id)
        self._keys = torch.zeros(self.size, self.key_size)
        self._task_ids = torch.zeros(self.size, dtype=torch.int64)
        self._written = self._refused = self._reads = self._hits = 0
        self._similarity = 0.0

    def __len__(self) -> int:
        return self._entries

    def write(self, ids: Tensor, known: Tensor, surprise: Tensor, task_ids: Tensor) -> Tensor:
        """Keep the canvases that taught something new.

        Args:
            ids: ``(B, L)`` solved canvases.
            known: ``(B, L)`` bool, the positions that make up the address. All of them, as a
                rule: a part of a canvas finds the whole.
            surprise: ``(B,)`` mean cross-entropy of what had to be written, in nats per token.
                A row whose surprise is not finite is refused.
            task_ids: ``(B,)`` int64, to be excluded by in :meth:`read`.

        Returns:
            ``(B,)`` bool, which were kept.

        Raises:
            DataError: The shapes do not belong together, or an id is outside the vocabulary.
        """
        self._check(ids, known, surprise=surprise, task_ids=task_ids)
        keys = self.keys(ids, known)
        assert self.vocab_size is not None
        weights = (surprise.detach().cpu().double() / math.log(self.vocab_size)).clamp(0, 1)
        weights[~surprise.cpu().isfinite()] = 0.0
        kept = [
            self._offer(row, key, float(weight), int(task))
            for row, key, weight, task in zip(ids.cpu(), keys, weights, task_ids, strict=True)
        ]
        return torch.tensor(kept, dtype=torch.bool, device=ids.device)

    def read(self, ids: Tensor, known: Tensor, *, exclude_task_ids: Tensor | None = None) -> Recall:
        """The entries most similar to each canvas.

        Args:
            ids: ``(B, L)`` canvases.
            known: ``(B, L)`` bool, the positions to go by; a row that knows none has no hit.
            exclude_task_ids: ``(B,)`` int64; entries of a row's own number are no hits, so that
                training cannot look its answer up.

        Raises:
            DataError: The shapes do not belong together, or an id is outside the vocabulary.
        """
        excluded = {} if exclude_task_ids is None else {"exclude_task_ids": exclude_task_ids}
        self._check(ids, known, **excluded)
        similarity, slots, valid = self._nearest(self.keys(ids, known), exclude_task_ids)
        found = self._ids[slots].masked_fill(~valid[..., None], self.pad_token_id)
        self._count_read(similarity, valid)
        recall = Recall(found, similarity, valid, found != self.pad_token_id)
        return Recall(*(part.to(ids.device) for part in recall))

    def get_stats(self) -> dict[str, Any]:
        """What is there, what was done, and how often it helped.

        ``hit_share`` is the share of questions with at least one hit and
        ``mean_similarity`` the mean cosine of their best; both are None before a question.
        """
        return {
            "entries": self._entries,
            "capacity": self.size,
            "written": self._written,
            "refused": self._refused,
            "evicted": self._written - self._entries,
            "reads": self._reads,
            "hit_share": self._hits / self._reads if self._reads else None,
            "mean_similarity": self._similarity / self._hits if self._hits else None,
            "bytes": self._bytes(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Contents, counters and settings; an exact round trip through ``save_state``."""
        used = slice(0, self._entries)
        return {
            "format": FORMAT,
            "settings": {name: getattr(self, name) for name in ADDRESSING},
            "ids": self._ids[used].clone(),
            "keys": self._keys[used].clone(),
            "task_ids": self._task_ids[used].clone(),
            "written": self._written,
            "refused": self._refused,
            "reads": self._reads,
            "hits": self._hits,
            "similarity": self._similarity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the bank that was saved; ``threshold`` and ``top_k`` stay as given.

        Raises:
            ConfigError: The saved bank has other settings of addressing, or another format.
        """
        if state.get("format") != FORMAT:
            raise ConfigError(
                f"this memory has the format {state.get('format')!r}; legal is {FORMAT!r}."
            )
        for name in ADDRESSING:
            saved, ours = state["settings"].get(name), getattr(self, name)
            if saved != ours:
                raise ConfigError(
                    f"the saved memory has {name}={saved!r} and this bank has {name}={ours!r}, "
                    f"so what it holds would not be found. Build MemoryBank(..., {name}={saved!r})."
                )
        self.clear()
        self._written = state["written"]
        self._fill(state["ids"], state["keys"], state["task_ids"])
        self._refused, self._reads, self._hits = state["refused"], state["reads"], state["hits"]
        self._similarity = state["similarity"]

    def _offer(self, ids: Tensor, key: Tensor, weight: float, task_id: int) -> bool:
        """Write one row ``(L,)`` where its score reaches the threshold."""
        own = float(key @ key)
        # Over its own length, since keys on a grid are not exactly of length 1: a copy has a
        # novelty of exactly 0. A key of 0 finds nothing, and nothing would ever find it.
        novelty = 1.0 - self._closest(key) / own if own else 0.0
        if novelty <= 0 or weight <= 0 or weight * novelty < self.threshold:
            self._refused += 1
            return False
        slot = self._written % self.size
        self._written += 1
        self._entries = min(self._entries + 1, self.size)
        self._widen(len(ids))
        self._ids[slot] = self.pad_token_id
        self._ids[slot, : len(ids)] = ids
        self._keys[slot] = key
        self._task_ids[slot] = task_id
        return True

    def _closest(self, key: Tensor) -> float:
        """Similarity of the entry most like a key, at least 0."""
        if not self._entries:
            return 0.0
        return max(0.0, float(self._search(key[None], 1)[0]))

    def _nearest(self, keys: Tensor, exclude: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Similarity, slot and whether it is a hit, each ``(B, k)``."""
        k = min(self.top_k, self._entries)
        if k == 0:
            nothing = torch.zeros(len(keys), 0)
            return nothing, nothing.long(), nothing.bool()
        if exclude is None:
            similarity, slots = self._search(keys, k)
        else:
            similarity, slots = self._nearest_of_others(keys, exclude.cpu(), k)
        valid = similarity > self.min_similarity
        return similarity.clamp(-1, 1).masked_fill(~valid, 0.0), slots, valid

    def _nearest_of_others(self, keys: Tensor, exclude: Tensor, k: int) -> tuple[Tensor, Tensor]:
        own = self._task_ids[: self._entries] == exclude[:, None]
        # So many more that k are left whatever is struck out.
        more = int(own.sum(1).max())
        similarity, slots = self._search(keys, min(k + more, self._entries))
        similarity = similarity.masked_fill(own.gather(1, slots), -torch.inf)
        best = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
        return similarity.gather(1, best), slots.gather(1, best)

    def _search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Similarity and slot of the nearest entries, both ``(B, count)``, best first.

        Of entries that are as near as each other, the one that was written later comes first.
        """
        similarity = queries @ self._keys[: self._entries].T
        # Whole numbers order by similarity, then by age: topk leaves ties open.
        age = (torch.arange(self._entries) - self._written) % self.size
        slots = ((similarity.double() * GRID**2).long() * self.size + age).topk(count).indices
        return similarity.gather(1, slots), slots

    def _fill(self, ids: Tensor, keys: Tensor, task_ids: Tensor) -> None:
        self._entries = len(ids)
        self._widen(ids.shape[1])
        self._ids[: len(ids)] = ids
        self._keys[: len(ids)] = keys
        self._task_ids[: len(ids)] = task_ids

    def _widen(self, length: int) -> None:
        missing = length - self._ids.shape[1]
        if missing > 0:
            pad = torch.nn.functional.pad
            self._ids = pad(self._ids, (0, missing), value=self.pad_token_id)

    def _count_read(self, similarity: Tensor, valid: Tensor) -> None:
        self._reads += len(valid)
        if valid.shape[1]:
            self._hits += int(valid[:, 0].sum())
            self._similarity += float(similarity[:, 0].double().sum())

    def _bytes(self) -> int:
        stores = (self._ids, self._keys, self._task_ids)
        return sum(store[: self._entries].numel() * store.element_size() for store in stores)

    def _check(self, ids: Tensor, known: Tensor, **per_row: Tensor) -> None:
        if self.vocab_size is None:
            raise ConfigError(
                "this bank knows no vocabulary yet. Give it to an orchestrator, or build "
                "MemoryBank(vocab_size=...)."
            )
        if ids.dim() != 2 or known.shape != ids.shape or known.dtype != torch.bool:
            raise DataError(
                f"ids {tuple(ids.shape)} and known {tuple(known.shape)} of {known.dtype} do not "
                "belong together: legal are (B, L) ids and (B, L) bool."
            )
        for name, values in per_row.items():
            if values.shape != ids.shape[:1]:
                raise DataError(
                    f"{name} has the shape {tuple(values.shape)}; "
                    f"{len(ids)} canvases need ({len(ids)},), one value each."
                )
        if ids.numel() and not (0 <= int(ids.min()) and int(ids.max()) < self.vocab_size):
            raise DataError(
                f"ids go from {int(ids.min())} to {int(ids.max())}; a bank of "
                f"vocab_size={self.vocab_size} takes 0 to {self.vocab_size - 1}."
            )


def _check_between(low: float, high: float, **settings: float) -> None:
    for name, value in settings.items():
        if not low <= value <= high:
            raise ConfigError(f"{name}={value!r} is out of range: legal is {low:g} to {high:g}.")

"""A batch as users have it, made into questions: blanks, answers, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem import checks
from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import Corruption
from imadarem.data.tasks import Episodes
from imadarem.errors import DataError, nearest
from imadarem.nn.memory import Retrieved
from imadarem.orchestrator.augment import AugmentedBatch, Augmenter
from imadarem.orchestrator.memory import Memory, Recall
from imadarem.sampling.noise import mix_rows
from imadarem.tokenizers import SpecialIds
from imadarem.training.step import gathered

KEYS = ("input_ids", "labels", "attention_mask", "task_ids")
#: Label that counts for nothing, by the convention of Hugging Face.
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Rows to learn from.

    Attributes:
        inputs: ``(B, L)`` ids, padded with the pad id; blanks where there is an answer.
        labels: ``(B, L)`` ids.
        task_ids: ``(B,)`` int64.
        has_answers: False for plain data, which is masked at random before it is a question.
    """

    inputs: Tensor
    labels: Tensor
    task_ids: Tensor
    has_answers: bool


@dataclass(frozen=True)
class Question:
    """What is unrolled: a canvas with blanks, and what belongs into them.

    Attributes:
        canvas: ``(B, L)``, blanks OPEN, the rest GIVEN or PAD.
        labels: ``(B, L)`` ids.
        may_end: Whether an EOS may be written.
        memory: Earlier canvases to look at.
    """

    canvas: Canvas
    labels: Tensor
    may_end: bool = False
    memory: Retrieved | None = None

    @property
    def blanks(self) -> Tensor:
        """``(B, L)`` bool, the positions that count."""
        return self.canvas.open

    def exact(self, answer: Tensor) -> Tensor:
        """``(B,)`` bool: every blank of the answer ``(B, L)`` holds its label."""
        return ((answer == self.labels) | ~self.blanks).all(dim=1)

    def accuracy(self, answer: Tensor) -> float:
        """Share of all blanks of the batch that hold their label."""
        right = ((answer == self.labels) & self.blanks).sum()
        return float(right) / max(int(self.blanks.sum()), 1)


def read_batch(
    batch: Tensor | Episodes | Mapping[str, Tensor],
    special: SpecialIds,
    config: ImplicitRefinementConfig,
) -> Batch:
    """Check a batch.

    Args:
        batch: ``(B, L)`` ids of plain data; :class:`Episodes`; or a dictionary with
            ``input_ids`` and, optionally, ``labels`` (read at blanks alone; -100 is fine
            elsewhere), ``attention_mask`` and ``task_ids``. With labels, the blanks of
            ``input_ids`` are what is to be answered; without, the ids are data.
        special: The tokenizer's special ids.
        config: Of the model: how long a canvas may be, and the range of ids.
    """
    parts = _parts(batch)
    inputs = parts["input_ids"]
    check_ids("input_ids", inputs, config)
    inputs = inputs.long()
    mask = parts.get("attention_mask")
    if mask is not None:
        _same_shape("attention_mask", mask, inputs)
        inputs = inputs.masked_fill(~mask.to(inputs.device).bool(), special.pad)
    blanks = inputs == special.mask
    labels = parts.get("labels")
    if labels is None:
        if bool(blanks.any()):
            raise DataError(
                f"input_ids has {int(blanks.sum())} blanks (id {special.mask}) and there are no "
                "labels for them. Give labels, or data without blanks, which is masked here."
            )
    else:
        _same_shape("labels", labels, inputs)
        if labels.is_floating_point():
            raise DataError(f"labels must be whole numbers; got {labels.dtype}.")
        labels = labels.to(inputs)
        # Only what stands at a blank is an answer; anything else may be ignored or not.
        labels = torch.where(blanks & (labels != IGNORED), labels, inputs)
        _check_answers(inputs, labels, blanks, special, config.vocab_size)
    task_ids = parts.get("task_ids")
    if task_ids is None:
        task_ids = mix_rows(inputs)
    elif task_ids.shape != inputs.shape[:1]:
        raise DataError(f"{len(inputs)} rows need as many task_ids; got {tuple(task_ids.shape)}.")
    has_answers = labels is not None
    return Batch(inputs, inputs if labels is None else labels, task_ids, has_answers)


def corrupted(
    data: Tensor,
    noised: Tensor,
    special: SpecialIds,
    config: ImplicitRefinementConfig,
    generator: torch.Generator,
) -> tuple[Canvas, Tensor]:
    """Plain data ``(B, L)`` as questions: canvases with random blanks, and their labels.

    Args:
        data: The rows; they are the labels.
        noised: The same with noise on some tokens, which shows where no blank was put.
        special: The tokenizer's special ids.
        config: Of the model.
        generator: Draws the blanks.
    """
    made = Corruption(config=config, special=special).corrupt(data, data != special.pad, generator)
    canvas = made.canvas
    noise = F.pad(noised != data, (0, canvas.ids.shape[1] - data.shape[1]))
    shown = noise & (canvas.state == State.WRITTEN)
    ids = torch.where(shown, F.pad(noised, (0, noise.shape[1] - data.shape[1])), canvas.ids)
    state = canvas.state.masked_fill(canvas.state == State.WRITTEN, State.GIVEN)
    state = state.masked_fill(ids == special.mask, State.OPEN)
    return replace(canvas, ids=ids, state=state), made.targets


def questions(
    given: Batch, augmenter: Augmenter, model: Any, count: int, generator: torch.Generator
) -> tuple[Question, AugmentedBatch]:
    """A batch, augmented, as questions; and how each row was augmented.

    Args:
        given: The rows.
        augmenter: Of their task.
        model: Its special ids, its settings and its device.
        count: Elements of a task are drawn from 0 to this number.
        generator: On the CPU.
    """
    special, config = model.special, model.config
    device = next(model.parameters()).device
    ks = torch.randint(count + 1, given.task_ids.shape, generator=generator)
    rows = augmenter.batch(given.inputs, given.labels, given.task_ids, ks)
    ids, labels = rows.inputs.to(device), rows.labels.to(device)
    if given.has_answers:
        canvas = canvas_of(ids, special)
    else:
        canvas, labels = corrupted(labels, ids, special, config, generator)
    return Question(canvas, labels, may_end=config.length_mode == "eos"), rows


def recall(
    bank: Memory | None, model: Any, canvas: Canvas, exclude_task_ids: Tensor | None = None
) -> Recall | None:
    """What a memory has on canvases; None where it has nothing, or the model cannot look at it."""
    if bank is None or not model.config.memory or not len(bank):
        return None
    known = canvas.attended & ~canvas.open
    found = bank.read(canvas.ids, known, exclude_task_ids=exclude_task_ids)
    return None if found.is_empty else found


def remember(
    bank: Memory | None, question: Question, surprise: Tensor | None, task_ids: Tensor
) -> int:
    """Offer solved canvases to a memory, the same ones in every process; how many were kept."""
    if bank is None or surprise is None:
        return 0
    solved = torch.where(question.blanks, question.labels, question.canvas.ids)
    known = question.canvas.attended
    own = (solved.cpu(), known.cpu(), surprise.cpu(), task_ids.cpu())
    return sum(int(bank.write(*offer).sum()) for offer in gathered(own))


def canvas_of(inputs: Tensor, special: SpecialIds) -> Canvas:
    """``(B, L)`` ids → blanks OPEN, pads PAD wherever they stand, everything else GIVEN."""
    state = torch.full_like(inputs, int(State.GIVEN))
    state = state.masked_fill(inputs == special.mask, int(State.OPEN))
    state = state.masked_fill(inputs == special.pad, int(State.PAD))
    return Canvas(inputs, state.to(torch.uint8), special)


def _parts(batch: Tensor | Episodes | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(batch, Tensor):
        return {"input_ids": batch}
    if isinstance(batch, Episodes):
        return {"input_ids": batch.inputs, "labels": batch.labels, "task_ids": batch.task_ids}
    given: dict[str, Any] = dict(batch)
    for key in given:
        if key not in KEYS:
            raise DataError(
                f"a batch has no {key!r}{nearest(key, KEYS)}; legal are {', '.join(KEYS)}."
            )
    if "input_ids" not in given:
        raise DataError(f"a batch needs input_ids; this one has {', '.join(given) or 'nothing'}.")
    return {key: torch.as_tensor(value) for key, value in given.items() if value is not None}


def canvases_given(
    input_ids: Tensor | Sequence[int],
    attention_mask: Tensor | None,
    special: SpecialIds,
    config: ImplicitRefinementConfig,
) -> Tensor:
    """``(B, L)`` or ``(L,)`` ids and their mask → ``(B, L)`` int64, padded where masked."""
    ids = torch.as_tensor(input_ids)
    ids = ids[None] if ids.ndim == 1 else ids
    if attention_mask is not None:
        mask = torch.as_tensor(attention_mask)
        if mask.numel() != ids.numel():
            raise DataError(
                f"attention_mask is {tuple(mask.shape)} and input_ids {tuple(ids.shape)}."
            )
        ids = ids.masked_fill(~mask.reshape(ids.shape).bool(), special.pad)
    check_ids("input_ids", ids, config)
    return ids.long()


def check_ids(name: str, ids: Tensor, config: ImplicitRefinementConfig) -> None:
    """Refuse what is no ``(B, L)`` batch of ids for a model."""
    if ids.ndim != 2 or ids.numel() == 0 or ids.is_floating_point():
        raise DataError(
            f"{name} must be (B, L) whole numbers with B, L ≥ 1; got {tuple(ids.shape)} of "
            f"{ids.dtype}."
        )
    checks.canvas_length(ids.shape[1], config.max_seq_len, f"each row of {name}")
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise DataError(
            f"{name} has ids from {int(ids.min())} to {int(ids.max())}; legal are 0 to "
            f"{config.vocab_size - 1}."
        )


def _same_shape(name: str, given: Tensor, inputs: Tensor) -> None:
    if given.shape != inputs.shape:
        raise DataError(f"{name} is {tuple(given.shape)} and input_ids {tuple(inputs.shape)}.")


def _check_answers(
    inputs: Tensor, labels: Tensor, blanks: Tensor, special: SpecialIds, vocab_size: int
) -> None:
    empty = ~blanks.any(dim=1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise DataError(
            f"row {row} of input_ids has no blank (id {special.mask}), so there is nothing to "
            "answer. Leave such rows out, or leave the labels out to train on plain data."
        )
    wanted = labels[blanks]
    # An ignored label of a blank is the blank itself, and caught here too.
    illegal = (wanted < 0) | (wanted >= vocab_size)
    for banned in special.banned:
        illegal |= wanted == banned
    if bool(illegal.any()):
        raise DataError(
            f"labels asks for id {int(wanted[illegal][0])} at a blank; a model can write the ids 0 "
            f"to {vocab_size - 1} except the special ones {sorted(special.banned)}. Give every "
            "blank a label."
        )

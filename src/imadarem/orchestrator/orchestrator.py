"""Train many, infer few: the orchestrator over any refiner and any task."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.tasks import Episodes, Task
from imadarem.errors import ConfigError
from imadarem.nn import EmaTeacher
from imadarem.orchestrator.augment import Augmenter
from imadarem.orchestrator.bandit import DiscountedBandit
from imadarem.orchestrator.batch import Batch, canvas_of, canvases_given, corrupted, read_batch
from imadarem.orchestrator.carried import Carried
from imadarem.orchestrator.checkpoints import load, save, state_beside_model
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.edits import available_edits
from imadarem.orchestrator.inference import ChosenEdit, Inference
from imadarem.orchestrator.known_tasks import KnownTasks
from imadarem.orchestrator.memory import Memory
from imadarem.orchestrator.objective import Unrolled, UnrollObjective
from imadarem.orchestrator.paraphrase import Paraphrase
from imadarem.orchestrator.unroll import Question
from imadarem.orchestrator.voting import refuse_rule
from imadarem.sampling.halting import Halting
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SpecialIds
from imadarem.training.grokfast import GrokFastEma
from imadarem.training.processes import gathered, mean_over_processes, rank
from imadarem.training.record import TrainingRecord
from imadarem.training.step import step_generator
from imadarem.training.update import GuardedUpdate

__all__ = ["Refiner", "UnifiedRefinerOrchestrator"]

AnyBatch = Tensor | Episodes | Mapping[str, Tensor]


class Refiner(Protocol):
    """What the orchestrator asks of a model; :class:`~imadarem.ImplicitRefinementModel` has it.

    It is an ``nn.Module`` called as ``model(input_ids, attention_mask, prev_probs=...)``, with
    ``carry=`` and ``memory=`` where its config says so.
    """

    config: ImplicitRefinementConfig
    special: SpecialIds
    teacher: EmaTeacher | None


class UnifiedRefinerOrchestrator(nn.Module):
    """Trains a refiner by unrolling many steps, runs it with few, and knows when it is done.

    ::

        orchestrator = UnifiedRefinerOrchestrator(model, tokenizer, memory_bank, config)
        orchestrator.train()
        loss_info = orchestrator.train_step(batch, optimizer, task_type="text")
        orchestrator.eval()
        result = orchestrator.inference(input_ids)

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`, or what :class:`Refiner` says.
        tokenizer: Of the model; decodes results and helps to augment text. May be None.
        memory_bank: A :class:`~imadarem.orchestrator.memory.MemoryBank` or your own; the model
            must be built with ``memory=True`` to look at it. May be None.
        config: Settings; default ``OrchestrationConfig()``.

    Raises:
        ConfigError: The model lacks what the settings need.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        memory_bank: Memory | None = None,
        config: OrchestrationConfig | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.memory_bank = memory_bank
        self.config = OrchestrationConfig() if config is None else config
        self._check_model()
        # "replace" wins ties, so that a bandit without experience does the plain thing.
        arms = sorted(self.config.canvas_edit_strategies, key=lambda name: name != "replace")
        self.bandit = DiscountedBandit(arms, seed=self.config.seed)
        self.record = TrainingRecord()
        self.update = GuardedUpdate(
            model,
            clip=self.config.gradient_clip_threshold,
            precision=self.config.mixed_precision,
            grok_fast=_gradient_filter(self.config),
        )
        self.tasks = KnownTasks(model, tokenizer, self.config)
        self.carried: Carried | None = None

    # What the founding document names

    @property
    def step_count(self) -> int:
        """Training steps taken."""
        return self.record.step_count

    @property
    def recent_losses(self) -> list[float]:
        """The last losses, oldest first."""
        return self.record.recent_losses

    @property
    def gradient_norms(self) -> list[float]:
        """The last gradient norms before clipping, oldest first."""
        return self.record.gradient_norms

    @property
    def edit_performance(self) -> dict[str, Any]:
        """What the bandit has learned of the edits, by task type and steps."""
        return self.bandit.report()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def train(self, mode: bool = True) -> Self:
        """Train many (True) or infer few (False); inference learns nothing."""
        self.bandit.frozen = not mode
        return super().train(mode)

    def register(
        self, task: Task | str, *, paraphrase: Paraphrase | None = None, **parts: Any
    ) -> None:
        """Make a task's symmetry and verifier known, for its augmentation and its halting.

        Args:
            task: A task, or the name of one (its ``task_type``).
            paraphrase: A function of a text that returns paraphrases of it.
            parts: ``symmetry`` and ``verify``, where ``task`` is a name.
        """
        self.tasks.register(task, paraphrase=paraphrase, **parts)

    def augmenter(self, task_type: str) -> Augmenter:
        """What augments a task type; its ``available`` and ``unavailable`` say how."""
        return self.tasks.augmenter(task_type)

    # Training

    def train_step(
        self,
        batch: AnyBatch,
        optimizer: torch.optim.Optimizer,
        task_type: str = "text",
        scheduler: Any = None,
    ) -> dict[str, Any]:
        """One optimiser step on a batch, unrolled as the settings say.

        Args:
            batch: ``(B, L)`` ids of plain data, which is masked at random; or
                :class:`Episodes` or a dictionary with ``input_ids`` (blanks to answer),
                ``labels`` and, optionally, ``attention_mask`` and ``task_ids``.
            optimizer: Over the model's parameters.
            task_type: What the bandit, the augmentation and the verifier go by.
            scheduler: Stepped where the optimiser was.

        Returns:
            ``loss``, ``token_loss``, ``gate_loss``, ``halt_loss``, ``memory_loss`` (nats;
            None where a term did not apply), ``smoothed_loss``, ``step_losses`` (token loss
            of each step), ``token_accuracy`` and ``exact_accuracy`` after the last step,
            ``gradient_norm`` before clipping, ``skipped``, ``edits`` (of each step),
            ``augmentations`` (rows per strategy), ``rows_replaced`` (``carry`` mode),
            ``memory_written``.

        Raises:
            DataError: The batch cannot be used.
            TrainingError: The gradient was not finite many steps in a row; weights,
                optimiser, filter, bandit, memory and carry are as after the last good step.
        """
        self.model.train()
        # A batch that was refused half-way may have left gradients behind.
        optimizer.zero_grad(set_to_none=True)
        generator = step_generator(self.config.seed, self.step_count, rank())
        given = read_batch(batch, self.model.special, self.model.config)
        question, counts = self._question(given, task_type, generator)
        task_ids = given.task_ids
        carried, replaced, first_step = self._under_way(question, task_ids, generator)
        if carried is not None:
            question, task_ids = carried.question, carried.task_ids
        question = replace(question, memory=self.recall(question.canvas, task_ids))
        objective = UnrollObjective(self.config, self.model, given.has_answers)
        experience = self.bandit.state_dict()
        with self.update.autocast():
            unrolled = objective.run(
                question,
                None if carried is None else carried.state,
                choose=partial(self.select_edit_strategy, task_type=task_type),
                backward=self.update.backward,
                first_step=first_step,
            )
        norm = self.update.apply(optimizer, unrolled.loss, self.record)
        written = 0
        if norm is not None:
            written = self._keep(question, unrolled, task_ids, carried, task_type)
            if scheduler is not None:
                scheduler.step()
        else:
            # Its choices of this step are taken back: they number the draws of the next ones.
            self.bandit.load_state_dict(experience)
            self.update.refuse_endless_skips(self.record)
        return {
            "loss": unrolled.loss,
            **{f"{term}_loss": value for term, value in unrolled.terms.items()},
            "smoothed_loss": self.record.smoothed_loss(self.config.loss_smoothing_window),
            "step_losses": unrolled.step_losses,
            "token_accuracy": unrolled.token_accuracy,
            "exact_accuracy": unrolled.exact_accuracy,
            "gradient_norm": norm,
            "skipped": norm is None,
            "edits": list(unrolled.edits),
            "augmentations": counts,
            "rows_replaced": replaced,
            "memory_written": written,
        }

    def apply_truncated_backprop(
        self, step_outputs: Sequence[Any], config: OrchestrationConfig | None = None
    ) -> list[Any]:
        """Detach all but the last ``backprop_truncate_steps`` outputs.

        Does what the founding document says, and no more: the activations of the detached
        steps are held for as long as a later step has a graph through them, so this saves
        no memory. ``unroll_mode`` cuts *while* unrolling, which does.

        Args:
            step_outputs: Tensors or anything with a ``detach`` method, in the order of steps.
            config: Default: the orchestrator's.
        """
        settings = self.config if config is None else config
        outputs = list(step_outputs)
        if not settings.truncated_backprop:
            return outputs
        early = max(len(outputs) - settings.backprop_truncate_steps, 0)
        return [output.detach() for output in outputs[:early]] + outputs[early:]

    def select_edit_strategy(
        self, step: int, canvas_scores: Tensor | Sequence[float] | None, task_type: str
    ) -> str:
        """The edit for a refinement step.

        Args:
            step: From 1.
            canvas_scores: ``(B,)`` mean token probabilities of the canvases as they stand.
                None, or zeros, says that nothing is written yet, so there is nothing to patch.
            task_type: Whose experience counts.

        Returns:
            A name among ``canvas_edit_strategies``.
        """
        available = self.available_edits()
        scores = None if canvas_scores is None else torch.as_tensor(canvas_scores)
        if scores is None or not bool((scores > 0).any()):
            others = tuple(name for name in available if name != "patch")
            available = others or available
        if not self.config.adaptive_edit_selection:
            return "replace" if "replace" in available else available[0]
        return self.bandit.select(task_type, step, available)

    def available_edits(self) -> tuple[str, ...]:
        """The edits that this model's canvases allow."""
        return available_edits(
            self.config.canvas_edit_strategies,
            length_fixed=self.model.config.length_mode != "eos",
            has_gate=self.model.config.use_refine_gate,
        )

    # Inference

    def inference(
        self,
        input_ids: Tensor | Sequence[int],
        *,
        attention_mask: Tensor | None = None,
        return_traces: bool = False,
        max_steps_override: int | None = None,
        task_type: str = "text",
        halting: Halting | None = None,
        votes: int = 1,
        vote_by: str = "count",
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 256,
    ) -> dict[str, Any]:
        """Fill the blanks of canvases in few steps.

        Args:
            input_ids: ``(B, L)``, or ``(L,)`` for one canvas; blanks as the mask id.
            attention_mask: ``(B, L)``, zero where there is padding.
            return_traces: Also return every step of every row under ``traces``.
            max_steps_override: Instead of ``max_steps_infer``.
            task_type: Whose bandit, verifier and symmetry count.
            halting: Instead of the settings' rules and the task's verifier.
            votes: Ask each question in up to so many symmetric forms and take the answer
                that most agree on; 1 asks once.
            vote_by: ``count`` or ``confidence``.
            temperature: Instead of the settings'; 0 takes the likeliest token.
            seed: Of the draws, for temperatures above 0.
            batch_size: Rows refined together; no row's result depends on it.

        Returns:
            Lists with one entry per row: ``steps_taken``, ``stopping_reason``,
            ``final_canvas_scores`` (mean token probability), ``halt_confidence`` (None without
            a halting head), ``forward_passes``, ``edits`` (per step), ``texts`` (where the
            tokenizer decodes). ``output_ids`` ``(B, L)``, padded. Also ``votes``, ``traces``
            (a :class:`~imadarem.sampling.trajectory.Trajectory`, or None),
            ``edit_strategy_performance`` and ``memory_stats``.

        Raises:
            DataError: The ids cannot be used.
            ConfigError: A setting is out of range.
        """
        ids = canvases_given(input_ids, attention_mask, self.model.special, self.model.config)
        if votes < 1 or batch_size < 1:
            raise ConfigError(f"votes={votes} and batch_size={batch_size} must be at least 1.")
        refuse_rule(vote_by)
        if temperature is not None and not 0 <= temperature < math.inf:
            raise ConfigError(f"temperature={temperature} must be a finite number of at least 0.")
        settings = SamplingSettings(
            policy=ChosenEdit(
                lambda step, scores: self.select_edit_strategy(step, scores, task_type)
            ),
            steps=self.config.max_steps_infer if max_steps_override is None else max_steps_override,
            temperature=self.config.temperature if temperature is None else temperature,
            stop_threshold=0.0,
            may_end=self.model.config.length_mode == "eos",
            halting=self.halting(task_type) if halting is None else halting,
            reinject=True,
        )
        training, frozen = self.model.training, self.bandit.frozen
        self.model.eval()
        self.bandit.frozen = True
        try:
            runner = Inference(self.model, self.tokenizer, settings, seed, batch_size, self.recall)
            if votes > 1:
                found = runner.vote(
                    ids.to(self.device), self.augmenter(task_type), votes, vote_by, return_traces
                )
            else:
                found = runner.run(ids.to(self.device), return_traces)
        finally:
            self.model.train(training)
            self.bandit.frozen = frozen
        return {
            **found,
            "edit_strategy_performance": self.edit_performance,
            "memory_stats": {} if self.memory_bank is None else self.memory_bank.get_stats(),
        }

    def halting(self, task_type: str) -> Halting:
        """The stopping rules of a task type."""
        return self.tasks.halting(task_type)

    def averaged(self) -> UnifiedRefinerOrchestrator:
        """One over the teacher's weights, for evaluation: same tasks, memory and experience.

        Raises:
            ConfigError: The model has no teacher.
        """
        other = UnifiedRefinerOrchestrator(
            self.model.averaged(), self.tokenizer, self.memory_bank, self.config
        )
        frozen = self.bandit.frozen
        other.eval()
        other.tasks.known = self.tasks.known
        other.bandit, other.record = self.bandit, self.record
        # The experience is shared, and it goes on to learn in training.
        self.bandit.frozen = frozen
        return other

    # Statistics and checkpoints

    def get_training_stats(self) -> dict[str, Any]:
        """Plain values, under the names of the founding document."""
        record = self.record
        return {
            "step_count": self.step_count,
            "training_mode": self.training,
            "gradient_norm": record.history(record.gradient_norms),
            "loss": record.history(record.recent_losses),
            "edit_strategy_performance": self.edit_performance,
            "memory_stats": {} if self.memory_bank is None else self.memory_bank.get_stats(),
            "config": self.config.to_dict(),
        }

    def get_stability(self) -> dict[str, Any]:
        """Skipped steps, how much losses and norms vary, and the smoothed loss."""
        smoothed = self.record.smoothed_loss(self.config.loss_smoothing_window)
        return {**self.record.stability(), "smoothed_loss": smoothed}

    def checkpoint(self) -> dict[str, Any]:
        """The state as one dictionary, under the names of the founding document and a few more."""
        return {"model_state": self.model.state_dict(), **state_beside_model(self)}

    def save_checkpoint(
        self,
        run_dir: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``checkpoints/step-…`` below ``run_dir``; the last good one stays until then.

        Args:
            run_dir: Made if it does not exist.
            optimizer: Saved too, for an exact resume.
            scheduler: Likewise.
            extra: Plain values of your own, such as the position in the data.

        Raises:
            CheckpointError: The disk is full or the place cannot be written.
        """
        save(self, Path(run_dir), optimizer, scheduler, dict(extra or {}))

    def load_checkpoint(
        self,
        run_dir: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
    ) -> dict[str, Any]:
        """Go on from the newest complete checkpoint of ``run_dir``, as if it had not stopped.

        Returns:
            The ``extra`` that was saved.

        Raises:
            CheckpointError: There is none, or it belongs to other settings.
        """
        return load(self, Path(run_dir), optimizer, scheduler)

    # Parts of a training step

    def _question(
        self, given: Batch, task_type: str, generator: torch.Generator
    ) -> tuple[Question, dict[str, int]]:
        """The batch, augmented, as questions; and the rows per strategy of augmentation."""
        augmenter = self.augmenter(task_type)
        ks = torch.randint(
            self.config.augmentation_count + 1, given.task_ids.shape, generator=generator
        )
        rows = augmenter.batch(given.inputs, given.labels, given.task_ids, ks)
        ids, labels = rows.inputs.to(self.device), rows.labels.to(self.device)
        if given.has_answers:
            canvas = canvas_of(ids, self.model.special)
        else:
            special, config = self.model.special, self.model.config
            canvas, labels = corrupted(labels, ids, special, config, generator)
        question = Question(
            canvas=canvas,
            labels=labels,
            may_end=self.model.config.length_mode == "eos",
        )
        return question, rows.counts()

    def recall(self, canvas: Canvas, exclude_task_ids: Tensor | None = None) -> Any:
        """What the memory has on these canvases, or None where it has nothing."""
        if self.memory_bank is None or not self.model.config.memory or not len(self.memory_bank):
            return None
        known = canvas.attended & ~canvas.open
        found = self.memory_bank.read(canvas.ids, known, exclude_task_ids=exclude_task_ids)
        return None if found.is_empty else found

    def _under_way(
        self, question: Question, task_ids: Tensor, generator: torch.Generator
    ) -> tuple[Carried | None, int, int]:
        """``carry`` mode: the rows under way, how many are new, and the step that they take."""
        if self.config.gradient_mode != "carry":
            return None, 0, 1
        carried, replaced = Carried.merged(self.carried, question, task_ids, self.config, generator)
        # Rows are at steps of their own; the edit is one for all, by their mean.
        (mean,) = mean_over_processes([float(carried.steps.float().mean())])
        return carried, replaced, 1 + round(mean)

    def _keep(
        self,
        question: Question,
        unrolled: Unrolled,
        task_ids: Tensor,
        carried: Carried | None,
        task_type: str,
    ) -> int:
        """What a good step leaves beside the weights; the rows written to the memory."""
        self._learn_edits(unrolled, task_type)
        if carried is not None:
            if unrolled.surprise is not None:
                # A row under way is no longer a surprise; only its first step says how much it was.
                unrolled.surprise[carried.steps > 0] = float("nan")
            self.carried = carried.after(unrolled, self.config)
        return self._remember(question, unrolled, task_ids)

    def _learn_edits(self, unrolled: Unrolled, task_type: str) -> None:
        if not self.config.adaptive_edit_selection:
            return
        rewards = mean_over_processes(unrolled.gains)
        for (step, edit), reward in zip(
            zip(unrolled.steps, unrolled.edits, strict=True), rewards, strict=True
        ):
            self.bandit.update(task_type, step, edit, reward)

    def _remember(self, question: Question, unrolled: Unrolled, task_ids: Tensor) -> int:
        """Offer the solved canvases to the memory, the same ones in every process."""
        if self.memory_bank is None or unrolled.surprise is None:
            return 0
        solved = torch.where(question.blanks, question.labels, question.canvas.ids)
        known = question.canvas.attended
        own = (solved.cpu(), known.cpu(), unrolled.surprise.cpu(), task_ids.cpu())
        return sum(int(self.memory_bank.write(*offer).sum()) for offer in gathered(own))

    def _check_model(self) -> None:
        config = self.model.config
        if self.config.gradient_mode == "carry" and not (config.carry or config.self_conditioning):
            raise ConfigError(
                "unroll_mode='carry' hands a state from one optimiser step to the next, and this "
                "model takes none. Build it with carry=True or self_conditioning=True."
            )
        if self.memory_bank is not None and not config.memory:
            warnings.warn(
                "a memory_bank was given, and this model cannot look at one, so it is written to "
                "and never read. Build the model with memory=True, or give memory_bank=None.",
                UserWarning,
                stacklevel=3,
            )


def _gradient_filter(config: OrchestrationConfig) -> GrokFastEma | None:
    if not config.grok_fast:
        return None
    return GrokFastEma(config.grok_fast_alpha, config.grok_fast_lamb)

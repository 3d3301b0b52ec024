"""Train many, infer few: the orchestrator over any refiner and any task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from imadarem import checks
from imadarem.data.tasks import Episodes, Task
from imadarem.orchestrator.augment import Augmenter, KnownTasks
from imadarem.orchestrator.bandit import DiscountedBandit
from imadarem.orchestrator.batch import canvases_given, questions, read_batch, recall, remember
from imadarem.orchestrator.carried import Carried
from imadarem.orchestrator.checkpoints import checkpoint, load_checkpoint, save_checkpoint
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.edits import available_edits
from imadarem.orchestrator.inference import ChosenEdit, Inference, check_width
from imadarem.orchestrator.memory import Memory, MemoryBank
from imadarem.orchestrator.paraphrase import Paraphrase
from imadarem.orchestrator.unroll import UnrollObjective
from imadarem.orchestrator.voting import RULES
from imadarem.sampling.halting import Halting
from imadarem.sampling.settings import SamplingSettings
from imadarem.training.step import (
    GuardedUpdate,
    TrainingRecord,
    mean_over_processes,
    step_generator,
)

AnyBatch = Tensor | Episodes | Mapping[str, Tensor]


class UnifiedRefinerOrchestrator(nn.Module):
    """Trains a refiner by unrolling many steps, and runs it with few: it stops when it is sure.

    ::

        orchestrator = UnifiedRefinerOrchestrator(model, tokenizer, memory_bank, config)
        orchestrator.train()
        loss_info = orchestrator.train_step(batch, optimizer, task_type="text")
        orchestrator.eval()
        result = orchestrator.inference(input_ids)

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`, or another ``nn.Module`` with
            ``config``, ``special`` and ``teacher`` that is called as
            ``model(input_ids, attention_mask, prev_probs=...)``, with ``carry=`` and ``memory=``
            where its config says so.
        tokenizer: Of the model; decodes results and helps to augment text. May be None.
        memory_bank: A :class:`~imadarem.orchestrator.memory.MemoryBank`, which takes the model's
            vocabulary where it has none, or your own; the model must be built with
            ``memory=True`` to look at it. May be None.
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
        if isinstance(memory_bank, MemoryBank) and memory_bank.vocab_size is None:
            memory_bank.use_vocabulary(model.config.vocab_size, model.special.pad)
        self.config = OrchestrationConfig() if config is None else config
        self.config.check_model(model.config, has_memory=memory_bank is not None)
        # "replace" wins ties, so that a bandit without experience does the plain thing.
        arms = sorted(self.config.canvas_edit_strategies, key=lambda name: name != "replace")
        self.bandit = DiscountedBandit(arms, seed=self.config.seed)
        self.record = TrainingRecord()
        self.update = GuardedUpdate(
            model,
            clip=self.config.gradient_clip_threshold,
            precision=self.config.mixed_precision,
            grok_fast=self.config.gradient_filter(),
        )
        self.tasks = KnownTasks(model, tokenizer, self.config)
        self.objectives = {
            answers: UnrollObjective(self.config, model, answers) for answers in (False, True)
        }
        self.carries = self.config.gradient_mode == "carry"
        self.carried: Carried | None = None

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

        ``task`` is one, or the name of one (its ``task_type``) with ``symmetry=`` and ``verify=``;
        ``paraphrase`` is a function of a text that returns paraphrases of it.
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
            of each step), ``step_weights`` (their shares of the loss; the first step of plain
            data has at least ``base_loss_share``), ``graph_cuts`` (steps after which the gradient
            was cut), ``token_accuracy`` and ``exact_accuracy`` after the last step,
            ``gradient_norm`` before clipping, ``skipped``, ``edits`` (of each step),
            ``augmentations`` (rows per strategy), ``augmentations_left_out`` (strategy → why it is
            not used, or not in some rows), ``rows_replaced`` (``carry`` mode), ``memory_written``.

        Raises:
            DataError: The batch cannot be used.
            TrainingError: The gradient was not finite many steps in a row; weights,
                optimiser, filter, bandit, memory and carry are as after the last good step.
        """
        self.model.train()
        # A batch that was refused half-way may have left gradients behind.
        optimizer.zero_grad(set_to_none=True)
        generator = step_generator(self.config.seed, self.step_count)
        given = read_batch(batch, self.model.special, self.model.config)
        count, known = self.config.augmentation_count, self.augmenter(task_type)
        question, augmented = questions(given, known, self.model, count, generator)
        task_ids, carried, replaced = given.task_ids, None, 0
        if self.carries:
            carried, replaced = Carried.merged(
                self.carried, question, task_ids, self.config, generator
            )
            question, task_ids = carried.question, carried.task_ids
        memory = recall(self.memory_bank, self.model, question.canvas, task_ids)
        question = replace(question, memory=memory)
        experience = self.bandit.state_dict()
        with self.update.autocast():
            unrolled = self.objectives[given.has_answers].run(
                question,
                None if carried is None else carried.state,
                choose=partial(self.select_edit_strategy, task_type=task_type),
                backward=self.update.backward,
                first_step=1 if carried is None else carried.next_step,
            )
        norm = self.update.apply(optimizer, unrolled.loss, self.record)
        written = 0
        if norm is not None:
            if self.config.adaptive_edit_selection:
                rewards = mean_over_processes(unrolled.gains)
                for step, edit, reward in zip(unrolled.steps, unrolled.edits, rewards, strict=True):
                    self.bandit.update(task_type, step, edit, reward)
            if carried is not None:
                self.carried = carried.after(unrolled, self.config)
            written = remember(self.memory_bank, question, unrolled.surprise, task_ids)
            if scheduler is not None:
                scheduler.step()
        else:
            # The choices of this step are undone: they number the draws of the next ones.
            self.bandit.load_state_dict(experience)
            self.update.refuse_endless_skips(self.record)
        return {
            **unrolled.report(),
            "smoothed_loss": self.record.smoothed_loss(self.config.loss_smoothing_window),
            "gradient_norm": norm,
            "skipped": norm is None,
            "augmentations": augmented.counts(),
            "augmentations_left_out": known.unavailable | augmented.passed_over(),
            "rows_replaced": replaced,
            "memory_written": written,
        }

    def apply_truncated_backprop(
        self, step_outputs: Sequence[Any], config: OrchestrationConfig | None = None
    ) -> list[Any]:
        """Detach all but the last ``backprop_truncate_steps`` outputs.

        :meth:`train_step` does not call it: the activations of the detached steps are held until
        the backward pass, so it saves no memory. ``unroll_mode`` cuts *while* unrolling.

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
                Nothing else depends on them: a row's result must not depend on other rows.
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
        width: int = 1,
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
            width: Candidates of a question whose first answer is neither verified nor certain by
                the halting head; they differ by noise in the carry, and the best one is taken.
            votes: Symmetric forms in which each question is asked; the most frequent answer wins.
            vote_by: ``count`` or ``confidence``.
            temperature: Instead of the settings'; 0 takes the likeliest token.
            seed: Of the draws, for temperatures above 0.
            batch_size: Rows refined together; no row's result depends on it.

        Returns:
            Lists with one entry per row: ``steps_taken``, ``stopping_reason``,
            ``final_canvas_scores`` (mean token probability), ``halt_confidence`` (None without
            a halting head), ``forward_passes``, ``candidates``, ``edits`` (per step), ``texts``
            (where the tokenizer decodes). ``output_ids`` ``(B, L)``, padded, and with ``votes``
            above 1 ``second_output_ids``, the runner-up's (ARC counts two). Also ``votes``,
            ``traces`` (a :class:`~imadarem.sampling.trajectory.Trajectory`, or None),
            ``edit_strategy_performance`` and ``memory_stats``.

        Raises:
            DataError: The ids cannot be used.
            ConfigError: A setting is out of range.
        """
        ids = canvases_given(input_ids, attention_mask, self.model.special, self.model.config)
        checks.at_least(1, width=width, votes=votes, batch_size=batch_size)
        check_width(width, votes, self.model.config)
        checks.one_of("vote_by", vote_by, RULES)
        settings = SamplingSettings(
            policy=ChosenEdit(partial(self.select_edit_strategy, task_type=task_type)),
            steps=self.config.max_steps_infer if max_steps_override is None else max_steps_override,
            temperature=self.config.temperature if temperature is None else temperature,
            may_end=self.model.config.length_mode == "eos",
            halting=self.halting(task_type) if halting is None else halting,
            reinject=True,
        )
        look_up = partial(recall, self.memory_bank, self.model)
        runner = Inference(self.model, self.tokenizer, settings, seed, batch_size, look_up)
        ids = ids.to(self.device)
        training, frozen = self.model.training, self.bandit.frozen
        self.model.eval()
        self.bandit.frozen = True
        try:
            if votes > 1:
                augmenter = self.augmenter(task_type)
                found = runner.vote(ids, augmenter, votes, vote_by, return_traces)
            else:
                found = runner.run(ids, return_traces, width)
        finally:
            self.model.train(training)
            self.bandit.frozen = frozen
        return {
            **found,
            "edit_strategy_performance": self.edit_performance,
            "memory_stats": self._memory_stats(),
        }

    def halting(self, task_type: str) -> Halting:
        """The stopping rules of a task type: the settings', and its verifier where it has one."""
        task, config = self.tasks.known.get(task_type), self.config
        return Halting(
            verify=None if task is None else task.verify,
            confidence=config.halt_confidence,
            quality=config.quality_threshold,
            patience=config.patience,
        )

    def averaged(self) -> UnifiedRefinerOrchestrator:
        """One over the teacher's weights, for evaluation: same tasks, memory and experience."""
        model = self.model.averaged()
        other = UnifiedRefinerOrchestrator(model, self.tokenizer, self.memory_bank, self.config)
        # Its own bandit is frozen; the experience is shared, and goes on to learn in training.
        other.eval()
        other.tasks.known = self.tasks.known
        other.bandit, other.record = self.bandit, self.record
        return other

    def get_training_stats(self) -> dict[str, Any]:
        """Plain values, under the names of the API."""
        return {
            "step_count": self.step_count,
            "training_mode": self.training,
            "gradient_norm": self.record.history(self.gradient_norms),
            "loss": self.record.history(self.recent_losses),
            "edit_strategy_performance": self.edit_performance,
            "memory_stats": self._memory_stats(),
            "config": self.config.to_dict(),
        }

    def _memory_stats(self) -> dict[str, Any]:
        return {} if self.memory_bank is None else self.memory_bank.get_stats()

    def get_stability(self) -> dict[str, Any]:
        """Skipped steps, how much losses and norms vary, and the smoothed loss."""
        window = self.config.loss_smoothing_window
        return {**self.record.stability(), "smoothed_loss": self.record.smoothed_loss(window)}

    checkpoint = checkpoint
    save_checkpoint = save_checkpoint
    load_checkpoint = load_checkpoint

"""Plain bidirectional models, trained for one pass and without an unroll, to compare with.

Same puzzles, augmentation, optimiser, batch and loss as the refiner; equal CPU seconds. On
half of the rows of a batch a random share of the blanks is revealed, freshly each time: a
plain model is run by filling the surest blanks first, and so it reads half-solved grids,
which the refiner never does.

=========  ==================================================  ============================
variant    blocks                                              compared with the refiner
=========  ==================================================  ============================
same       one, as often in a pass as the refiner's            same parameters and pass
shallow    one, once in a pass                                 same parameters, cheaper pass
deep       as many as the refiner runs in four passes          passes of four times the cost
=========  ==================================================  ============================
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.data.corpus import LengthBuckets
from imadarem.data.tasks import Episodes, Task
from imadarem.nn import RefinementTransformer
from imadarem.orchestrator.batch import canvas_of
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.inference import padded
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.sampling.batching import refine_all
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import Confidence
from imadarem.sampling.settings import SamplingSettings
from imadarem.training.optim import build_optimizer, learning_rate_factor, parameter_groups

VARIANTS = ("same", "shallow", "deep")
#: Refinement steps whose blocks ``deep`` has, one after the other, with weights of their own.
DEEP_STEPS = 4
RECORD = "plain.json"
WARMUP_STEPS = 50
#: Points of the schedule, which goes by time and not by steps.
FINE = 10_000


@dataclass(frozen=True, kw_only=True)
class Plain:
    """How a plain model came about.

    Attributes:
        variant: See the module.
        parameters: Numbers that training changed.
        blocks: Runs of a block in one pass.
        seconds: CPU seconds asked for.
        cpu_seconds: Spent on training.
        steps: Optimiser steps in that time.
        episodes: Rows seen.
        last_loss: Mean token loss of the last 50 steps, nats per blank.
    """

    variant: str
    parameters: int
    blocks: int
    seconds: float
    cpu_seconds: float
    steps: int
    episodes: int
    last_loss: float


def variant(name: str, refiner: ImplicitRefinementConfig) -> ImplicitRefinementConfig:
    """The settings of a plain model beside those of a refiner.

    It has no carry, no halting head, and is not told its last pass; for that, the
    feed-forward layer of ``same`` and ``shallow`` is widened until there are as many
    parameters.
    """
    plain = replace(refiner, carry=False, halting=False, self_conditioning=False, memory=False)
    if name == "deep":
        layers = refiner.num_layers * refiner.inner_steps * DEEP_STEPS
        return replace(plain, num_layers=layers, inner_steps=1)
    if name == "shallow":
        plain = replace(plain, inner_steps=1)
    wanted = parameters(refiner)
    while parameters(plain) < wanted:
        plain = replace(plain, intermediate_size=plain.feed_forward_size + 1)
    return plain


def parameters(config: ImplicitRefinementConfig) -> int:
    """Numbers that training changes."""
    network = RefinementTransformer(config, mask_token_id=1)
    return sum(p.numel() for p in network.parameters())


def train_plain(
    name: str,
    refiner: ImplicitRefinementConfig,
    task: Task,
    seconds: float,
    folder: Path,
    *,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    optimizer: str = "muon",
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> Plain:
    """Train a variant for so many CPU seconds of this process, and save it in ``folder``."""
    torch.manual_seed(seed)
    model = ImplicitRefinementModel(variant(name, refiner), tokenizer=task.tokenizer)
    model.init_teacher()
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, one_pass(seed))
    orchestrator.register(task)
    orchestrator.train()
    groups = parameter_groups(model, learning_rate, 0.01, 1.0)
    updates = build_optimizer(optimizer, groups, steps=FINE)
    rates = [group["lr"] for group in updates.param_groups]
    batches = Batches(task, model.special.pad, model.special.mask, batch_size, seed)
    losses: list[float] = []
    begun, spent, step = time.process_time(), 0.0, 0
    while spent < seconds:
        share = spent / seconds
        factor = learning_rate_factor(int(FINE * share), FINE, 0, "wsd")
        factor *= min(1.0, (step + 1) / WARMUP_STEPS)
        for group, rate in zip(updates.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        info = orchestrator.train_step(batches.of(step), updates, task_type=task.name)
        losses.append(info["token_loss"])
        step += 1
        spent = time.process_time() - begun
        if step % 200 == 0:
            tell(f"{name}: {spent:.0f} of {seconds:g} s, step {step}, {np.mean(losses[-50:]):.3f}")
    blocks = model.config.num_layers * model.config.inner_steps
    made = Plain(
        variant=name,
        parameters=parameters(model.config),
        blocks=blocks,
        seconds=seconds,
        cpu_seconds=spent,
        steps=step,
        episodes=step * batches.size,
        last_loss=float(np.mean(losses[-50:])),
    )
    model.averaged().save_pretrained(folder)
    # Last: it marks the folder as complete.
    (folder / RECORD).write_text(json.dumps(asdict(made), indent=2) + "\n")
    return made


def load_plain(folder: Path) -> tuple[Plain, ImplicitRefinementModel] | None:
    """What :func:`train_plain` left in a folder, or None."""
    if not (folder / RECORD).is_file():
        return None
    made = Plain(**json.loads((folder / RECORD).read_text()))
    return made, ImplicitRefinementModel.from_pretrained(folder).eval()


def decode(
    model: ImplicitRefinementModel, inputs: Tensor, steps: int, batch_size: int = 256
) -> tuple[Tensor, float]:
    """Fill ``(N, L)`` questions in ``steps`` passes, the surest blanks first.

    Returns:
        The answers ``(N, L)``, and the mean number of passes: a row with fewer blanks than
        steps is done sooner.
    """
    settings = SamplingSettings(
        policy=Confidence(gumbel=0.0),
        steps=steps,
        temperature=0.0,
        stop_threshold=0.0,
        may_end=False,
    )
    canvas = canvas_of(inputs, model.special)
    seeds = row_seeds(len(inputs), 0)
    rows = refine_all(model, canvas, seeds, settings, batch_size=batch_size)
    passes = sum(row.forward_passes for row in rows) / len(rows)
    return padded(inputs, rows, model.special.pad), passes


def one_pass(seed: int) -> OrchestrationConfig:
    with warnings.catch_warnings():
        # One step lies outside what is usual, which is the point here.
        warnings.simplefilter("ignore", UserWarning)
        return OrchestrationConfig(
            max_steps_train=1,
            unroll_mode="full",
            canvas_edit_strategies=["replace"],
            adaptive_edit_selection=False,
            seed=seed,
        )


class Batches:
    """Batches of a task by step, cropped, with some of the blanks revealed."""

    def __init__(self, task: Task, pad: int, mask: int, batch_size: int, seed: int) -> None:
        self.train, self.mask, self.seed = task.train, mask, seed
        self.lengths = (task.train.inputs != pad).sum(dim=1)
        self.buckets = LengthBuckets(self.lengths.numpy(), batch_size, seed)

    @property
    def size(self) -> int:
        return self.buckets.batch_size

    def of(self, step: int) -> Episodes:
        chosen = torch.from_numpy(self.buckets.batch(step))
        rows, width = self.train.rows(chosen), int(self.lengths[chosen].max())
        part = Episodes(rows.inputs[:, :width], rows.labels[:, :width], rows.task_ids)
        return self.revealed(part, torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def revealed(self, rows: Episodes, generator: torch.Generator) -> Episodes:
        """On half of the rows a random share of the blanks shows its label; one stays."""
        count = len(rows)
        share = torch.rand(count, 1, generator=generator)
        share *= torch.rand(count, 1, generator=generator) < 0.5
        order = torch.rand(rows.inputs.shape, generator=generator)
        blank = rows.inputs == self.mask
        last = order.masked_fill(~blank, -1.0).argmax(dim=1, keepdim=True)
        shown = blank & (order < share)
        shown.scatter_(1, last, False)
        return Episodes(torch.where(shown, rows.labels, rows.inputs), rows.labels, rows.task_ids)

"""What an unroll holds in memory for its backward pass, and what it costs, mode by mode.

    OMP_NUM_THREADS=1 python benchmarks/unroll_memory.py            about two minutes
    OMP_NUM_THREADS=1 python benchmarks/unroll_memory.py --quick    memory alone, fewer rounds

Each mode runs the same ``train_step`` of the orchestrator, 16 refinement steps (``carry``:
one) on the same batch: 9x9 sudoku with the architecture of the shipped model, and plain text
with a refiner of usual make. Counted is the peak of the bytes that autograd holds at once:
every storage once, by its address, parameters left out. Wanted: ``window`` 8 of 16 at most
55 % of ``full``, ``carry`` at most 15 %.

The last line detaches the outputs of a full unroll *after* it, by ``apply_truncated_backprop``,
and looks at what is held then: detaching frees nothing that the later steps were made from.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.data.sudoku import relations, sudoku_episodes, sudoku_tokenizer
from imadarem.data.tasks import Episodes
from imadarem.orchestrator.batch import Question, canvas_of
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.edits import edit_mask
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.orchestrator.unroll import Plan, StepOutput, UnrollState, unroll

STEPS = 16
#: Mode by the name it is printed under: unroll mode and backprop_truncate_steps.
MODES = {
    "full": ("full", STEPS),
    "window 8": ("window", 8),
    "window 4": ("window", 4),
    "window 2": ("window", 2),
    "last_k 8": ("last_k", 8),
    "carry": ("carry", 1),
}
WANTED = {"window 8": 0.55, "carry": 0.15}
PAD, MASK, EOS = 0, 1, 2


@dataclass(eq=False)
class Held:
    """A saved tensor under watch."""

    tensor: Tensor


class Ledger:
    """Bytes that autograd holds: each storage once, for as long as a graph needs it.

    Args:
        left_out: Tensors whose storages count for nothing (parameters).
    """

    def __init__(self, left_out: Iterator[Tensor]) -> None:
        self.left_out = {tensor.untyped_storage().data_ptr() for tensor in left_out}
        self.holders: dict[int, int] = {}
        self.bytes = self.peak = 0

    @contextmanager
    def watching(self) -> Iterator[Ledger]:
        """Count what is saved within."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor):
            yield self

    def _pack(self, tensor: Tensor) -> Held:
        # The tensor itself would hold its graph, which holds this: detached, it does not.
        held = Held(tensor.detach())
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self.left_out:
            if self.holders.get(address, 0) == 0:
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
            self.holders[address] = self.holders.get(address, 0) + 1
            weakref.finalize(held, self._release, address, storage.nbytes())
        return held

    def _release(self, address: int, size: int) -> None:
        self.holders[address] -= 1
        if self.holders[address] == 0:
            self.bytes -= size


@dataclass(frozen=True)
class Row:
    """One mode on one problem.

    Attributes:
        problem: What was unrolled.
        mode: How.
        megabytes: Peak of what autograd held, 10⁶ bytes.
        of_full: The same as a share of mode ``full``.
        cpu_seconds: Median CPU time of a train step; None where it was not timed.
        wanted: Largest share that is a pass, if there is one.
    """

    problem: str
    mode: str
    megabytes: float
    of_full: float
    cpu_seconds: float | None = None
    wanted: float | None = None

    @property
    def verdict(self) -> str:
        if self.wanted is None:
            return ""
        return "PASS" if self.of_full <= self.wanted else "MISS"


@dataclass(frozen=True)
class Problem:
    """A model and a batch to train it on.

    Attributes:
        name: As it is printed.
        make: Builds the model, the same one each time.
        batch: Episodes, or ids of plain data.
        task_type: Of the batch.
    """

    name: str
    make: Callable[[], ImplicitRefinementModel]
    batch: Episodes | Tensor
    task_type: str


# ---------------------------------------------------------------- the two problems


def sudoku(batch_size: int) -> Problem:
    """9x9 with 32 givens, with the architecture of ``scripts/train_sudoku_model.py``."""
    tokenizer = sudoku_tokenizer()
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_layers=1,
        intermediate_size=128,
        max_seq_len=81,
        dropout=0.0,
        positions=False,
        attention=False,
        relations=[relations(9)],
        inner_steps=4,
        carry=True,
        halting=True,
        length_mode="drawn",
    )
    episodes = sudoku_episodes(9, batch_size, givens=32)
    return Problem(
        f"sudoku 9x9, batch {batch_size}",
        lambda: ImplicitRefinementModel(config, tokenizer=tokenizer),
        episodes,
        "sudoku",
    )


def text(batch_size: int, length: int) -> Problem:
    """Random ids: width 128, 4 layers with attention and convolution, 1,000 tokens."""
    config = ImplicitRefinementConfig(
        vocab_size=1000,
        hidden_size=128,
        num_layers=4,
        max_seq_len=length,
        dropout=0.0,
        conv_kernel_size=5,
        carry=True,
        halting=True,
        length_mode="drawn",
    )
    special = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, eos_token_id=EOS)
    ids = torch.randint(EOS + 1, 1000, (batch_size, length), generator=generator())
    return Problem(
        f"text of {length} tokens, batch {batch_size}",
        lambda: ImplicitRefinementModel(config, tokenizer=special),
        ids,
        "text",
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def orchestrator(problem: Problem, mode: str) -> UnifiedRefinerOrchestrator:
    torch.manual_seed(0)
    unroll_mode, window = MODES[mode]
    config = OrchestrationConfig(
        max_steps_train=STEPS,
        backprop_truncate_steps=window,
        unroll_mode=unroll_mode,
        augmentation_strategies=[],
        canvas_edit_strategies=["replace"],
    )
    return UnifiedRefinerOrchestrator(problem.make(), config=config).train()


# ---------------------------------------------------------------- measuring


def peak_bytes(problem: Problem, mode: str) -> int:
    """Most that autograd held at once during a train step."""
    runner = orchestrator(problem, mode)
    optimizer = torch.optim.AdamW(runner.model.parameters(), lr=1e-3)
    # The second step of carry starts from a state; all modes are measured on their second.
    runner.train_step(problem.batch, optimizer, task_type=problem.task_type)
    gc.collect()
    ledger = Ledger(runner.model.parameters())
    with ledger.watching():
        runner.train_step(problem.batch, optimizer, task_type=problem.task_type)
    return ledger.peak


def step_seconds(problem: Problem, modes: Sequence[str], rounds: int) -> dict[str, float]:
    """Median CPU seconds of a train step; the modes take turns."""
    runners = {mode: orchestrator(problem, mode) for mode in modes}
    optimizers = {
        mode: torch.optim.AdamW(runner.model.parameters(), lr=1e-3)
        for mode, runner in runners.items()
    }
    spent: dict[str, list[float]] = {mode: [] for mode in modes}
    for turn in range(rounds + 1):
        for mode, runner in runners.items():
            begun = time.process_time()
            runner.train_step(problem.batch, optimizers[mode], task_type=problem.task_type)
            if turn > 0:
                spent[mode].append(time.process_time() - begun)
    return {mode: statistics.median(seconds) for mode, seconds in spent.items()}


def detached_afterwards(problem: Problem) -> tuple[int, int]:
    """Bytes held by a full unroll, before and after its early outputs are detached."""
    runner = orchestrator(problem, "full")
    question = as_question(problem, runner.model)
    ledger = Ledger(runner.model.parameters())
    with ledger.watching():
        outputs = all_outputs(runner.model, question, runner.config)
        before = ledger.bytes
        settings = OrchestrationConfig(max_steps_train=STEPS, backprop_truncate_steps=8)
        outputs = runner.apply_truncated_backprop(outputs, settings)
        gc.collect()
        after = ledger.bytes
        # The last outputs must live until here, or the graph would be gone with them.
        assert outputs[-1].log_probs.requires_grad and not outputs[0].log_probs.requires_grad
    return before, after


def as_question(problem: Problem, model: ImplicitRefinementModel) -> Question:
    if isinstance(problem.batch, Episodes):
        return Question(canvas_of(problem.batch.inputs, model.special), problem.batch.labels)
    hidden = torch.rand(problem.batch.shape, generator=generator()) < 0.5
    inputs = problem.batch.masked_fill(hidden, MASK)
    return Question(canvas_of(inputs, model.special), problem.batch)


def all_outputs(
    network: nn.Module, question: Question, config: OrchestrationConfig
) -> list[StepOutput]:
    plan = Plan.of(config, has_answers=True)

    def replace(step: int, open: Tensor, written: Tensor, gate: Tensor) -> Tensor:
        return edit_mask("replace", open, written, gate)

    return [
        output
        for _, output in unroll(network, question, UnrollState(question.canvas.ids), plan, replace)
    ]


def measure(problem: Problem, rounds: int) -> list[Row]:
    peaks = {mode: peak_bytes(problem, mode) for mode in MODES}
    seconds = step_seconds(problem, list(MODES), rounds) if rounds else {}
    full = peaks["full"]
    rows = [
        Row(problem.name, mode, peak / 1e6, peak / full, seconds.get(mode), WANTED.get(mode))
        for mode, peak in peaks.items()
    ]
    before, after = detached_afterwards(problem)
    return [*rows, Row(problem.name, "full, detached afterwards", after / 1e6, after / before)]


# ---------------------------------------------------------------- printing


def to_markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| problem | mode | held, MB | of full | wanted | CPU s per train step |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        wanted = "" if row.wanted is None else f"≤ {row.wanted:.0%}: {row.verdict}"
        seconds = "" if row.cpu_seconds is None else f"{row.cpu_seconds:.3f}"
        lines.append(
            f"| {row.problem} | {row.mode} | {row.megabytes:.1f} | {row.of_full:.1%} "
            f"| {wanted} | {seconds} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32, help="of the sudoku")
    parser.add_argument("--text-batch-size", type=int, default=16)
    parser.add_argument("--text-length", type=int, default=64, help="tokens")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each mode")
    parser.add_argument("--quick", action="store_true", help="memory alone")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for problem in (sudoku(args.batch_size), text(args.text_batch_size, args.text_length)):
        rows += measure(problem, 0 if args.quick else args.rounds)
    print(to_markdown(rows))
    if args.json is not None:
        kept = [asdict(row) | {"verdict": row.verdict} for row in rows]
        args.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
